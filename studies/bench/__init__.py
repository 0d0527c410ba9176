"""The benchmark of task inference: problems with known posteriors, and inferences."""
