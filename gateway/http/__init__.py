"""What transport and data plane share of HTTP: header fields and origins."""
