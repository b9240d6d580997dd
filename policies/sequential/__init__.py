"""Tests and intervals that hold however often they are looked at."""
