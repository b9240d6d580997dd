"""Envoy's configuration for the routes of a fleet. Pure functions."""
