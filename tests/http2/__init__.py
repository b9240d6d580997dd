"""HTTP/2 without I/O, and through the gateway."""
