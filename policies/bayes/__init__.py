"""Priors, posteriors, and exact comparisons between them."""
