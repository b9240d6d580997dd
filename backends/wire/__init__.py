"""The Open Inference Protocol v2 as bytes: requests in, answers out. Knows no model and no socket."""
