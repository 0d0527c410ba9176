"""The cost of checking what a model says: one step with the checks, and with bare scoring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine.util import site_is_factor, site_is_subsample

from benchmarks.images import image_networks
from benchmarks.language import language_networks
from benchmarks.timing import median_ratio
from gbi_pyro import OneStepGradient, logjoint
from gbi_pyro.purity import ONE_MODEL, _PureRun
from gbi_pyro.score import Factor, ScoreMessenger
from studies.core.table import Row, Target


class BareScore(ScoreMessenger):
    """Score every site and check nothing: neither names, nor shapes, data, parameters, plates."""

    def _pyro_param(self, msg: Any) -> None:
        pass

    def _pyro_post_param(self, msg: Any) -> None:
        pass

    def _pyro_sample(self, msg: Any) -> None:
        pass

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        name, fn, mask, scale = msg["name"], msg["fn"], msg["mask"], msg["scale"]
        while isinstance(fn, MaskedDistribution):
            mask = fn._mask if mask is None else fn._mask & mask
            fn = fn.base_dist
        log_prob = fn.log_prob(msg["value"])
        if isinstance(scale, torch.Tensor) or scale != 1.0:
            log_prob = log_prob * scale
        if mask is not None:
            log_prob = torch.where(mask, log_prob, 0.0)
        is_task = bool(msg["infer"].get("task"))
        is_data = not (is_task or msg["infer"].get("_deterministic") or site_is_factor(msg))
        plates = {f.name: f.dim for f in msg["cond_indep_stack"] if f.vectorized}
        self.factors[name] = Factor(log_prob, log_prob.sum(), plates, is_data, is_task, mask, scale)


def _begin(run: _PureRun) -> None:
    run.held.append(ONE_MODEL)
    ONE_MODEL.acquire()
    run.remember()
    run.change()


@contextmanager
def without_checks() -> Iterator[None]:
    """Score without checks, watch no layer, and let an interrupt fall where it may."""
    kept = logjoint.ScoreMessenger, _PureRun.begin, _PureRun.watch
    logjoint.ScoreMessenger = BareScore
    _PureRun.watch = lambda run, network, _: run.lend_copies(network)
    _PureRun.begin = _begin
    try:
        yield
    finally:
        logjoint.ScoreMessenger, _PureRun.begin, _PureRun.watch = kept


def gate(repeats: int) -> list[Row]:
    """Compare one step on 1000 images and 32 texts."""
    x, affine, paper = image_networks()
    words, languages = language_networks()
    jobs: dict[str, Callable[[], Any]] = {
        "1000 images, affine head": lambda: OneStepGradient()(affine, x),
        "1000 images, paper's network": lambda: OneStepGradient()(paper, x),
        **{
            f"32 texts, {name}": lambda n=n: OneStepGradient()(n, words)
            for name, n in languages.items()
        },
    }
    rows = []
    for name, job in jobs.items():

        def bare(job: Callable[[], Any] = job) -> Any:
            with without_checks():
                return job()

        if not torch.equal(job().logits(), bare().logits()):
            raise AssertionError("the two posteriors differ: nothing to compare")
        one, many, ratio = median_ratio(bare, job, repeats)
        note = f"{1e3 * many:.2f} ms against {1e3 * one:.2f} ms"
        rows.append(
            Row.of(
                "",
                f"one step, {name}: with checks / without",
                [ratio.median],
                Target(1.05),
                note,
                ratio,
            )
        )
    return rows
