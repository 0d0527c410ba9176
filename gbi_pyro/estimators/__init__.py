"""Estimators with scikit-learn's interface, for its pipelines, searches and cross-validation.

``TaskClassifier`` infers the class of each sample, ``SequenceTaskModel`` the hidden states of
sequences without labels. They take arrays and pandas or polars frames, return arrays, and can be
cloned and pickled. Importing this package loads scikit-learn.
"""

from gbi_pyro.estimators.classifier import TaskClassifier
from gbi_pyro.estimators.sequences import SequenceTaskModel

__all__ = ["SequenceTaskModel", "TaskClassifier"]
