"""The backends behind every peer: nginx for plain answers, a small protocol for streams and faults."""
