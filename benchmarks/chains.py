"""The exact posterior over a chain against hmmlearn and dynamax, where they are installed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import processor_times
from gbi_pyro import TaskChain, hmm_posterior
from gbi_pyro.inference import ChainStream, hmm_log_evidence
from studies.core.table import Row, Target

Job = Callable[[], Any]

BATCHES, LENGTHS, TASKS = (1, 64), (100, 1000, 10_000), (2, 10, 50)
LARGEST = 64 * 10_000 * 10  # numbers of a log likelihood; beyond, a round takes minutes
WORST, CELLS = 1.4, 12
STEPS = 200  # of a live stream in one round
SLOWEST = 4.0  # a step of a live stream, against the same recursion as a bare loop of torch


def chains(seconds: float, largest: int = LARGEST) -> list[Row]:
    """Compare posteriors and gradients of the evidence, one row for each shape and rival.

    One process and one thread, interleaved, processor time. hmmlearn gets the log likelihoods
    (``implementation="scaling"``, sequences by ``lengths``); dynamax is compiled before, in double
    precision, with ``vmap`` over sequences. hmmlearn returns smoothed probabilities and the
    evidence alone; ``hmm_posterior`` checks its data and returns logs.

    Args:
        seconds: for each shape.
        largest: shapes with more numbers than this are left out.
    """
    makers: dict[str, Callable[..., tuple[Job, Job | None]]] = {
        "hmmlearn": _hmmlearn,
        "dynamax": _dynamax,
    }
    rows, ratios, gradients = [], [], []
    for B, T, K in _shapes(largest):
        chain = _chain(B, T, K)
        rivals = {}
        for name, make in list(makers.items()):
            try:
                rivals[name] = make(*chain)
            except ImportError as reason:
                del makers[name]
                rows.append(Row.of("", f"chains: {name} skipped", [math.nan], note=str(reason)))
        if not rivals:
            return rows
        ours = partial(hmm_posterior, *chain, viterbi=False)
        found = _compare(f"posterior, {B} x {T} x {K}", ours, _column(rivals, 0), seconds, rows)
        ratios.append(min(found))
        found = _compare(
            f"gradient, {B} x {T} x {K}",
            partial(_gradient, *chain),
            _column(rivals, 1),
            seconds,
            rows,
        )
        gradients += found
    for what, each in (("posterior", ratios), ("gradient", gradients)):
        if each:
            ahead = sum(r > 1 for r in each)
            rows.append(Row.of("", f"{what}: shapes ahead of all rivals, of {len(each)}", [ahead]))
            rows.append(
                Row.of("", f"{what}: rival / hmm_posterior", each, Target(1 / WORST, "worst", True))
            )
    return rows


def streams(seconds: float) -> list[Row]:
    """Compare a step of a live stream, batch 1, with a bare loop of torch, for each K.

    The loop is log_softmax(logsumexp(belief + A) + log likelihood): no checks, no state to keep.

    Args:
        seconds: for each K.
    """
    rows = []
    for K in TASKS:
        log_initial, log_transition, emission = _chain(1, STEPS, K)
        chain, steps = TaskChain(log_initial, log_transition), emission.unbind(0)

        def bare(belief: Tensor = log_initial, A: Tensor = log_transition, xs: Any = steps) -> Any:
            for x in xs:
                belief = ((belief.unsqueeze(-1) + A).logsumexp(-2) + x).log_softmax(-1)
            return belief

        def ours(chain: TaskChain = chain, xs: Any = steps) -> Any:
            stream = ChainStream(chain)
            for x in xs:
                found = stream.step(x)
            return found

        loop, step = processor_times([bare, ours], seconds)
        ratio = median(b / a for a, b in zip(loop, step, strict=True))
        each = " against ".join(f"{1e6 * median(t) / STEPS:.0f}" for t in (step, loop))
        target = Target(SLOWEST)
        what = f"live stream, K = {K}: step / bare loop"
        rows.append(Row.of("", what, [ratio], target, note=f"{each} microseconds"))
    return rows


def _shapes(largest: int) -> Iterator[tuple[int, int, int]]:
    for B in BATCHES:
        for T in LENGTHS:
            for K in TASKS:
                if largest >= B * T * K:
                    yield B, T, K


def _chain(B: int, T: int, K: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    emission = normal(B, T, K) if B > 1 else normal(T, K)
    return normal(K).log_softmax(-1), normal(K, K).log_softmax(-1), emission


def _gradient(*chain: Tensor) -> tuple[Tensor, ...]:
    leaves = [a.detach().requires_grad_() for a in chain]
    evidence = hmm_log_evidence(*leaves).sum()
    return torch.autograd.grad(evidence, leaves)


def _column(rivals: dict[str, tuple[Job, Job | None]], which: int) -> dict[str, Job]:
    return {name: job for name, jobs in rivals.items() if (job := jobs[which]) is not None}


def _compare(
    what: str, ours: Job, rivals: dict[str, Job], seconds: float, rows: list[Row]
) -> list[float]:
    """Add one row for each rival; return the medians of the ratios rival / ours."""
    mine, *others = processor_times([ours, *rivals.values()], seconds)
    medians = []
    for name, times in zip(rivals, others, strict=True):
        ratio = median(b / a for a, b in zip(mine, times, strict=True))
        note = f"{1e3 * median(times):.3g} ms against {1e3 * median(mine):.3g} ms"
        rows.append(Row.of("", f"{what}: {name} / ours", [ratio], note=note))
        medians.append(ratio)
    return medians


def _hmmlearn(log_initial: Tensor, log_transition: Tensor, log_emission: Tensor) -> Any:
    from hmmlearn.base import BaseHMM

    class Given(BaseHMM):  # type: ignore[misc]
        """A chain whose observations are the log likelihoods themselves."""

        def _compute_log_likelihood(self, X: np.ndarray) -> np.ndarray:
            return X

        def _check(self) -> None:
            pass

    K, T = log_initial.shape[-1], log_emission.shape[-2]
    chain = Given(K, implementation="scaling")
    chain.startprob_ = log_initial.exp().numpy()
    chain.transmat_ = log_transition.exp().numpy()
    chain.n_features = K
    x = log_emission.reshape(-1, K).numpy()
    job = partial(chain.score_samples, x, [T] * (len(x) // T))
    want = hmm_posterior(log_initial, log_transition, log_emission).log_smoothed.exp()
    np.testing.assert_allclose(job()[1], want.reshape(-1, K), atol=1e-8)
    return job, None


def _dynamax(log_initial: Tensor, log_transition: Tensor, log_emission: Tensor) -> Any:
    os.environ.setdefault(
        "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    )
    import jax
    from dynamax.hidden_markov_model import hmm_filter, hmm_smoother

    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    args = [jnp.asarray(a.numpy()) for a in (log_initial, log_transition, log_emission)]

    # Their own jit traces this option, which makes it an error to set it.
    smooth = partial(hmm_smoother.__wrapped__, compute_trans_probs=False)

    def evidence(log_initial: Any, log_transition: Any, log_likelihood: Any) -> Any:
        initial, transition = jnp.exp(log_initial), jnp.exp(log_transition)
        return hmm_filter(initial, transition, log_likelihood).marginal_loglik

    if log_emission.ndim == 3:
        smooth = jax.vmap(smooth, (None, None, 0))
        each = jax.vmap(evidence, (None, None, 0))

        def evidence(*args: Any) -> Any:
            return each(*args).sum()

    smooth, gradient = jax.jit(smooth), jax.jit(jax.value_and_grad(evidence, (0, 1, 2)))
    probabilities = jnp.exp(args[0]), jnp.exp(args[1]), args[2]
    jobs = [
        lambda: jax.block_until_ready(smooth(*probabilities)),
        lambda: jax.block_until_ready(gradient(*args)),
    ]
    want = hmm_posterior(log_initial, log_transition, log_emission).log_smoothed.exp()
    np.testing.assert_allclose(jobs[0]().smoothed_probs, want, atol=1e-8)
    for got, mine in zip(
        jobs[1]()[1], _gradient(log_initial, log_transition, log_emission), strict=True
    ):
        np.testing.assert_allclose(got, mine, atol=1e-8, rtol=1e-8)
    return jobs
