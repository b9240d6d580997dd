"""Reports on routes, as JSON: pure functions of sums and state."""
