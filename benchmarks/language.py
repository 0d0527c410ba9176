"""The cost of inferring the corpus of 32 texts, in forward passes of the same network."""

from __future__ import annotations

import torch

from benchmarks.rows import ratio_rows
from gbi_pyro import Enumeration, OneStepGradient, relaxed_log_joint
from gbi_pyro.models.language_model import LanguageModel
from studies.core.table import Row, Target
from studies.language.config import JUDGED_AFTER, LanguageConfig
from studies.language.training import HEAD, HEAD_TRANSFORMER, PAPER, build

BATCH, CORPORA = 32, 10
MOST = {HEAD: 2.5, PAPER: 2.5, HEAD_TRANSFORMER: 2.2}
"""Forward passes that one step may cost, by network."""


def language_networks() -> tuple[torch.Tensor, dict[str, LanguageModel]]:
    """Return 32 texts, and networks of the study with the corpus in their head and their input."""
    config, draw = LanguageConfig(), torch.Generator().manual_seed(0)
    shape = (BATCH, JUDGED_AFTER)
    words = torch.randint(config.vocabulary_size, shape, generator=draw)
    networks = {kind: build(config, config.vocabulary_size, CORPORA, kind, 0) for kind in MOST}
    for network in networks.values():
        network.requires_grad_(False).eval()
    return words, networks


def language(seconds: float) -> list[Row]:
    """Compare inference with one run of the model at maximum entropy, without gradient."""
    words, networks = language_networks()
    rows: list[Row] = []
    for kind, network in networks.items():

        def forward(network: LanguageModel = network) -> None:
            with torch.no_grad():
                relaxed_log_joint(network, {"z": network.uniform(BATCH)}, words)

        jobs = {
            "one step": lambda network=network: OneStepGradient()(network, words),
            "enumeration": lambda network=network: Enumeration(check=False)(network, words),
        }
        for what, job in jobs.items():
            limits = {"forward pass": Target(MOST[kind])} if what == "one step" else {}
            name = f"language, {kind}: {what}"
            rows += ratio_rows(name, job, {"forward pass": forward}, seconds, limits)
    return rows
