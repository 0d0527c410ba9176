"""Identities of the method on the affine Gaussian model, where everything is known (M2, M6, M7)."""

from __future__ import annotations

import torch
from torch import Tensor

from gbi_pyro.metrics.agreement import kl
from gbi_pyro.inference.calibration import calibrate
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.models.switching import SwitchingGaussian

FIVE_MEANS = (0.0, 0.25, 0.5, 0.75, 1.0)


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
