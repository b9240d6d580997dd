"""Routes whose shares are the weights of a Kubernetes HTTPRoute."""
