"""Fleets of other proxies that serve routes on Turnout's allocations."""
