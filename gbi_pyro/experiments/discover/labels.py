"""Labels for some steps only, from all of them to none, five tasks and fewer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gbi_pyro.data.switching import Stream
from gbi_pyro.diagnostics.agreement import kl
from gbi_pyro.experiments.discover.batch import draw_sets, fit, trainer
from gbi_pyro.experiments.discover.config import (
    FRACTIONS,
    MEANS,
    USUAL,
    DiscoverConfig,
    generator,
)
from gbi_pyro.experiments.discover.networks import SideBySide, first_means, log_emission
from gbi_pyro.experiments.discover.rivals import GaussianHMM, baum_welch, sticky
from gbi_pyro.inference.em import GradientEM
from gbi_pyro.inference.hmm import hmm_posterior
from gbi_pyro.inference.labels import UNKNOWN, clamp_evidence, match_labels
from gbi_pyro.inference.task_prior import log_pairwise

FOUND_FIRST = "found first, then named and clamped"
CLAMPED = "clamped from a random start"
HMM = "Gaussian HMM"
HAZARD_STEPS = 10


def label_cases(config: DiscoverConfig) -> list[tuple[int, float]]:
    """Return the numbers of tasks and the noise: five tasks at every noise, fewer at the usual."""
    return [*((5, sigma) for sigma in config.sigmas), (2, USUAL), (3, USUAL)]


def hide(z: Tensor, fraction: float, seed: int) -> Tensor:
    """Return labels of which a fraction is known, -1 for the others.

    >>> hide(torch.tensor([[0, 1, 1, 0]]), 1.0, seed=0)
    tensor([[0, 1, 1, 0]])
    """
    known = torch.rand(z.shape, generator=generator(seed, "labels")) < fraction
    return z.where(known, torch.tensor(UNKNOWN))


def measure(config: DiscoverConfig, num_tasks: int, sigma: float) -> dict[str, Any]:
    """Train with every fraction of the labels; hold the filter on other data against the exact one.

    Returns:
        ``divergence``: filtered KL(exact || found) in nats per step, by way, fraction and seed;
        ``known``: the labels known by fraction and seed; ``means``, ``sigma`` and ``hazard`` of the
        networks that 1 % of the labels served, by seed, the tasks in the order of the labels.
    """
    true = MEANS[num_tasks]
    data = draw_sets(config, true, sigma, config.labelled_sequences, "stream")
    test = draw_sets(config, true, sigma, config.test_sequences, "held out").x
    stream = config.stream(true, sigma)
    exact = _filtered(stream_model(stream.means, sigma, config.hazard, len(test)), test)
    unlabelled = fit(
        config,
        data.x,
        num_tasks,
        restarts=config.restarts,
        start_steps=config.start_steps,
        steps=config.em_steps,
    )
    q = unlabelled.em.infer(data.x.flatten(0, 1)).probs().unflatten(0, data.x.shape[:2])
    divergence: dict[str, dict[str, list[float]]] = {FOUND_FIRST: {}, CLAMPED: {}, HMM: {}}
    known, kept = {}, {}
    for fraction in FRACTIONS:
        labels = torch.stack(
            [hide(z, fraction, seed) for z, seed in zip(data.z, config.all_seeds, strict=True)]
        )
        known[f"{fraction:g}"] = (labels != UNKNOWN).sum((1, 2)).tolist()
        # Without any label the tasks have no names: they are named on all, to be scored.
        naming = labels if fraction else data.z
        names = torch.stack([match_labels(p, y) for p, y in zip(q, naming, strict=True)])
        renamed = torch.stack([n[y] for n, y in zip(names, labels, strict=True)])
        start = unlabelled.network
        network = SideBySide(start.means.detach(), start.sigma.detach())
        model = _train(config, network, data, renamed)
        order = names[:, :-1]
        named = model._replace(means=model.means.gather(1, order))
        divergence[FOUND_FIRST][f"{fraction:g}"] = _divergence(exact, _filtered(named, test))
        if 0 < fraction < 1:
            divergence[CLAMPED][f"{fraction:g}"] = _clamped(config, data, labels, exact, test)
        if fraction == min(f for f in FRACTIONS if f):
            kept = {
                "means": named.means.tolist(),
                "sigma": named.sigma[:, 0].tolist(),
                "hazard": (1 - named.log_transition[:, 0, 0].exp()).tolist(),
            }
    plain = baum_welch(data.x.double(), num_tasks, config)
    p = plain.posterior(data.x.double()).log_smoothed.exp()
    order = torch.stack([match_labels(a, z)[:-1] for a, z in zip(p, data.z, strict=True)])
    filtered = plain.posterior(test.double()).log_filtered
    index = order[:, None, None].expand_as(filtered)
    divergence[HMM]["0"] = _divergence(exact, filtered.gather(-1, index))
    return {"divergence": divergence, "known": known, **kept}


def stream_model(
    means: tuple[float, ...], sigma: float, hazard: float, copies: int
) -> GaussianHMM:
    """Return the generator of a stream, once for each data set."""
    each = torch.tensor(means).double().expand(copies, -1)
    return _model(each, torch.full((copies,), sigma), torch.full((copies,), hazard))


def _model(means: Tensor, sigma: Tensor, hazard: Tensor) -> GaussianHMM:
    N, K = means.shape
    initial = torch.full((N, K), -math.log(K)).double()
    spread = sigma.double().unsqueeze(-1).expand(N, K)
    return GaussianHMM(initial, sticky(hazard.double(), K), means.double(), spread)


def _filtered(model: GaussianHMM, x: Tensor) -> Tensor:
    return model.posterior(x.double()).log_filtered


def _divergence(exact: Tensor, filtered: Tensor) -> list[float]:
    return kl(exact, filtered).mean((1, 2)).tolist()


def _train(
    config: DiscoverConfig, network: SideBySide, data: Stream, labels: Tensor, more: int = 0
) -> GaussianHMM:
    """Go on with some labels clamped, the rate falling to zero; the hazard is learned last."""
    em: GradientEM = trainer(config, network, network.means.shape[-1])
    steps = config.label_steps + more
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(em.optim, steps)
    x, flat = data.x.flatten(0, 1), labels.flatten(0, 1)
    for _ in range(steps):
        em.step(x, labels=flat)
        schedule.step()
    means, sigma = network.means.detach(), network.sigma.detach()
    return learn_hazard(config, data.x, labels, means, sigma)


def learn_hazard(
    config: DiscoverConfig, x: Tensor, labels: Tensor, means: Tensor, sigma: Tensor
) -> GaussianHMM:
    """Learn each data set's hazard by EM, the means at rest.

    Args:
        config: the study.
        x: ``(N, B, T)``.
        labels: ids, -1 where unknown, likewise.
        means: ``(N, K)``.
        sigma: ``(N,)``.
    """
    model = _model(means, sigma, torch.full((len(x),), config.hazard_guess))
    emission = log_emission(
        x.double(), model.means.unsqueeze(1), model.sigma.unsqueeze(1)
    )
    emission = clamp_evidence(emission, labels)
    for _ in range(HAZARD_STEPS):
        found = hmm_posterior(
            model.log_initial.unsqueeze(1), model.log_transition[:, None], emission
        )
        pairs = log_pairwise(found, model.log_transition[:, None]).exp().sum((1, 2))
        stays = pairs.diagonal(dim1=-2, dim2=-1).sum(-1)
        total = pairs.sum((-2, -1)) + config.stay + config.switch
        hazard = 1 - (stays + config.stay) / total
        model = model._replace(log_transition=sticky(hazard, means.shape[-1]))
    return model


def _clamped(
    config: DiscoverConfig, data: Stream, labels: Tensor, exact: Tensor, test: Tensor
) -> list[float]:
    """Train with the labels clamped from the first step on, which is the trap."""
    K = exact.shape[-1]
    means = [first_means(K, config.spread, generator(s, "weights")) for s in config.all_seeds]
    as_long = config.start_steps + config.em_steps
    model = _train(config, SideBySide(torch.stack(means)), data, labels, more=as_long)
    return _divergence(exact, _filtered(model, test))
