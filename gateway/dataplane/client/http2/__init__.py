"""HTTP/2 towards clients: each stream carries one request like a connection of HTTP/1.1."""
