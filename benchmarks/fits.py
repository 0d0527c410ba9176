"""Fits of public sequences against hmmlearn and statsmodels, where they are installed.

Each to the same likelihood: hmmlearn's expectation maximisation runs until a step gains less than
1e-6 nats, as close to the optimum as ``fit_marginal`` ends; statsmodels as it is set.
"""

from __future__ import annotations

import csv
import itertools
import logging
import math
import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from gbi_pyro import LearnedChain, TaskChain, fit_marginal, marginalize
from studies.core.table import Row, Target

Fit = Callable[[], float]  # runs, and returns the log likelihood it found

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "sequences"
FOLDER = Path(os.environ.get("GBI_PYRO_SEQUENCES", SHARED))
TASK = {"task": True}
POSITIVE = constraints.positive


def fits(repeats: int, starts: int = 20) -> list[Row]:
    """Compare fits, one row for each series; ratios of processor time, ours / rival.

    Args:
        repeats: how often each is run, in turn.
        starts: of fits to data with several optima.
    """
    rows = []
    for name, ours, rival in _pairs(starts):
        try:
            theirs = rival()
        except (ImportError, FileNotFoundError) as reason:
            rows.append(Row.of("", f"fit: {name} skipped", [math.nan], note=str(reason)))
            continue
        taken = [_timed([ours, theirs]) for _ in range(repeats + 1)][1:]  # the first compiles
        ratio = median(a[0] / b[0] for a, b in taken)
        (mine, found), (other, wanted) = taken[-1]
        note = f"{mine:.3g} s to {found:.4f} against {other:.3g} s to {wanted:.4f}"
        rows.append(Row.of("", f"fit: {name}", [ratio], Target(1.0), note=note))
    return rows


def _timed(jobs: list[Fit]) -> list[tuple[float, float]]:
    found = []
    for job in jobs:
        start = time.process_time()
        value = job()
        found.append((time.process_time() - start, value))
    return found


def _pairs(starts: int) -> list[tuple[str, Fit, Callable[[], Fit]]]:
    x, growth, rates, speed = (
        partial(_column, n) for n in ("earthquakes", "rgnp", "fedfunds", "speed")
    )
    hidden = _simulated()
    return [
        *(
            (
                f"earthquakes, {K} Poisson states, {starts} starts, hmmlearn",
                lambda K=K: _poisson(x(), K, starts),
                lambda K=K: _hmmlearn_poisson(x(), K, starts),
            )
            for K in (2, 3)
        ),
        (
            f"response times, 2 Gaussian states, {starts} starts, hmmlearn",
            lambda: _gaussian(speed("rt"), 2, starts),
            lambda: _hmmlearn_gaussian(speed("rt"), 2, starts, tolerance=1e-6),
        ),
        (
            "3 Gaussian states, 5000 steps, one good start, hmmlearn to 1e-2",
            lambda: _gaussian(hidden, 3, 1, tolerance=1e-4),
            lambda: _hmmlearn_gaussian(hidden, 3, 1, tolerance=1e-2),
        ),
        (
            "3 Gaussian states, 5000 steps, 10 starts, hmmlearn to 1e-2",
            lambda: _gaussian(hidden, 3, 10, tolerance=1e-4),
            lambda: _hmmlearn_gaussian(hidden, 3, 10, tolerance=1e-2),
        ),
        (
            "federal funds rate, statsmodels",
            lambda: _regimes(rates()),
            lambda: _markov_regression(rates()),
        ),
        (
            "growth of GNP, MS-AR(4), statsmodels",
            lambda: _ms_ar(growth()),
            lambda: _markov_autoregression(growth()),
        ),
    ]


