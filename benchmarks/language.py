"""The cost of inferring the corpus of 32 texts, in forward passes of the same network."""

from __future__ import annotations

import torch

from benchmarks.timing import interleave
from gbi_pyro import Enumeration, OneStepGradient, relaxed_log_joint
from gbi_pyro.models.language import LanguageLSTM
from studies.core.table import Row, Target
from studies.language.config import JUDGED_AFTER, LanguageConfig

BATCH, CORPORA = 32, 10


def language_networks() -> tuple[torch.Tensor, dict[str, LanguageLSTM]]:
    """Return 32 texts, and the study's networks with the corpus in their head and their input."""
    config, draw = LanguageConfig(), torch.Generator().manual_seed(0)
    shape = (BATCH, JUDGED_AFTER)
    words = torch.randint(config.vocabulary_size, shape, generator=draw)
    sizes = (config.vocabulary_size, CORPORA, config.embedding_size, config.hidden_size)
    networks = {
        "language, task at the head": LanguageLSTM(
            *sizes, inout=True, conditioning="affine", generator=draw
        ),
        "language, task at the input": LanguageLSTM(*sizes, generator=draw),
    }
    for network in networks.values():
        network.requires_grad_(False).eval()
    return words, networks


def language(repeats: int) -> list[Row]:
    """Compare inference with one run of the model at maximum entropy, without gradient."""
    words, networks = language_networks()
    rows = []
    for name, network in networks.items():

        def forward(network: LanguageLSTM = network) -> None:
            with torch.no_grad():
                relaxed_log_joint(network, {"z": network.uniform(BATCH)}, words)

        jobs = {
            "one step": lambda network=network: OneStepGradient()(network, words),
            "enumeration": lambda network=network: Enumeration(check=False)(network, words),
        }
        for what, job in jobs.items():
            one, many, ratio = interleave(forward, job, repeats)
            note = f"{1e3 * many:.1f} ms against {1e3 * one:.1f} ms"
            target = Target(2.5) if what == "one step" else None
            rows.append(Row.of("", f"{name}: {what}, in forward passes", [ratio], target, note))
    return rows
