"""What is known of a route, as JSON: pure functions of sums and state."""
