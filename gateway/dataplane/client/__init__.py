"""The side towards clients: connections, parsing, refusals."""
