"""Threads, processes and loops, and how they share a core with the event loop."""
