"""Envoy's configuration for the routes of a fleet, and the rows that it logs. Pure functions."""