def _column(name: str, column: str | None = None) -> np.ndarray:
    with (FOLDER / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    return np.array([float(row[column or list(row)[-1]]) for row in rows])


def _simulated() -> np.ndarray:
    draw = np.random.default_rng(0)
    switches = draw.random(5000) < 0.06
    z = (switches * draw.integers(1, 3, 5000)).cumsum() % 3
    return np.array([-1.0, 0.0, 1.5])[z] + np.array([0.5, 0.6, 0.8])[z] * draw.normal(size=5000)


def _even(K: int) -> dist.OneHotCategorical:
    return dist.OneHotCategorical(torch.ones(K, dtype=torch.float64))


def _start(x: np.ndarray, K: int) -> np.ndarray:
    return np.quantile(x, (np.arange(K) + 0.5) / K)


def _fit(model: Callable[[Tensor], None], prior: Any, x: np.ndarray, **options: Any) -> float:
    pyro.clear_param_store()
    return fit_marginal(marginalize(model, prior), torch.from_numpy(x), **options).log_evidence


def _poisson(x: np.ndarray, K: int, starts: int) -> float:
    def model(x: Tensor) -> None:
        rates = pyro.param("rates", torch.from_numpy(_start(x.numpy(), K)), constraint=POSITIVE)
        with pyro.plate("time", len(x)):
            z = pyro.sample("z", _even(K), infer=TASK)
            pyro.sample("x", dist.Poisson(z @ rates), obs=x)

    return _fit(model, LearnedChain(K), x, starts=starts)


def _gaussian(x: np.ndarray, K: int, starts: int, tolerance: float = 1e-6) -> float:
    def model(x: Tensor) -> None:
        means = pyro.param("means", torch.from_numpy(_start(x.numpy(), K)))
        scale = (x.std() / K).expand(K)
        scales = pyro.param("scales", scale, constraint=POSITIVE)
        with pyro.plate("time", len(x)):
            z = pyro.sample("z", _even(K), infer=TASK)
            pyro.sample("x", dist.Normal(z @ means, z @ scales), obs=x)

    return _fit(model, LearnedChain(K), x, starts=starts, tolerance=tolerance)


def _regimes(x: np.ndarray) -> float:
    def model(x: Tensor) -> None:
        means = pyro.param("means", torch.from_numpy(_start(x.numpy(), 2)))
        sigma = pyro.param("sigma", x.std() / 2, constraint=POSITIVE)
        with pyro.plate("time", len(x)):
            z = pyro.sample("z", _even(2), infer=TASK)
            pyro.sample("x", dist.Normal(z @ means, sigma), obs=x)

    return _fit(model, LearnedChain(2, initial="stationary"), x, starts=1)


def _ms_ar(x: np.ndarray) -> float:
    """Hamilton 1989: mean of the regime, four lags; the present regime and four earlier ones."""
    states = torch.tensor(list(itertools.product(range(2), repeat=5)))
    follows = (states[None, :, 1:] == states[:, None, :-1]).all(-1)

    def model(x: Tensor) -> None:
        means = pyro.param("means", torch.tensor([0.0, 1.0], dtype=x.dtype))
        ar = pyro.param("ar", torch.zeros(4, dtype=x.dtype))
        sigma = pyro.param("sigma", x.std(), constraint=POSITIVE)
        m, lags = means[states], torch.stack([x[4 - i : len(x) - i] for i in range(1, 5)], -1)
        with pyro.plate("time", len(x) - 4):
            z = pyro.sample("z", _even(32), infer=TASK)
            away = z @ (m[:, 1:] @ ar)
            pyro.sample("x", dist.Normal(z @ m[:, 0] + lags @ ar - away, sigma), obs=x[4:])

    def prior(x: Tensor) -> TaskChain:
        rows = torch.tensor([[0.75, 0.25], [0.1, 0.9]], dtype=x.dtype)
        A = pyro.param("transition", rows, constraint=constraints.simplex)
        start = TaskChain("stationary", A.log()).log_initial.exp()[states[:, -1]]
        for k in range(4, 0, -1):
            start = start * A[states[:, k], states[:, k - 1]]
        moves = torch.where(follows, A[states[:, None, 0], states[None, :, 0]], 0.0)
        return TaskChain(start.log(), moves.log())

    return _fit(model, prior, x, starts=1)


def _hmmlearn_poisson(x: np.ndarray, K: int, starts: int) -> Fit:
    from hmmlearn.hmm import PoissonHMM

    logging.getLogger("hmmlearn").setLevel(logging.CRITICAL)  # it tells of every last step
    data = x.astype(int)[:, None]

    def run() -> float:
        fitted = (
            PoissonHMM(K, n_iter=10_000, tol=1e-6, random_state=s).fit(data) for s in range(starts)
        )
        return max(model.score(data) for model in fitted)

    return run


def _hmmlearn_gaussian(x: np.ndarray, K: int, starts: int, tolerance: float) -> Fit:
    """Its own starts (k-means) and its weak prior of the variances; one start is a good one."""
    from hmmlearn.hmm import GaussianHMM

    logging.getLogger("hmmlearn").setLevel(logging.CRITICAL)
    data = x[:, None]

    def fit(seed: int) -> float:
        model = GaussianHMM(K, random_state=seed, n_iter=10_000, tol=tolerance)
        return float(model.fit(data).score(data))

    seeds = list(range(starts))
    if starts == 1:
        tried = [fit(seed) for seed in range(10)]
        seeds = [next(s for s, value in enumerate(tried) if value > max(tried) - 0.1)]
    return lambda: max(fit(seed) for seed in seeds)


def _markov_regression(x: np.ndarray) -> Fit:
    from statsmodels.tsa.api import MarkovRegression

    return lambda: float(MarkovRegression(x, k_regimes=2).fit().llf)


def _markov_autoregression(x: np.ndarray) -> Fit:
    from statsmodels.tsa.api import MarkovAutoregression

    def run() -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = MarkovAutoregression(x, k_regimes=2, order=4, switching_ar=False)
            return float(model.fit().llf)

    return run
