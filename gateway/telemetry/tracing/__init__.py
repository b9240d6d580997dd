"""Traces: context, spans, and their export."""
