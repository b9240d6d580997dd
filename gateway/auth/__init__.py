"""Who makes a request: a credential becomes a principal."""
