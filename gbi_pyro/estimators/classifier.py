"""A generative classifier with scikit-learn's interface, whose classes are the tasks of a model."""

from __future__ import annotations

import warnings
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from gbi_pyro.estimators._class_model import ClassModel
from gbi_pyro.estimators._scaling import whitening
from gbi_pyro.estimators._validate import check_whole
from gbi_pyro.inference import Enumeration, OneStepGradient, calibrate

Infer = Literal["enumeration", "one step", "calibrated"]
Noise = Literal["full", "diagonal"]


class TaskClassifier(ClassifierMixin, BaseEstimator):
    r"""Classify samples by a generative model, its class inferred exactly or by one gradient step.

    A sample x of class z = k is Gaussian around a network's mean of the class,

        p(x) = sum_k pi_k N(x; f(e_k), s^2 C)

    with pi the frequencies of the classes and C the covariance within classes, which is estimated
    first. Weights of f and s are fitted by maximum likelihood (``clamped_loss``). f is affine in z
    without hidden units: linear discriminant analysis, shrunk for few samples. Features are
    brought to unit size inside.

    Args:
        hidden: units of f, one layer of tanh; fewer than the number of classes restrict the means.
        noise: ``"full"``, C has all covariances; or ``"diagonal"``.
        infer: how the class is inferred: by ``"enumeration"``, exact, a forward pass for each
            class; by ``"one step"`` of the gradient, one forward and one backward pass for any
            number of classes, biased for three or more (``OneStepGradient``); or ``"calibrated"``,
            one step corrected by what enumeration finds of the training data (``calibrate``).
        max_iter: iterations of L-BFGS at most.
        random_state: draws the first weights.

    Attributes:
        classes_: the labels, sorted, ``(K,)``.
        class_prior_: pi, ``(K,)``.
        calibration_: the ``Calibration``, or None.
        model_: the Pyro model of the features, brought to unit noise.
        n_iter_: iterations that the fit took.
        n_features_in_: d.
        feature_names_in_: the columns of the frame, if it was fitted to one.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> round(TaskClassifier(infer="calibrated", random_state=0).fit(X, y).score(X, y), 2)
    0.98
    """

    def __init__(
        self,
        hidden: int = 0,
        *,
        noise: Noise = "full",
        infer: Infer = "enumeration",
        max_iter: int = 500,
        random_state: Any = None,
    ) -> None:
        self.hidden = hidden
        self.noise = noise
        self.infer = infer
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the model to samples and their classes.

        Args:
            X: an array or a data frame of numbers, ``(n, d)``.
            y: labels of any kind, ``(n,)``.

        Raises:
            ValueError: for an option that is out of range, numbers that are missing, fewer than two
                classes, and a calibration that the data do not determine (see ``calibrate``).
        """
        self._check_options()
        X, y = validate_data(self, X, y, dtype=np.float64, order="C")
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        K = len(self.classes_)
        if K < 2:
            raise ValueError(
                f"y should hold two classes at least; got one class, {self.classes_.tolist()[0]!r}"
            )
        self.class_prior_ = np.bincount(labels) / len(labels)
        self._scaling = whitening(X, labels, full=self.noise == "full")
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        generator = torch.Generator().manual_seed(int(seed))
        log_prior = torch.from_numpy(np.log(self.class_prior_))
        self.model_ = ClassModel(log_prior, X.shape[1], self.hidden, generator)
        x, z = self._scaling(X), torch.eye(K, dtype=torch.float64)[torch.from_numpy(labels)]
        self.n_iter_ = self.model_.fit(x, z, self.max_iter)
        if self.n_iter_ >= self.max_iter:
            warnings.warn(
                f"the fit had not converged after max_iter={self.max_iter} iterations: raise it",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.calibration_ = None
        if self.infer == "calibrated":
            one_step = OneStepGradient()(self.model_, x)
            self.calibration_ = calibrate(one_step, Enumeration(check=False)(self.model_, x))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each sample, ``(n,)``."""
        check_is_fitted(self)
        found: np.ndarray = self.classes_[self.predict_log_proba(X).argmax(1)]
        return found

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return p(z = k | x), ``(n, K)``, classes in the order of ``classes_``."""
        found: np.ndarray = np.exp(self.predict_log_proba(X))
        return found

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return log p(z = k | x), ``(n, K)``, classes in the order of ``classes_``."""
        x = self._scaled(X)
        exact = self.infer == "enumeration"
        infer = (
            Enumeration(check=False) if exact else OneStepGradient(calibration=self.calibration_)
        )
        found: np.ndarray = infer(self.model_, x).logits().numpy()
        return found

    def score_samples(self, X: Any) -> np.ndarray:
        """Return log p(x) of each sample, ``(n,)``, exact whatever ``infer`` is."""
        evidence = Enumeration(check=False)(self.model_, self._scaled(X)).log_evidence
        assert evidence is not None  # at temperature 1
        found: np.ndarray = evidence.numpy() + self._scaling.log_det
        return found

    def _scaled(self, X: Any) -> Tensor:
        check_is_fitted(self)
        return self._scaling(validate_data(self, X, reset=False, dtype=np.float64, order="C"))

    def _check_options(self) -> None:
        check_whole("hidden", self.hidden, 0)
        check_whole("max_iter", self.max_iter, 1)
        for name, known in (("noise", get_args(Noise)), ("infer", get_args(Infer))):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} should be one of {known}; got {value!r}")
