"""The networks, and recognisers trained on the same images (claim of conditioning, C5)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from gbi_pyro.data.images import Images, ImageSets
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.recogniser import Recogniser, forward_kl_loss, reverse_kl_loss
from gbi_pyro.learning.weights import clamped_loss
from gbi_pyro.metrics.recalibration import temper
from gbi_pyro.models.image import EncoderClassifier
from gbi_pyro.posterior import TaskPosterior
from studies.baselines.config import BaselinesConfig
from studies.core.image_networks import PAPER, Autoencoder, affine_network, paper_network
from studies.core.training import descend

CODES = 64  # principal directions of the affine head's code space, at most
ENUMERATION = Enumeration(check=False)  # images do not influence each other


def train_model(config: BaselinesConfig, sets: ImageSets, name: str, seed: int) -> Autoencoder:
    """Train one network on images given their class; it is returned frozen, in eval mode."""
    hidden = config.hidden
    model: Autoencoder
    if name == PAPER:
        model = paper_network(sets, seed, bottleneck=config.bottleneck, hidden=hidden)
    else:
        model = affine_network(sets, seed, codes=CODES, latent=config.latent, hidden=hidden)
    draw = torch.Generator().manual_seed(seed)

    def loss(_epoch: int, index: Tensor) -> Tensor:
        x, y = sets.train.x[index], sets.train.y[index]
        return clamped_loss(model, x, one_hot(y, sets.num_classes).to(x.dtype), generator=draw)

    for _ in _epochs(config, model, loss, len(sets.train.x), draw):
        pass
    model.requires_grad_(False)
    return model


def train_recogniser(
    config: BaselinesConfig, sets: ImageSets, model: Autoencoder, seed: int, *, reverse: bool
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
    loss, held_out = (
        _divergence(recogniser, model, images, reverse) for images in (sets.train, sets.validation)
    )
    everyone, best, kept = torch.arange(len(sets.validation.x)), float("inf"), network.state_dict()

    def tempered(epoch: int, index: Tensor) -> Tensor:
        return loss(index, config.temperature(epoch))

    for _ in _epochs(config, network, tempered, len(sets.train.x), draw):
        with torch.no_grad():
            value = held_out(everyone, 1.0).item()
        if value < best:
            best, kept = value, copy.deepcopy(network.state_dict())
    network.load_state_dict(kept)
    return recogniser


def _divergence(
    recogniser: Recogniser, model: Autoencoder, images: Images, reverse: bool
) -> Callable[[Tensor, float], Tensor]:
    """Return the divergence on some of the images; only the reverse one depends on T."""
    if not reverse:
        return lambda index, _T: forward_kl_loss(
            recogniser, model, images.y[index], images.x[index]
        )
    exact = ENUMERATION(model, images.x)
    return lambda index, T: reverse_kl_loss(recogniser, rows(exact, index, T), images.x[index])


def rows(posterior: TaskPosterior, index: Tensor, T: float = 1.0) -> TaskPosterior:
    """Return the posterior of some of the images that it was inferred for, at a temperature."""
    name = posterior.site_name()
    site = posterior.sites[name]
    part = replace(site, log_prior=site.log_prior[index], plates=(None,))
    return TaskPosterior({name: temper(posterior.logits()[index], T)}, {name: part}, "rows")


def _epochs(
    config: BaselinesConfig,
    network: nn.Module,
    loss: Callable[[int, Tensor], Tensor],
    num_images: int,
    draw: torch.Generator,
) -> Iterator[int]:
    """Train epoch by epoch; each is given when it is done, with the network in eval mode."""
    optimiser = torch.optim.Adam(network.parameters(), lr=config.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda epoch: min(1.0, 2 * (1 - epoch / config.epochs))
    )
    for epoch in range(config.epochs):
        network.train()
        order = torch.randperm(num_images, generator=draw)
        descend(loss, ((epoch, index) for index in order.split(config.batch)), optimiser)
        schedule.step()
        network.eval()
        yield epoch
