"""Identities of the method, exact to rounding: on the affine model and on trained networks.

On the affine Gaussian model everything is known (M2, M6, M7); on a trained network some quantities
must not differ, to the last bit (M1, M4, M8).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor

from gbi_pyro.inference.calibration import calibrate
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.stepwise import stepwise
from gbi_pyro.logjoint import relaxed_log_joint
from gbi_pyro.metrics.agreement import kl
from gbi_pyro.models.switching import SwitchingGaussian
from studies.toy.config import ToyConfig, generator
from studies.toy.training import Trained, test_stream

FIVE_MEANS = (0.0, 0.25, 0.5, 0.75, 1.0)
NOISES = (0.1, 0.3)
NORMS = (0.1, 1.0, 5.0, 20.0)  # of logits, at which the entropy and the L2 penalty are compared


@dataclass(frozen=True)
class Identities:
    """What must hold to rounding, or what the closed form says, for one seed.

    Attributes:
        two_tasks: max |one step - exact| for two tasks (M7).
        objective: max |f_1(exact posterior) - log evidence| (M2).
        five_tasks: KL(exact || estimate) for five tasks, by noise and estimate (M7).
        cosines: of the gradients of entropy and L2 penalty, by norm of the logits (M6).
        observed: relative difference of log p(x, z) between the task observed as data and the same
            task clamped to a point of the simplex (M1).
        weights: the largest change of a weight by a latent update (M4).
        future: the largest change of the log likelihoods of steps before the middle of the stream
            when everything after it is replaced (M8).
    """

    two_tasks: float
    objective: float
    five_tasks: dict[float, dict[str, float]]
    cosines: dict[float, float]
    observed: float
    weights: float
    future: float


def measure_identities(config: ToyConfig, seed: int, trained: Trained) -> Identities:
    """Measure every identity with the draws of a seed and its network."""
    draw = generator(seed, "test")
    two_tasks, objective = two_task_difference(draw)
    five_tasks = {sigma: five_task_divergences(draw, sigma) for sigma in NOISES}
    cosines = {norm: penalty_cosine(norm, draw) for norm in NORMS}
    observed, weights, future = _network_differences(config, seed, trained)
    return Identities(two_tasks, objective, five_tasks, cosines, observed, weights, future)


def _network_differences(
    config: ToyConfig, seed: int, trained: Trained
) -> tuple[float, float, float]:
    network, data = trained.network, test_stream(config, seed, trained.stream)
    z = data.one_hot(trained.stream.num_tasks)
    observed = poutine.trace(network).get_trace(data.x, z).log_prob_sum()
    clamped = relaxed_log_joint(network, {"z": z}, data.x).total

    before = [p.clone() for p in network.parameters()]
    found = OneStepGradient()(stepwise(network, data.x)).logits()
    moved = max(
        (p - b).abs().max().item() for p, b in zip(network.parameters(), before, strict=True)
    )
    half = data.x.shape[1] // 2
    other = torch.cat([data.x[:, :half], 1 - data.x[:, half:]], 1)
    changed = OneStepGradient()(stepwise(network, other)).logits()
    difference = (found - changed)[:, :half].abs().max().item()
    return ((observed - clamped) / observed).abs().item(), moved, difference


def _draw(model: SwitchingGaussian, draw: torch.Generator, steps: int = 2000) -> Tensor:
    prior = model.log_prior.softmax(-1)
    z = torch.multinomial(prior, steps, replacement=True, generator=draw)
    noise = torch.randn(1, steps, generator=draw, dtype=torch.float64)
    return model.means[z] + model.sigma * noise


def two_task_difference(draw: torch.Generator) -> tuple[float, float]:
    """Return max |one step - exact| for two tasks with random means, noise and prior.

    The second number is max |f_1(exact posterior) - log evidence| (M2).
    """
    means = torch.randn(2, generator=draw, dtype=torch.float64)
    sigma = 0.1 + torch.rand((), generator=draw).item()
    log_prior = torch.randn(2, generator=draw, dtype=torch.float64).log_softmax(-1)
    model = SwitchingGaussian(means, sigma, log_prior)
    x = _draw(model, draw)
    exact = Enumeration()(model, x)
    difference = (exact.probs() - OneStepGradient()(model, x).probs()).abs().max().item()
    assert exact.objective is not None
    assert exact.log_evidence is not None
    gap = (exact.objective.total - exact.log_evidence).abs().max().item()
    return difference, gap


def five_task_divergences(draw: torch.Generator, sigma: float) -> dict[str, float]:
    """Return KL(exact || estimate) for five even means, and what the bias of one step predicts.

    Exact inference charges task k with |mu_k - mu_bar|^2 / 2 sigma^2, whatever x is; one step does
    not. So the prediction is the exact posterior with that charge taken back.
    """
    means = torch.tensor(FIVE_MEANS, dtype=torch.float64)
    model = SwitchingGaussian(means, sigma)
    x, other = _draw(model, draw), _draw(model, draw)
    exact, one_step = Enumeration()(model, x), OneStepGradient()(model, x)
    calibration = calibrate(OneStepGradient()(model, other), Enumeration()(model, other))
    bias = (means - means.mean()).square() / (2 * sigma**2)
    estimates = {
        "as it is": one_step.logits(),
        "as predicted": (exact.logits() + bias).log_softmax(-1),
        "second order": OneStepGradient(order=2)(model, x).logits(),
        "calibrated": OneStepGradient(calibration=calibration)(model, x).logits(),
    }
    return {name: kl(exact.logits(), q).mean().item() for name, q in estimates.items()}


def penalty_cosine(norm: float, draw: torch.Generator, num_tasks: int = 10) -> float:
    """Return the mean cosine of the gradients of H(q) and of -|y|^2 / 2 in the logits y (M6)."""
    y = torch.randn(500, num_tasks, generator=draw, dtype=torch.float64)
    y = y - y.mean(-1, keepdim=True)
    y = (y * norm / y.norm(dim=-1, keepdim=True)).requires_grad_()
    entropy = torch.special.entr(y.softmax(-1)).sum()
    (slope,) = torch.autograd.grad(entropy, y)
    return torch.nn.functional.cosine_similarity(slope, -y.detach(), dim=-1).mean().item()
