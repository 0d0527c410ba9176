"""One network conditioned on its task or not, trained on several seeds: runs to compare."""
