"""Deciding by features of a request."""
