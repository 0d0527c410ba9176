"""Ablations on the toy stream: task inputs, conditioners, regularisers, forgetting."""
