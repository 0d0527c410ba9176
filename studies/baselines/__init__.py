"""Baselines of one pass: nearest centroids and recognisers beside one gradient step, on images."""
