"""The studies of the paper and of this project, run from a checkout: ``python -m studies``."""
