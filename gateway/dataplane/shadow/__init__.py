"""Copies of requests whose responses no client sees, and their comparison."""
