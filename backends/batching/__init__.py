"""Requests into batches: a bounded queue per version, and a thread per instance that empties it."""
