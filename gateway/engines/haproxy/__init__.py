"""HAProxy's configuration for the routes of a fleet, and the agent of each HAProxy."""
