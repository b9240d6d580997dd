"""From an assignment to the response: attempts, failures, relay, outcome."""
