"""Rivals at the price of one pass: what else could tell the task, on the same trained networks.

Images given their class (the task is the class), two kinds of network: the paper's, whose task
enters by concatenation, and the affine head. On each of them every way to answer "which task?":

- one gradient step, plain and calibrated (against enumeration, on validation images);
- enumeration, the exact posterior of the network, which the divergences are measured from;
- nearest centroid in a hidden layer of the frozen network's own encoder;
- a recogniser with an encoder of the same size, trained on the same images by forward KL (labels;
  it never asks the model) or by reverse KL (the network's posterior; it never asks for labels).

Every choice is made on validation images: the layer by accuracy, the epoch at which
a recogniser is taken by its own divergence, temperatures by ``match_temperature``.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from gbi_pyro.data.images import Images, ImageSets, load_images
from gbi_pyro.metrics.agreement import kl
from gbi_pyro.metrics.scores import accuracy, log_score
from gbi_pyro.metrics.recalibration import fit_temperature, match_temperature, temper
from studies.images.config import ImagesConfig
from studies.images.training import AFFINE, PAPER, build
from studies.core.protocol import Seeds
from gbi_pyro.inference.calibration import calibrate
from gbi_pyro.inference.centroid import NearestCentroid, fit_centroids
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.recogniser import Recogniser, forward_kl_loss, reverse_kl_loss
from gbi_pyro.learning.weights import clamped_loss
from gbi_pyro.models.image import EncoderClassifier
from gbi_pyro.posterior import TaskPosterior

Infer = Callable[..., TaskPosterior]
Report = Callable[[str], None]
KINDS = (PAPER, AFFINE)
ONE_STEP, CALIBRATED, EXACT = "one step", "one step, calibrated", "enumeration"
CENTROID = "nearest centroid"
FORWARD, REVERSE = "recogniser, forward KL", "recogniser, reverse KL"
METHODS = (ONE_STEP, CALIBRATED, EXACT, CENTROID, FORWARD, REVERSE)
ACCURACY, LOG_SCORE = "accuracy", "-log q(label)"
KL, KL_TEMPERED = "KL(exact || it)", "KL(exact || it), one temperature"
PASSES = ("forward", "backward", "check")
ENUMERATION = Enumeration(check=False)  # images do not influence each other


@dataclass(frozen=True)
class RivalsConfig(Seeds):
    """Everything the comparison of rivals depends on.

    Attributes:
        dataset: ``digits``, ``mnist``, ``fashion`` or another of ``load_images``.
        data: folder of its files; not for digits.
        seeds: how many networks of each kind are trained.
        first_seed: their seeds are ``first_seed``, ``first_seed + 1``, ...
        epochs: passes over the training images, for networks and recognisers alike.
        batch: images per weight update.
        rate: Adam's; it falls linearly to zero over the second half.
        hidden: hidden units of all networks.
        bottleneck: size of the latent of the paper's network.
        latent: size of the noisy latent of the affine head, and of the recognisers' plain one.
        hot: temperature of the posterior that reverse KL starts from; it falls geometrically to 1
            over the first half. At 1 from the start the recogniser settles on a few classes. Of
            1, 30 and 300 the best by its divergence on validation images, seeds 1000 and 1001.
        judged_on: ``test``, or ``validation`` for a choice.
    """

    dataset: str = "digits"
    data: str | None = None
    seeds: int = 10
    first_seed: int = 0
    epochs: int = 30
    batch: int = 64
    rate: float = 0.003
    hidden: int = 128
    bottleneck: int = 6
    latent: int = 32
    hot: float = 300.0
    judged_on: str = "test"

    def __post_init__(self) -> None:
        self.check_at_least_one("seeds", "epochs", "batch", "hidden", "bottleneck", "latent")
        if not self.rate > 0:
            raise ValueError(f"rate must be positive, got {self.rate}")
        if self.judged_on not in ("test", "validation"):
            raise ValueError(f"judged_on must be test or validation, got {self.judged_on!r}")
        if not self.hot >= 1:
            raise ValueError(f"hot must be at least 1, the temperature it falls to; got {self.hot}")

    def fast(self) -> RivalsConfig:
        """Return a configuration that runs through everything in seconds and shows nothing."""
        return replace(self, seeds=min(self.seeds, 2), epochs=2, hidden=32, batch=128)


def measure(config: RivalsConfig, report: Report = lambda _: None) -> dict[str, Any]:
    """Train the networks and their rivals, and score every method on the test images.

    Returns:
        For each kind of network and each of ``METHODS`` lists by seed of accuracy (a share), log
        score, divergence from enumeration in nats, raw and tempered, and passes by sort;
        ``"layer"`` under ``"nearest centroid"``; ``"seconds"`` is the time it took.
    """
    start = time.perf_counter()
    found: dict[str, Any] = {kind: {method: {} for method in METHODS} for kind in KINDS}
    for seed in config.all_seeds:
        sets = load_images(config.dataset, config.data, seed=seed)
        if config.judged_on == "validation":
            sets = sets._replace(test=sets.validation)
        forward = None
        for kind in KINDS:
            report(f"rivals, seed {seed}: {kind}")
            model = train_model(config, sets, kind, seed)
            # It asks no model but for the uniform prior: one serves all.
            forward = forward or train_recogniser(config, sets, model, seed, reverse=False)
            for method, values in measure_one(config, sets, model, forward, seed).items():
                for name, value in values.items():
                    found[kind][method].setdefault(name, []).append(value)
    return {**found, "seconds": time.perf_counter() - start}


def measure_one(
    config: RivalsConfig, sets: ImageSets, model: nn.Module, forward: Recogniser, seed: int
) -> dict[str, dict[str, Any]]:
    """Score every method on one trained network."""
    inferences: dict[str, Infer] = {ONE_STEP: OneStepGradient(), EXACT: ENUMERATION}
    held = sets.validation
    calibration = calibrate(OneStepGradient()(model, held.x), ENUMERATION(model, held.x))
    inferences[CALIBRATED] = OneStepGradient(calibration=calibration)
    layer, inferences[CENTROID] = best_centroids(model, sets)
    inferences[FORWARD] = forward
    inferences[REVERSE] = train_recogniser(config, sets, model, seed, reverse=True)
    found = score(inferences, model, sets)
    found[CENTROID]["layer"] = layer
    return found


def score(
    inferences: dict[str, Infer], model: nn.Module, sets: ImageSets
) -> dict[str, dict[str, Any]]:
    """Hold methods against labels and against enumeration, on test images.

    Likelihoods of images are overconfident: for the tempered divergence the exact posterior is
    tempered to the labels of validation images, and each method to it, by one temperature each.
    """
    validation = {n: infer(model, sets.validation.x).logits() for n, infer in inferences.items()}
    test = {n: infer(model, sets.test.x) for n, infer in inferences.items()}
    T = fit_temperature(validation[EXACT], sets.validation.y, default=1.0)
    exact = test[EXACT].logits()
    found: dict[str, dict[str, Any]] = {}
    for name, posterior in test.items():
        log_q = posterior.logits()
        own = match_temperature(validation[name], temper(validation[EXACT], T))
        found[name] = {
            ACCURACY: accuracy(log_q, sets.test.y),
            LOG_SCORE: log_score(log_q, sets.test.y),
            KL: kl(exact, log_q).mean().item(),
            KL_TEMPERED: kl(temper(exact, T), temper(log_q, own)).mean().item(),
            **{sort: getattr(posterior.passes, sort) for sort in PASSES},
        }
    return found


def train_model(config: RivalsConfig, sets: ImageSets, kind: str, seed: int) -> nn.Module:
    """Train one network on images given their class; it is returned frozen, in eval mode."""
    images = ImagesConfig(
        dataset=config.dataset,
        bottleneck=config.bottleneck,
        hidden=config.hidden,
        latent=config.latent,
        affine_hidden=config.hidden,
    )
    model = build(images, sets, kind, seed)
    draw = torch.Generator().manual_seed(seed)

    def loss(index: Tensor) -> Tensor:
        x, y = sets.train.x[index], sets.train.y[index]
        z = one_hot(y, sets.num_classes).to(x.dtype)
        return clamped_loss(model, x, z, generator=draw)

    _descend(config, model, loss, len(sets.train.x), draw)
    return model.requires_grad_(False).eval()


def _descend(
    config: RivalsConfig,
    network: nn.Module,
    loss: Callable[[Tensor], Tensor],
    num_images: int,
    draw: torch.Generator,
    after_epoch: Callable[[], None] = lambda: None,
) -> None:
    optimiser = torch.optim.Adam(network.parameters(), lr=config.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda epoch: min(1.0, 2 * (1 - epoch / config.epochs))
    )
    for _ in range(config.epochs):
        network.train()
        for index in torch.randperm(num_images, generator=draw).split(config.batch):
            value = loss(index)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        schedule.step()
        network.eval()
        after_epoch()


def best_centroids(model: nn.Module, sets: ImageSets) -> tuple[str, NearestCentroid]:
    """Fit centroids in each layer of the frozen encoder; return the one that names labels best."""
    layers = hidden_layers(model)
    fitted = {
        name: fit_centroids(h, sets.train.y, sets.num_classes, sets.train.x)
        for name, h in layers.items()
    }
    held = sets.validation
    right = {n: accuracy(c(model, held.x).logits(), held.y) for n, c in fitted.items()}
    best = max(right, key=lambda name: right[name])
    return best, fitted[best]


def hidden_layers(model: nn.Module) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the layers of a model's encoder as functions of the images: hidden and latent."""
    encoder = model.encoder
    first = encoder.layers[:-1]  # type: ignore[index, union-attr]
    return {"hidden": first, "latent": encoder}  # type: ignore[dict-item]


