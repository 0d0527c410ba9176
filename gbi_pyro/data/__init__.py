"""Data with known truth, and readers of real data."""
