"""Infer which task is going on, and say how sure the answer is."""
