"""API servers: processes that speak HTTP and check tensors, in front of the one process that has the models."""
