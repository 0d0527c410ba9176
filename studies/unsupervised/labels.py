"""Labels for some steps only, from all of them to none, five tasks and fewer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gbi_pyro.data.switching import Stream
from gbi_pyro.metrics.agreement import kl
from studies.unsupervised.batch import draw_sets, fit, trainer
from studies.unsupervised.config import (
    FRACTIONS,
    MEANS,
    USUAL,
    DiscoverConfig,
    generator,
)
from studies.unsupervised.networks import SideBySide, first_means, log_emission
from studies.unsupervised.rivals import GaussianHMM, baum_welch, sticky
from gbi_pyro.inference.hmm import hmm_posterior
from gbi_pyro.learning.labels import UNKNOWN, clamp_log_likelihoods, match_labels
from gbi_pyro.learning.task_prior import log_pairwise

FOUND_FIRST = "found first, then named and clamped"
CLAMPED = "clamped from a random start"
HMM = "Gaussian HMM"
HAZARD_STEPS = 10
FEW, MANY = 0.01, 0.5  # fractions: the bar's, and one that leaves no doubt which task is which


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
        ``known``: the labels known by fraction and seed; ``unnamed``: of how many tasks none is
        known (two of them cannot be told apart by name); ``means``, ``sigma`` and ``hazard`` of the
        networks that 1 % of the labels served, by seed, the tasks in the order of the labels.
    """
    true = MEANS[num_tasks]
    data = draw_sets(config, true, sigma, config.labelled_sequences, "stream")
    test = draw_sets(config, true, sigma, config.test_sequences, "held out").x
    stream = config.stream(true, sigma)
    exact = _filtered(stream_model(stream.means, sigma, config.hazard, len(test)), test)
    first = fit(
        config,
        data.x,
        num_tasks,
        restarts=config.restarts,
        start_steps=config.start_steps,
        steps=config.em_steps,
    )
    q = first.em.infer(data.x.flatten(0, 1)).probs().unflatten(0, data.x.shape[:2])
    known = torch.stack([_hidden(config, data.z, fraction) for fraction in FRACTIONS])
    # Without any label the tasks have no names: they are named on all, to be scored.
    naming = torch.stack([y if f else data.z for f, y in zip(FRACTIONS, known, strict=True)])
    names = torch.stack([torch.stack(list(map(match_labels, q, y))) for y in naming])
    # -1, unknown, is the last of the names, and its own.
    renamed = names.gather(2, known.flatten(2) % names.shape[-1]).reshape(known.shape)
    copies = len(FRACTIONS)
    network = SideBySide(
        first.network.means.detach().repeat(copies, 1), first.network.sigma.detach().repeat(copies)
    )
    x = data.x.repeat(copies, 1, 1)
    model = _train(config, network, x, renamed.flatten(0, 1), config.label_steps)
    named = model._replace(means=model.means.gather(1, names.flatten(0, 1)[:, :-1]))
    found = _divergences(exact, _filtered(named, test.repeat(copies, 1, 1)))
    divergence = {FOUND_FIRST: dict(zip(map(_key, FRACTIONS), found, strict=True))}
    divergence[CLAMPED] = _clamped(config, data, exact, test)
    few = FRACTIONS.index(FEW)
    kept = {
        name: values.unflatten(0, (copies, -1))[few].tolist()
        for name, values in {
            "means": named.means,
            "sigma": named.sigma[:, 0],
            "hazard": 1 - named.log_transition[:, 0, 0].exp(),
        }.items()
    }
    plain = baum_welch(data.x.double(), num_tasks, config)
    p = plain.posterior(data.x.double()).log_smoothed.exp()
    order = torch.stack([match_labels(a, z)[:-1] for a, z in zip(p, data.z, strict=True)])
    filtered = plain.posterior(test.double()).log_filtered
    index = order[:, None, None].expand_as(filtered)
    divergence[HMM] = {_key(0.0): _divergences(exact, filtered.gather(-1, index))[0]}
    counts = (known != UNKNOWN).sum((2, 3)).tolist()
    return {
        "divergence": divergence,
        "known": dict(zip(map(_key, FRACTIONS), counts, strict=True)),
        "unnamed": dict(zip(map(_key, FRACTIONS), _unnamed(known, num_tasks), strict=True)),
        **kept,
    }


def stream_model(means: tuple[float, ...], sigma: float, hazard: float, copies: int) -> GaussianHMM:
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


def _divergences(exact: Tensor, filtered: Tensor) -> list[list[float]]:
    """Return the mean divergence of every data set, for each of the copies in ``filtered``."""
    copies = filtered.unflatten(0, (-1, len(exact)))
    return kl(exact.expand_as(copies), copies).mean((2, 3)).tolist()


def _unnamed(known: Tensor, num_tasks: int) -> list[list[int]]:
    """Return of how many tasks no label is known, by fraction and data set."""
    labelled = torch.nn.functional.one_hot(known + 1, num_tasks + 1)[..., 1:].amax((2, 3))
    return (num_tasks - labelled.sum(-1)).tolist()


def _key(fraction: float) -> str:
    return f"{fraction:g}"


def _hidden(config: DiscoverConfig, z: Tensor, fraction: float) -> Tensor:
    seeds = config.all_seeds
    return torch.stack([hide(one, fraction, s) for one, s in zip(z, seeds, strict=True)])


def _train(
    config: DiscoverConfig, network: SideBySide, x: Tensor, labels: Tensor, steps: int
) -> GaussianHMM:
    """Train with some labels clamped, the rate falling to zero; the hazard is learned last."""
    em = trainer(config, network, network.means.shape[-1])
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(em.optim, steps)
    flat, clamped = x.flatten(0, 1), labels.flatten(0, 1)
    for _ in range(steps):
        em.step(flat, labels=clamped)
        falling.step()
    means, sigma = network.means.detach(), network.sigma.detach()
    return learn_hazard(config, x, labels, means, sigma)


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
    emission = log_emission(x.double(), model.means.unsqueeze(1), model.sigma.unsqueeze(1))
    emission = clamp_log_likelihoods(emission, labels)
    for _ in range(HAZARD_STEPS):
        found = hmm_posterior(
            model.log_initial.unsqueeze(1), model.log_transition[:, None], emission, viterbi=False
        )
        pairs = log_pairwise(found, model.log_transition[:, None]).exp().sum((1, 2))
        stays = pairs.diagonal(dim1=-2, dim2=-1).sum(-1)
        total = pairs.sum((-2, -1)) + config.stay + config.switch
        hazard = 1 - (stays + config.stay) / total
        model = model._replace(log_transition=sticky(hazard, means.shape[-1]))
    return model


def _clamped(
    config: DiscoverConfig, data: Stream, exact: Tensor, test: Tensor
) -> dict[str, list[float]]:
    """Train with few labels clamped from the first step on, which is the trap."""
    some = [fraction for fraction in FRACTIONS if 0 < fraction < MANY]
    K = exact.shape[-1]
    means = [first_means(K, config.spread, generator(s, "weights")) for s in config.all_seeds]
    network = SideBySide(torch.stack(means).repeat(len(some), 1))
    labels = torch.cat([_hidden(config, data.z, fraction) for fraction in some])
    steps = config.start_steps + config.em_steps + config.label_steps  # as many as the other way
    model = _train(config, network, data.x.repeat(len(some), 1, 1), labels, steps)
    found = _divergences(exact, _filtered(model, test.repeat(len(some), 1, 1)))
    return dict(zip(map(_key, some), found, strict=True))
