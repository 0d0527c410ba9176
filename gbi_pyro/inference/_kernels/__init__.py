"""Recursions of hidden (semi-)Markov chains: compiled, and in log space for any numbers."""