def train_recogniser(
    config: RivalsConfig, sets: ImageSets, model: nn.Module, seed: int, *, reverse: bool
) -> Recogniser:
    """Train a recogniser of a frozen model, and take it at its best epoch on validation images.

    Args:
        config: the comparison.
        sets: the images, the same that the model was trained on.
        model: frozen.
        seed: of weights and batches.
        reverse: whether by reverse KL, without labels; else by forward KL, with them.
    """
    draw = torch.Generator().manual_seed(seed)
    network = EncoderClassifier(
        tuple(sets.train.x.shape[1:]),
        sets.num_classes,
        latent_size=config.latent,
        hidden_size=config.hidden,
        latent="plain",
        generator=draw,
    )
    recogniser = Recogniser(network.logits)
    exact = {"train": sets.train, "validation": sets.validation}
    posteriors = {n: ENUMERATION(model, images.x) for n, images in exact.items() if reverse}

    def divergence(name: str, images: Images, index: Tensor, T: float = 1.0) -> Tensor:
        x = images.x[index]
        if reverse:
            return reverse_kl_loss(recogniser, rows(posteriors[name], index, T), x)
        return forward_kl_loss(recogniser, model, images.y[index], x)

    best, kept, epoch = float("inf"), copy.deepcopy(network.state_dict()), 0
    held = torch.arange(len(sets.validation.x))

    def keep_the_best() -> None:
        nonlocal best, kept, epoch
        epoch += 1
        with torch.no_grad():
            value = divergence("validation", sets.validation, held).item()
        if value < best:
            best, kept = value, copy.deepcopy(network.state_dict())

    _descend(
        config,
        network,
        lambda index: divergence("train", sets.train, index, temperature(config, epoch)),
        len(sets.train.x),
        draw,
        keep_the_best,
    )
    network.load_state_dict(kept)
    return recogniser


def temperature(config: RivalsConfig, epoch: int) -> float:
    """Return the temperature of an epoch: from ``hot`` to 1 over the first half.

    >>> config = RivalsConfig(epochs=4, hot=9.0)
    >>> [round(temperature(config, epoch), 6) for epoch in range(4)]
    [9.0, 3.0, 1.0, 1.0]
    """
    return config.hot ** max(0.0, 1 - 2 * epoch / config.epochs)


def rows(posterior: TaskPosterior, index: Tensor, T: float = 1.0) -> TaskPosterior:
    """Return the posterior of some of the images that it was inferred for, at a temperature."""
    name = posterior.site_name()
    site = posterior.sites[name]
    part = replace(site, log_prior=site.log_prior[index], plates=(None,))
    return TaskPosterior({name: temper(posterior.logits()[index], T)}, {name: part}, "rows")
