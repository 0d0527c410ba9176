"""Why a network can ignore its task: the class hidden in the latent, at any width (I7)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gbi_pyro.data.images import ImageSets
from gbi_pyro.metrics.scores import accuracy
from gbi_pyro.metrics.task_use import TaskUse, linear_probe, task_gain
from studies.images.config import ImagesConfig
from studies.images.training import PAPER, Report, build, checkpoint_name, fit
from studies.core.table import Row
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.models.affine_head import AffineHeadAutoencoder
from gbi_pyro.models.image import ConditionedAutoencoder
from gbi_pyro.models.layers import Latent

PROBED = 5000  # images that a linear probe is fitted on
WIDTHS: tuple[tuple[int, Latent], ...] = (
    (4, "plain"),
    (8, "plain"),
    (16, "plain"),
    (32, "plain"),
    (64, "plain"),
    (64, "noisy"),
)


def measure_use(
    network: ConditionedAutoencoder | AffineHeadAutoencoder, sets: ImageSets
) -> TaskUse:
    """Measure on validation images whether an autoencoder uses its task."""
    encoder, validation = network.encoder, sets.validation
    assert encoder is not None
    z = torch.nn.functional.one_hot(validation.y, sets.num_classes).to(validation.x.dtype)
    with torch.no_grad():
        latent, held_out = encoder(sets.train.x[:PROBED]), encoder(validation.x)
    probe = linear_probe(latent, sets.train.y[:PROBED], held_out, validation.y)
    return TaskUse(task_gain(network, {"z": z}, validation.x), probe)


def sweep(config: ImagesConfig, sets: ImageSets, folder: Path, report: Report) -> list[Row]:
    """Train the paper's network at several widths of its bottleneck, with the first seed.

    Args:
        config: the study.
        sets: the images; everything is measured on validation.
        folder: where checkpoints go.
        report: called with what is being done, once an epoch.

    Returns:
        One-step accuracy, gain from the true task and linear probe for each width.
    """
    seed, found = config.first_seed, []
    for width, latent in WIDTHS:
        kind = f"{PAPER}, d = {width}, {latent}"
        this = replace(config, bottleneck=width, bottleneck_latent=latent)
        network = build(this, sets, PAPER, seed)
        fit(this, network, sets.train, seed, folder / checkpoint_name(kind, seed), kind, report)
        network.requires_grad_(False).eval()
        assert isinstance(network, ConditionedAutoencoder)
        found += use_rows(kind, [measure_use(network, sets)], [_one_step(network, sets)])
    return found


def _one_step(network: ConditionedAutoencoder, sets: ImageSets) -> float:
    answers: list[Tensor] = [
        OneStepGradient()(network, part).logits() for part in sets.validation.x.split(1000)
    ]
    return 100 * accuracy(torch.cat(answers), sets.validation.y)


def use_rows(name: str, uses: list[TaskUse], one_step: list[float] | None = None) -> list[Row]:
    """Return what is known of a network's use of its task, one value a seed."""
    rows = [
        Row.of("I7", f"{name}: gain from the true task, nats per image", [u.gain for u in uses]),
        Row.of("I7", f"{name}: linear probe of the class, %", [100 * u.probe for u in uses]),
    ]
    if one_step is not None:
        rows.append(Row.of("I7", f"{name}: one step, accuracy on validation, %", one_step))
    return rows
