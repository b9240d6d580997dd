"""What a request is and what it is assigned to."""
