"""Bias-corrected temperature scaling of a one-step posterior, fitted to the exact one."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.files import replacing
from gbi_pyro.posterior import TaskPosterior

FEW = 10  # elements for each number that is fitted
ROUNDING = 1e-9  # scores that differ by less, relative to their size, are equal


@dataclass(frozen=True, eq=False)
class Calibration:
    """Bias-corrected temperature scaling (Alexandari et al. 2020) of a one-step posterior.

    log q = log_softmax((g - n b) / T), with g the log probabilities as they are, n the number of
    observations in the element, b one offset per task and T one temperature (Alexandari, Kundaje
    and Shrikumar 2020, Maximum likelihood with bias-corrected calibration is hard-to-beat at label
    shift adaptation, ICML). With three tasks or more a one-step posterior is biased by a constant
    per observation (the squared distance of each task's mean from the middle): the offsets correct
    it, a temperature alone does not.

    Attributes:
        temperature: T > 0.
        offsets: b, ``(K,)``, with mean zero.
        site: the task site it was fitted on.
    """

    temperature: float
    offsets: Tensor
    site: str = "z"

    def __post_init__(self) -> None:
        offsets = as_tensor(self.offsets, f"offsets of the calibration of {self.site!r}")
        object.__setattr__(self, "offsets", offsets)
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature of the calibration of {self.site!r} must be positive and finite, got "
                f"{self.temperature}"
            )
        if self.offsets.ndim != 1 or not bool(self.offsets.isfinite().all()):
            raise ValueError(
                f"offsets of the calibration of {self.site!r} must be K finite numbers, got shape "
                f"{tuple(self.offsets.shape)}"
            )

    def __call__(self, log_probs: Tensor, num_observations: Tensor) -> Tensor:
        """Correct log probabilities.

        Args:
            log_probs: ``batch_shape + (K,)``.
            num_observations: n, ``batch_shape``.

        Returns:
            Calibrated log probabilities, normalised.

        Raises:
            ValueError: when it was fitted on another number of tasks.

        >>> calibration = Calibration(2.0, torch.tensor([-1.0, 1.0]))
        >>> calibration(torch.tensor([0.25, 0.75]).log(), torch.tensor(0.0)).exp()
        tensor([0.3660, 0.6340])
        """
        log_probs = as_tensor(log_probs, "log_probs")
        num_observations = as_tensor(num_observations, "num_observations", like=log_probs)
        if log_probs.shape[-1] != len(self.offsets):
            raise ValueError(
                f"calibration of {self.site!r} was fitted on {len(self.offsets)} tasks and is "
                f"asked for {log_probs.shape[-1]}; fit it on this model: calibrate(one_step, exact)"
            )
        shift = num_observations.unsqueeze(-1) * self.offsets.to(log_probs)
        return ((log_probs - shift) / self.temperature).log_softmax(-1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Calibration) and self._content() == other._content()

    def __hash__(self) -> int:
        return hash((self.site, self.temperature, tuple(self.offsets.tolist())))

    def _content(self) -> dict[str, Any]:
        return {
            "site": self.site,
            "temperature": self.temperature,
            "offsets": self.offsets.tolist(),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as a small JSON file with a checksum, whole or not at all."""
        content = self._content()
        with replacing(path) as temporary:
            whole = {**content, "sha256": _checksum(content)}
            temporary.write_text(json.dumps(whole, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read it back.

        Raises:
            ValueError: when the file is not a calibration, or not as it was written.
        """
        try:
            content = json.loads(Path(path).read_bytes())
            if content.pop("sha256") != _checksum(content):
                raise ValueError("its checksum is another one")
            offsets = torch.tensor(content["offsets"], dtype=torch.float64)
            return cls(float(content["temperature"]), offsets, str(content["site"]))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path} is not a calibration: expected JSON with site, temperature, offsets and "
                f"their checksum as Calibration.save writes it ({error!r})"
            ) from error


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def calibrate(
    one_step: TaskPosterior | Sequence[TaskPosterior],
    exact: TaskPosterior | Sequence[TaskPosterior],
    *,
    site: str | None = None,
) -> Calibration:
    """Fit a temperature and offsets by the mean KL(exact || calibrated) over all elements.

    The problem is convex in (1 / T, b / T), a multinomial regression on the exact probabilities, so
    the fit has one answer. Fit on one set of data, judge on another. Several posteriors, of texts
    of different lengths for example, are fitted together: one calibration for every number of
    observations, each posterior weighing as many elements as it has.

    Args:
        one_step: the cheap posterior, without a calibration of its own; or several.
        exact: the exact posterior of the same elements; or as many.
        site: which site; the only one if there is one.

    Returns:
        The calibration, for ``OneStepGradient(calibration=...)``.

    Raises:
        TypeError: for anything but posteriors.
        ValueError: when the two do not belong together, hold no finite numbers or too few
            elements, or when the cheap scores point away from the exact ones (no positive
            temperature fits).
    """
    cheap, target = _several(one_step), _several(exact)
    if not cheap or len(cheap) != len(target):
        raise ValueError(
            f"one_step and exact should be as many posteriors, at least one; got {len(cheap)} and "
            f"{len(target)}"
        )
    name = cheap[0].site_name(site)
    parts = zip(*(_scores(*pair, name) for pair in zip(cheap, target, strict=True)), strict=True)
    return Calibration(*_fit(*map(torch.cat, parts)), site=name)


def _several(found: Any) -> list[TaskPosterior]:
    several = list(found) if isinstance(found, (list, tuple)) else [found]
    for one in several:
        if not isinstance(one, TaskPosterior):
            raise TypeError(
                "calibrate takes what inferences return, calibrate(OneStepGradient()(model, x), "
                f"Enumeration()(model, x)), or lists of those; got a {type(one).__name__}"
            )
    return [one.in_model_order() for one in several]


def _scores(
    one_step: TaskPosterior, exact: TaskPosterior, name: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores and exact probabilities, (N, K), and numbers of observations, on the CPU."""
    g, p = one_step.logits(name).cpu().double(), exact.logits(name).cpu().double().exp()
    if g.shape != p.shape:
        raise ValueError(
            f"posteriors of {name!r} do not match: one step has shape {tuple(g.shape)}, exact has "
            f"{tuple(p.shape)}; run both on the same data"
        )
    if one_step.settings.get("calibration"):
        raise ValueError(
            f"the one-step posterior of {name!r} is calibrated already; run it without calibration"
        )
    if not bool(g.isfinite().all() & p.isfinite().all()):
        raise ValueError(
            f"posteriors of {name!r} hold infinite log scores (a forbidden task?) or NaN; expected "
            "finite numbers: leave forbidden tasks out of the calibration set"
        )
    n = one_step.num_observations[name].cpu().double().expand(g.shape[:-1])
    return g.flatten(0, -2), p.flatten(0, -2), n.flatten()


def _check_information(g: Tensor, n: Tensor) -> None:
    """Refuse scores that are one constant per observation: offsets explain them at any T."""
    centred = g - g.mean(-1, keepdim=True)
    constant = (n.unsqueeze(-1) * centred).sum(0) / n.square().sum().clamp_min(1.0)
    rest = centred - n.unsqueeze(-1) * constant
    if not len(g) or bool(rest.abs().max() <= ROUNDING * centred.abs().max()):
        raise ValueError(
            f"{len(g)} element(s) hold too little to fit a temperature and {g.shape[-1]} offsets: "
            "their one-step scores do not differ from element to element; expected data that tell "
            f"tasks apart, {FEW * g.shape[-1]} elements or more"
        )


def _fit(g: Tensor, p: Tensor, n: Tensor) -> tuple[float, Tensor]:
    _check_information(g, n)
    # Scores of unit size and one offset less than tasks keep Newton's problem well posed.
    scale = (g - g.mean(-1, keepdim=True)).std().clamp_min(1e-12)
    n_scale = n.mean().clamp_min(1.0)
    g, n, num_tasks = g / scale, n / n_scale, g.shape[-1]
    w = torch.zeros(num_tasks, dtype=torch.float64)
    w[0] = scale

    def loss(w: Tensor) -> Tensor:
        offsets = torch.cat([w[1:], -w[1:].sum(0, keepdim=True)])
        logits = w[0] * g - n.unsqueeze(-1) * offsets
        return -(p * logits.log_softmax(-1)).sum(-1).mean()

    optimiser = torch.optim.LBFGS(
        [w.requires_grad_()],
        max_iter=1000,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(w)
        value.backward()
        return value

    optimiser.step(closure)
    w = w.detach()
    inverse_temperature = (w[0] / scale).item()
    if not inverse_temperature > 0:
        cure = (
            f"{len(g)} elements are few for the {num_tasks} numbers that are fitted: give at least "
            f"{FEW * num_tasks}"
            if len(g) < FEW * num_tasks
            else "is the sign or the data of one of the two wrong?"
        )
        raise ValueError(
            "no positive temperature fits: the one-step scores of these elements point away from "
            f"the exact posterior (1 / T = {inverse_temperature:.3g}); {cure}"
        )
    offsets = torch.cat([w[1:], -w[1:].sum(0, keepdim=True)]) / n_scale / inverse_temperature
    return 1.0 / inverse_temperature, offsets
