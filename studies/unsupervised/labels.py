"""Some labels, from all of them to none: filters compared with the exact one on other data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gbi_pyro.data.switching import Stream
from gbi_pyro.learning.labels import match_labels
from gbi_pyro.metrics.agreement import kl
from gbi_pyro.sites import UNKNOWN
from studies.core.protocol import Report
from studies.unsupervised.baselines import GaussianHMM, baum_welch
from studies.unsupervised.batch import fit, run_em, trainer
from studies.unsupervised.config import UnsupervisedConfig, generator
from studies.unsupervised.networks import SideBySide, first_means
from studies.unsupervised.streams import MEANS, Condition, draw_sets

FOUND_FIRST = "found first, then matched and clamped"
CLAMPED = "clamped from a random start"
HMM = "Gaussian HMM"
FRACTIONS = (1.0, 0.5, 0.1, 0.01, 0.0)  # of the labels that are known
FEW = 0.01  # the one that the target is stated for
CLAMPED_FRACTIONS = (0.1, 0.01)  # with half of the labels no start is too far from them
HAZARD_STEPS = 10


@dataclass(frozen=True)
class LabelsSeed:
    """What was measured on the data set of one seed.

    Attributes:
        divergence: filtered KL(exact || found) on other data, in nats per step, by method and
            fraction of the labels.
        known: how many labels are known, by fraction.
        without_label: of how many tasks none is known, by fraction; two of them cannot be matched.
        means: found with 1 % of the labels, the tasks in the order of the labels, ``(K,)``.
        sigma: found likewise.
        hazard: found likewise.
    """

    divergence: dict[str, dict[float, float]]
    known: dict[float, int]
    without_label: dict[float, int]
    means: Tensor
    sigma: float
    hazard: float


def measure_labels(
    config: UnsupervisedConfig, condition: Condition, seeds: Sequence[int], report: Report
) -> list[LabelsSeed]:
    """Train with every fraction of the labels, and compare the filters with the exact one."""
    N, K, stream = len(seeds), condition.num_tasks, condition.stream(config)
    data = draw_sets(config, stream, config.labelled_sequences, seeds, "stream")
    test = draw_sets(config, stream, config.test_sequences, seeds, "held out").x
    true = (torch.full((N,), value) for value in (condition.sigma, config.hazard))
    exact = _filtered(GaussianHMM.sticky(torch.tensor(MEANS[K]).expand(N, -1), *true), test)

    def divergence(filtered: Tensor) -> Tensor:
        """Return the mean divergence by fraction and data set, of ``(fractions N, B, T, K)``."""
        by_fraction = filtered.unflatten(0, (-1, N))
        return kl(exact.expand_as(by_fraction), by_fraction).mean((2, 3))

    known = {fraction: hide_labels(data.z, fraction, seeds) for fraction in FRACTIONS}
    report(FOUND_FIRST)
    model = _found_first(config, seeds, data, known, K)
    report(CLAMPED)
    clamped = _clamped_first(config, seeds, data.x, [known[f] for f in CLAMPED_FRACTIONS], K)
    report(HMM)
    plain = baum_welch(data.x, K, config)
    q = plain.posterior(data.x).log_smoothed.exp()
    order = torch.stack([match_labels(a, z)[:-1] for a, z in zip(q, data.z, strict=True)])
    filtered = _filtered(plain, test)
    filtered = filtered.gather(-1, order[:, None, None].expand_as(filtered))
    found = {
        FOUND_FIRST: dict(zip(FRACTIONS, divergence(_filtered(model, test)), strict=True)),
        CLAMPED: dict(zip(CLAMPED_FRACTIONS, divergence(_filtered(clamped, test)), strict=True)),
        HMM: {0.0: divergence(filtered)[0]},
    }
    few = FRACTIONS.index(FEW) * N
    return [
        LabelsSeed(
            divergence={m: {f: v[i].item() for f, v in by.items()} for m, by in found.items()},
            known={f: int((y[i] != UNKNOWN).sum()) for f, y in known.items()},
            without_label={f: K - len(y[i][y[i] != UNKNOWN].unique()) for f, y in known.items()},
            means=model.means[few + i],
            sigma=model.sigma[few + i, 0].item(),
            hazard=1 - model.log_transition[few + i, 0, 0].exp().item(),
        )
        for i in range(N)
    ]


def hide_labels(z: Tensor, fraction: float, seeds: Sequence[int]) -> Tensor:
    """Return the labels of the data sets of some seeds, -1 for those that are not known.

    >>> hide_labels(torch.tensor([[0, 1, 1, 0]]), 1.0, seeds=[0])
    tensor([[0, 1, 1, 0]])
    """
    drawn = [torch.rand(z.shape[1:], generator=generator(seed, "labels")) for seed in seeds]
    return z.where(torch.stack(drawn) < fraction, torch.tensor(UNKNOWN))


def _filtered(model: GaussianHMM, x: Tensor) -> Tensor:
    """Filter the data sets ``(N, B, T)`` by models of them, fraction after fraction."""
    return model.posterior(x.repeat(len(model.means) // len(x), 1, 1)).log_filtered


def _found_first(
    config: UnsupervisedConfig,
    seeds: Sequence[int],
    data: Stream,
    known: Mapping[float, Tensor],
    num_tasks: int,
) -> GaussianHMM:
    """Find the tasks without labels, match labels with them, clamp these, and go on.

    Returns models of the data sets, fraction after fraction, with tasks in the order of the labels.
    """
    first = fit(config, seeds, data.x, num_tasks)
    q = first.em.infer(data.x.flatten(0, 1)).probs().unflatten(0, data.x.shape[:2])
    # Without any label the tasks are matched with all of them, to be scored.
    shown = [y if fraction else data.z for fraction, y in known.items()]
    task_of = torch.stack([match_labels(*pair) for y in shown for pair in zip(q, y, strict=True)])
    # -1, unknown, is the last entry, and its own.
    labels = torch.cat(list(known.values()))
    matched = task_of.gather(1, labels.flatten(1) % task_of.shape[-1]).reshape(labels.shape)
    means, sigma = first.network.means.detach(), first.network.sigma.detach()
    network = SideBySide(means.repeat(len(known), 1), sigma.repeat(len(known)))
    model = _train(config, network, data.x, matched, config.label_steps)
    return model._replace(means=model.means.gather(1, task_of[:, :-1]))


def _clamped_first(
    config: UnsupervisedConfig,
    seeds: Sequence[int],
    x: Tensor,
    labels: Sequence[Tensor],
    num_tasks: int,
) -> GaussianHMM:
    """Train with labels clamped from the first step on, for as many steps as the other way."""
    means = [first_means(num_tasks, config.spread, generator(s, "weights")) for s in seeds]
    network = SideBySide(torch.stack(means).repeat(len(labels), 1))
    steps = config.start_steps + config.em_steps + config.label_steps
    return _train(config, network, x, torch.cat(list(labels)), steps)


def _train(
    config: UnsupervisedConfig, network: SideBySide, x: Tensor, labels: Tensor, steps: int
) -> GaussianHMM:
    """Train on the data sets, fraction after fraction, labels clamped; then learn the hazard."""
    em = trainer(config, network, network.means.shape[-1])
    x = x.repeat(len(labels) // len(x), 1, 1)
    run_em(em, x.flatten(0, 1), steps, labels.flatten(0, 1))
    return learn_hazard(config, x, labels, network.means.detach(), network.sigma.detach())


def learn_hazard(
    config: UnsupervisedConfig, x: Tensor, labels: Tensor, means: Tensor, sigma: Tensor
) -> GaussianHMM:
    """Learn the hazard of each data set by EM, the means at rest.

    Args:
        config: the study.
        x: ``(N, B, T)``.
        labels: ids, -1 where unknown, likewise.
        means: ``(N, K)``.
        sigma: ``(N,)``.
    """
    hazard = torch.full((len(x),), config.hazard_guess)
    for _ in range(HAZARD_STEPS):
        model = GaussianHMM.sticky(means, sigma, hazard)
        pairs = model.pairs(model.posterior(x, labels))
        stays = pairs.diagonal(dim1=-2, dim2=-1).sum(-1)
        hazard = 1 - (stays + config.stay) / (pairs.sum((-2, -1)) + config.stay + config.switch)
    return GaussianHMM.sticky(means, sigma, hazard)
