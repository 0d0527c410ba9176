"""Pyro models with neural likelihoods and marked task sites."""
