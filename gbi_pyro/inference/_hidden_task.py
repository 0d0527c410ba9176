"""Runs of a marked model whose task is hidden, and whose other sites show themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from gbi_pyro.logjoint import Passes
from gbi_pyro.score import Factor, ScoreMessenger
from gbi_pyro.sites import TaskSite, TaskSiteError


class TaskLikelihood(NamedTuple):
    """What a marked model says of its tasks at its present weights.

    Attributes:
        log_likelihood: log p(x | z = k), ``batch_shape + (K,)``, differentiable.
        log_prior: the model's own log pi_k, likewise.
        site: its task site.
        frames: Pyro's plates around it, by name.
        num_observations: how many observed values each element explains, ``batch_shape``.
        passes: the compute used.
    """

    log_likelihood: Tensor
    log_prior: Tensor
    site: TaskSite
    frames: Mapping[str, Any]
    num_observations: Tensor
    passes: Passes


class FirstRun(NamedTuple):
    """A checked run of a marked model, which others repeat at other parameters.

    Attributes:
        factors: the terms of its task and of the data in the task's plates, by name.
        site: its task site.
        frames: Pyro's plates around it, by name.
        indices: those of every plate, by name.
        time: the name of a chain's plate over time, where the chain has one.
        real: which steps are real, ``batch_shape + (1,)``; None for all.
    """

    factors: Mapping[str, Factor]
    site: TaskSite
    frames: Mapping[str, Any]
    indices: Mapping[str, Tensor]
    time: str | None
    real: Tensor | None


class HiddenTask(ScoreMessenger):
    """Effect handler of one run: hides the task and the data in its plates, and scores them.

    Every other site shows itself in the first run, and is repeated in the others.
    """

    def __init__(self, recorded: dict[Any, Any], *, replays: bool) -> None:
        super().__init__()
        self.recorded, self.replays = recorded, replays
        self.frames: dict[str, Any] = {}
        self.latents: set[str] = set()
        self.subsamples: set[str] = set()
        self._own: set[str] = set()
        self._task: str | None = None

    def _pyro_param(self, msg: Any) -> None:
        self._repeat(msg)

    def _pyro_post_param(self, msg: Any) -> None:
        self.recorded.setdefault(msg["name"], msg["value"])

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            self.subsamples.add(msg["name"])
            self._repeat(msg)
            return
        super()._pyro_sample(msg)
        plates = {f.name: f for f in msg["cond_indep_stack"] if f.vectorized}
        if msg["infer"].get("task") and msg["is_observed"] and self._task is None:
            self._task, self.frames = msg["name"], plates
        inside = self._task is not None and plates.keys() >= self.frames.keys()
        if (msg["is_observed"] and inside) or msg["name"] in self._hidden:
            self._own.add(msg["name"])
            msg["stop"] = True
        else:
            self._repeat(msg)

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self._own:
            super()._pyro_post_sample(msg)
            return
        self.recorded.setdefault(msg["name"], msg["value"])
        if site_is_subsample(msg):
            return
        self.latents.add(msg["name"])
        with torch.no_grad():
            here = msg["fn"].log_prob(msg["value"])
        first = self.recorded.setdefault(("log_prob", msg["name"]), here)
        if not torch.equal(first, here):
            raise TaskSiteError(
                f"site {msg['name']!r} is latent and depends on the task, so that the task cannot "
                "be summed out beside it; expected data there: give them before, "
                "marginalize(poutine.condition(model, data={...}))"
            )

    def _repeat(self, msg: Any) -> None:
        if self.replays and msg["name"] in self.recorded:
            msg["value"], msg["done"], msg["stop"] = self.recorded[msg["name"]], True, True


class InPlates(Messenger):
    """Effect handler that puts sites into plates that a model has left."""

    def __init__(self, frames: list[Any]) -> None:
        super().__init__()
        self.frames = frames

    def _pyro_sample(self, msg: Any) -> None:
        msg["cond_indep_stack"] = (*msg["cond_indep_stack"], *self.frames)
        for frame in self.frames:
            msg["scale"] = msg["scale"] * ((frame.full_size or frame.size) / frame.size)
