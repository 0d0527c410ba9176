"""The study of learning without task labels, ``gbi-pyro discover``."""
