"""Why a network can ignore its task: the class hidden in a wide latent (task use, I7)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn.functional import one_hot

from gbi_pyro.data.images import ImageSets
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.metrics.scores import accuracy
from gbi_pyro.metrics.task_use import TaskUse, task_gain
from gbi_pyro.models.image import ConditionedAutoencoder
from gbi_pyro.models.layers import Latent
from gbi_pyro.representation import linear_probe
from studies.core.device import run_device
from studies.core.image_networks import PAPER, Autoencoder, paper_network, train
from studies.core.protocol import Report
from studies.images.config import ImagesConfig

PROBED = 5000  # images that a linear probe is fitted on
WIDTHS: tuple[tuple[int, Latent], ...] = (
    (4, "plain"),
    (8, "plain"),
    (16, "plain"),
    (32, "plain"),
    (64, "plain"),
    (64, "noisy"),
)


@dataclass(frozen=True)
class Width:
    """The paper's network with another bottleneck.

    Attributes:
        use: what it makes of its task.
        one_step: accuracy of one gradient step on validation images, in per cent.
    """

    use: TaskUse
    one_step: float


Widths = dict[str, Width]
"""By the name of the network in the table."""


def measure_use(network: Autoencoder, sets: ImageSets) -> TaskUse:
    """Measure on validation images whether an autoencoder uses its task."""
    encoder, validation = network.encoder, sets.validation
    assert encoder is not None
    seen, x = sets.train.x[:PROBED].to(run_device()), validation.x.to(run_device())
    z = one_hot(validation.y, sets.num_classes).to(x)
    with torch.no_grad():
        latent, held_out = encoder(seen), encoder(x)
    probe = linear_probe(latent, sets.train.y[:PROBED], held_out, validation.y)
    return TaskUse(task_gain(network, {"z": z}, x), probe)


def sweep_widths(
    config: ImagesConfig, sets: ImageSets, checkpoints: Path | None, report: Report
) -> Widths:
    """Train the paper's network at several widths of its bottleneck, with the first seed.

    Args:
        config: the study.
        sets: the images; everything is measured on validation.
        checkpoints: the folder of the checkpoints; None keeps none.
        report: called with what is being done, once an epoch.
    """
    seed, widths = config.first_seed, {}
    for width, latent in WIDTHS:
        name = f"{PAPER}, d = {width}, {latent}"
        this = replace(config, bottleneck=width, bottleneck_latent=latent)
        network = paper_network(sets, seed, bottleneck=width, hidden=config.hidden, latent=latent)
        train(network, name, seed, sets.train, this, checkpoints, report)
        widths[name] = Width(measure_use(network, sets), _one_step(network, sets, config.chunk))
    return widths


def _one_step(network: ConditionedAutoencoder, sets: ImageSets, chunk: int) -> float:
    parts = sets.validation.x.split(chunk)
    answers = [OneStepGradient()(network, part.to(run_device())).logits().cpu() for part in parts]
    return 100 * accuracy(torch.cat(answers), sets.validation.y)
