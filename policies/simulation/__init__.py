"""Synthetic worlds and the policies in them; imported by commands and benchmarks only."""
