"""Hidden states of sequences with scikit-learn's interface: a chain with Gaussian data."""

from __future__ import annotations

import math
import warnings
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from gbi_pyro.estimators._gaussian_states import fit_gaussian_states
from gbi_pyro.estimators._rows import Rows, sessions_of, take_session
from gbi_pyro.estimators._scaling import centre_and_size
from gbi_pyro.estimators._validate import check_whole
from gbi_pyro.inference import TaskChain
from gbi_pyro.inference.hmm import HMMPosterior


class SequenceTaskModel(DensityMixin, BaseEstimator):
    r"""Find hidden states of sequences without labels: a Markov chain with Gaussian data.

        p(x_1..T) = sum_z p(z_1) prod_t p(z_t | z_t-1) prod_j N(x_tj; mu_zj, sigma_zj^2)

    (Rabiner 1989, A tutorial on hidden Markov models, Proceedings of the IEEE 77). The exact
    likelihood, with a weak prior, is maximised from several starts (``fit_marginal``). States come
    in the order of their means of the first feature.

    A row of X is a step. All rows are one sequence, unless ``lengths`` gives the numbers of steps
    of sequences that follow each other, or a column of the data frame names the session of each
    row. With such a column, scikit-learn's splits of X keep what belongs together:
    ``cross_val_score(model, frame, groups=frame["rat"], cv=GroupKFold(5))``.

    Args:
        n_states: K.
        n_starts: how many starts; the best is kept.
        session: the column of a data frame X that names the session of each row; it is no feature.
        prior_weight: of the prior, in steps: it counts as if each feature of a state had been seen
            once with 1 % of its variance in X, and each move between states 0.01 times. Without
            it, 0, a state that shrinks around one step has no optimum.
        random_state: draws the starts.

    Attributes:
        startprob_: p(z_1), ``(K,)``.
        transmat_: p(z_t | z_t-1), from rows to columns, ``(K, K)``.
        means_: mu, ``(K, d)``.
        covars_: sigma^2, ``(K, d)``.
        n_agree_: how many starts ended at the same optimum, the best.
        n_features_in_: d.
        feature_names_in_: the columns of the frame, if it was fitted to one.

    >>> X = np.concatenate([np.zeros(20), np.full(20, 5.0)] * 2)[:, None]
    >>> X += np.random.default_rng(0).normal(size=X.shape)
    >>> model = SequenceTaskModel(2, n_starts=2, random_state=0).fit(X, lengths=[40, 40])
    >>> model.predict(X[:40])[[0, 19, 20, 39]]
    array([0, 0, 1, 1])
    >>> model.means_.round(1).ravel()
    array([0.1, 5.2])
    """

    def __init__(
        self,
        n_states: int = 2,
        *,
        n_starts: int = 10,
        session: str | None = None,
        prior_weight: float = 1.0,
        random_state: Any = None,
    ) -> None:
        self.n_states = n_states
        self.n_starts = n_starts
        self.session = session
        self.prior_weight = prior_weight
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, *, lengths: Any = None) -> Self:
        """Fit the states to sequences.

        Args:
            X: an array or a data frame of numbers, ``(n, d)``.
            y: has no effect, and is there for scikit-learn.
            lengths: steps of each sequence, ``(S,)``.

        Raises:
            ValueError: for an option that is out of range, lengths that do not fit, missing
                numbers, and fewer rows than states.
        """
        self._check_options()
        X, sessions = self._rows(X, lengths, reset=True)
        if y is not None and np.shape(y)[:1] != (len(X),):
            raise ValueError(
                f"y has no effect and is None, or one value for each of the {len(X)} rows; got "
                f"shape {np.shape(y)}: give lengths by name, fit(X, lengths=...)"
            )
        if len(X) < max(self.n_states, 2):
            raise ValueError(
                f"X should have {max(self.n_states, 2)} rows at least, for n_states="
                f"{self.n_states}; got n_samples={len(X)}"
            )
        centre, size = centre_and_size(X)
        rows = Rows.of((X - centre) / size, sessions)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        found = fit_gaussian_states(
            rows.values, rows.real, self.n_states, self.prior_weight, self.n_starts, seed
        )
        if not found.fit.converged:
            warnings.warn(
                f"the best of {self.n_starts} starts had not converged ({found.fit.message}): "
                "take more starts, or fewer states",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.startprob_, self.transmat_ = found.start.numpy(), found.transitions.numpy()
        self.means_ = centre + size * found.means.numpy()
        self.covars_ = (size * found.scales.numpy()) ** 2
        self.n_agree_ = found.fit.num_agree
        return self

    def predict(self, X: Any, *, lengths: Any = None) -> np.ndarray:
        """Return the states of the most probable path (Viterbi), ``(n,)``."""
        rows, found = self._posterior(X, lengths, viterbi=True)
        assert found.viterbi is not None
        return rows.back(found.viterbi)

    def predict_proba(self, X: Any, *, lengths: Any = None) -> np.ndarray:
        """Return p(z_t | x_1..T) of each step, given its whole sequence, ``(n, K)``."""
        rows, found = self._posterior(X, lengths)
        return rows.back(found.log_smoothed.exp())

    def score_samples(self, X: Any, *, lengths: Any = None) -> np.ndarray:
        """Return log p(x_t | x_1..t-1) of each step, given the past of its sequence, ``(n,)``."""
        rows, found = self._posterior(X, lengths)
        return rows.back(found.step_log_evidence)

    def score(self, X: Any, y: Any = None, *, lengths: Any = None) -> float:
        """Return log p(x), summed over steps and sequences; y has no effect."""
        return float(self.score_samples(X, lengths=lengths).sum())

    def bic(self, X: Any, *, lengths: Any = None) -> float:
        """Return -2 log p(x) + p log n, with p free parameters and n steps (Schwarz 1978)."""
        score = self.score_samples(X, lengths=lengths)
        K, d = self.means_.shape
        free = K * K - 1 + 2 * K * d
        return float(-2 * score.sum() + free * math.log(len(score)))

    def _posterior(
        self, X: Any, lengths: Any, *, viterbi: bool = False
    ) -> tuple[Rows, HMMPosterior]:
        check_is_fitted(self)
        rows = Rows.of(*self._rows(X, lengths, reset=False))
        x = rows.values.unsqueeze(-2)
        means, scales = torch.from_numpy(self.means_), torch.from_numpy(self.covars_).sqrt()
        table = torch.distributions.Normal(means, scales).log_prob(x).sum(-1)
        table = torch.where(rows.real.unsqueeze(-1), table, 0.0)
        start, transitions = (torch.from_numpy(p).log() for p in (self.startprob_, self.transmat_))
        return rows, TaskChain(start, transitions).posterior(table, viterbi=viterbi)

    def _rows(self, X: Any, lengths: Any, *, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of X, and the session of each row."""
        X, sessions = take_session(X, self.session)
        X = validate_data(self, X, reset=reset, dtype=np.float64, order="C")
        if sessions is None:
            return X, sessions_of(lengths, len(X))
        if lengths is not None:
            raise ValueError("sequences are given by lengths or by a session column, not by both")
        return X, sessions

    def _check_options(self) -> None:
        check_whole("n_states", self.n_states, 1)
        check_whole("n_starts", self.n_starts, 1)
        if not 0 <= self.prior_weight < math.inf:
            raise ValueError(f"prior_weight should be 0 or more; got {self.prior_weight!r}")
