"""The cost of inferring the class of 1000 images, in forward passes of the same network."""

from __future__ import annotations

import torch

from benchmarks.rows import ratio_rows
from gbi_pyro import Enumeration, OneStepGradient, relaxed_log_joint
from gbi_pyro.models.affine_head import AffineHeadAutoencoder, pca_basis
from gbi_pyro.models.image import ConditionedAutoencoder, ImageModel
from studies.core.table import Row, Target
from studies.images.config import ImagesConfig

BATCH, CLASSES = 1000, 10


def image_networks() -> tuple[torch.Tensor, AffineHeadAutoencoder, ConditionedAutoencoder]:
    """Return 1000 images, and the study's networks with the class in their head and their code."""
    config, draw = ImagesConfig(), torch.Generator().manual_seed(0)
    x = torch.rand(BATCH, 1, 28, 28, generator=draw)
    wide = {"latent_size": config.latent, "hidden_size": config.affine_hidden}
    affine = AffineHeadAutoencoder(pca_basis(x, config.codes), CLASSES, generator=draw, **wide)
    narrow = {"latent_size": config.bottleneck, "hidden_size": config.hidden}
    paper = ConditionedAutoencoder((1, 28, 28), CLASSES, generator=draw, **narrow)
    for network in (affine, paper):
        network.requires_grad_(False).eval()
    return x, affine, paper


def images(seconds: float) -> list[Row]:
    """Compare inference with one run of the model at maximum entropy, without gradient."""
    x, affine, paper = image_networks()
    rows: list[Row] = []
    for name, network in (("affine head", affine), ("paper's network", paper)):

        def forward(network: ImageModel = network) -> None:
            with torch.no_grad():
                relaxed_log_joint(network, {"z": network.uniform(BATCH)}, x)

        jobs = {"one step": lambda network=network: OneStepGradient()(network, x)}
        if network is affine:
            jobs["exact"] = lambda: OneStepGradient()(affine.exact, x)
        jobs["enumeration"] = lambda network=network: Enumeration(check=False)(network, x)
        for what, job in jobs.items():
            limits = (
                {"forward pass": Target(1.3)} if what == "one step" and network is affine else {}
            )
            rows += ratio_rows(f"{name}: {what}", job, {"forward pass": forward}, seconds, limits)
    return rows
