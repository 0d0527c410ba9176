import math
import re
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro_models import TASK, gaussian, gaussian_scores, log_joint_by_pyro, normal, random_log_prior
from torch import Tensor, nn

from gbi_pyro import (
    Enumeration,
    GradientEM,
    OnlineEM,
    TaskChain,
    TaskSiteError,
    clamp_tasks,
    clamped_loss,
    relaxed_log_joint,
)


def labelled(x: Tensor, z: Tensor | None, means: Tensor, log_prior: Tensor) -> None:
    with pyro.plate("sequence", len(x)):
        prior = dist.OneHotCategorical(logits=log_prior)
        z = pyro.sample("z", prior, obs=z, infer=TASK)
        pyro.sample("x", dist.Normal(z @ means, 0.5), obs=x)


def test_with_labels_it_is_pyros_log_joint_per_observation(generator: torch.Generator) -> None:
    x, means, log_prior = normal(generator, 6), normal(generator, 3), random_log_prior(generator, 3)
    z = torch.eye(3, dtype=torch.float64)[torch.randint(3, (6,), generator=generator)]
    expected = -log_joint_by_pyro(gaussian, {"z": z}, x, means, 0.5, log_prior) / 6
    clamped = clamp_tasks(gaussian, {"z": z})
    observed = poutine.condition(gaussian, {"z": z})
    for loss in (
        clamped_loss(labelled, x, z, means, log_prior),
        clamped_loss(clamped, x, means, 0.5, log_prior),
        clamped_loss(observed, x, means, 0.5, log_prior),
    ):
        torch.testing.assert_close(loss, expected)


def test_mixtures_are_scored_as_mixtures_by_either_way_of_giving_them(
    generator: torch.Generator,
) -> None:
    x, means, log_prior = normal(generator, 6), normal(generator, 3), random_log_prior(generator, 3)
    q = normal(generator, 6, 3).softmax(-1)
    joint = relaxed_log_joint(gaussian, {"z": q}, x, means, 0.5, log_prior)
    clamped = clamp_tasks(gaussian, {"z": q})
    torch.testing.assert_close(clamped_loss(clamped, x, means, 0.5, log_prior), -joint.total / 6)
    torch.testing.assert_close(clamped_loss(labelled, x, q, means, log_prior), -joint.total / 6)


def test_its_gradient_averages_to_that_of_the_log_evidence(generator: torch.Generator) -> None:
    """Fisher's identity: E_q(z|x) grad log p(x, z) = grad log p(x) for the exact posterior."""
    x, log_prior = normal(generator, 6), random_log_prior(generator, 3)
    means = normal(generator, 3).requires_grad_()
    posterior = Enumeration()(gaussian, x, means, 0.5, log_prior)
    expected = torch.zeros(3, dtype=torch.float64)
    for k in range(3):
        z = torch.eye(3, dtype=torch.float64)[torch.full((6,), k)]
        per_element = [
            torch.autograd.grad(
                -clamped_loss(labelled, x[i : i + 1], z[i : i + 1], means, log_prior), means
            )[0]
            for i in range(6)
        ]
        expected += (posterior.probs()[:, k, None] * torch.stack(per_element)).sum(0)
    evidence = gaussian_scores(x, means, 0.5, log_prior).logsumexp(-1).sum()
    (direct,) = torch.autograd.grad(evidence, means)
    torch.testing.assert_close(expected, direct)


def test_it_trains_a_network_with_torchs_optimisers(generator: torch.Generator) -> None:
    truth = torch.tensor([0.2, 0.8])
    means = torch.zeros(2, requires_grad=True)
    z = torch.eye(2)[torch.randint(2, (400,), generator=generator)]
    x = z @ truth + 0.1 * torch.randn(400, generator=generator)
    optimiser = torch.optim.Adam([means], lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        clamped_loss(labelled, x, z, means, torch.zeros(2)).backward()
        optimiser.step()
    with torch.no_grad():
        errors = (means - truth).abs() / (0.1 / z.sum(0).sqrt())
    assert (errors <= 5).all()


def test_a_mask_leaves_out_terms_and_counts(generator: torch.Generator) -> None:
    """A padded batch has the loss of its sequences without the padding."""
    x, means, log_prior = normal(generator, 6), normal(generator, 3), random_log_prior(generator, 3)
    z = torch.eye(3, dtype=torch.float64)[torch.randint(3, (6,), generator=generator)]
    mask = torch.tensor([True, True, False, True, False, True])
    padded = x.masked_fill(~mask, math.nan)
    loss = clamped_loss(poutine.mask(labelled, mask=mask), padded, z, means, log_prior)
    expected = clamped_loss(labelled, x[mask], z[mask], means, log_prior)
    torch.testing.assert_close(loss, expected)


def test_masked_padding_sends_no_gradient(generator: torch.Generator) -> None:
    x = torch.tensor([0.3, math.nan], dtype=torch.float64)
    means = normal(generator, 2).requires_grad_()
    mask, z = torch.tensor([True, False]), torch.eye(2, dtype=torch.float64)
    log_prior = random_log_prior(generator, 2)
    loss = clamped_loss(poutine.mask(labelled, mask=mask), x, z, means, log_prior)
    (slope,) = torch.autograd.grad(loss, means)
    torch.testing.assert_close(slope[0], (means[0].detach() - 0.3) / 0.25)
    assert slope[1] == 0


def test_a_subsample_is_not_scaled_up(generator: torch.Generator) -> None:
    x, means, log_prior = normal(generator, 6), normal(generator, 2), random_log_prior(generator, 2)
    z = torch.eye(2, dtype=torch.float64)[torch.randint(2, (6,), generator=generator)]
    index = torch.tensor([4, 1])

    def model() -> None:
        with pyro.plate("sequence", 6, subsample=index):
            prior = dist.OneHotCategorical(logits=log_prior)
            task = pyro.sample("z", prior, obs=z[index], infer=TASK)
            pyro.sample("x", dist.Normal(task @ means, 0.5), obs=x[index])

    expected = clamped_loss(labelled, x[index], z[index], means, log_prior)
    torch.testing.assert_close(clamped_loss(model), expected)


def test_a_task_that_nobody_gave_is_an_error() -> None:
    args = torch.zeros(2), None, torch.tensor([0.0, 1.0]), torch.zeros(2)
    with pytest.raises(TaskSiteError) as error:
        clamped_loss(labelled, *args)
    for part in ("'z' was given no point", "labels", "name it among the values"):
        assert part in str(error.value)


def test_labels_are_checked() -> None:
    means, log_prior = torch.tensor([0.0, 1.0]), torch.zeros(2)
    labels = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    with pytest.raises(TaskSiteError, match="off the simplex"):
        clamped_loss(labelled, torch.zeros(2), labels, means, log_prior)
    bad = torch.tensor([0.0, math.nan])
    with pytest.raises(TaskSiteError, match="'x' have 1 NaN"):
        clamped_loss(labelled, bad, torch.eye(2), means, log_prior)


def test_a_model_without_data_is_an_error() -> None:
    def model() -> None:
        prior = dist.OneHotCategorical(torch.ones(2))
        pyro.sample("z", prior, obs=torch.tensor([1.0, 0.0]), infer=TASK)

    with pytest.raises(TaskSiteError, match=r"observes nothing: expected .*\(obs="):
        clamped_loss(model)


# Gradients that are not finite


class RootAtZero(nn.Module):
    """A scale whose gradient is infinite at the start, while the log probability is finite."""

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.tensor([0.0, 1.0]))
        self.variance = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("trial", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
            pyro.sample("x", self.step(x, z, None)[0], obs=x)

    def step(self, previous: Tensor, z: Tensor, state: Any) -> tuple[Any, Any]:
        return dist.Normal(z @ self.means, 1 + self.variance.sqrt()), state

    def initial_state(self, *batch_shape: int) -> None:
        """Carry nothing."""


def test_gradients_that_are_not_finite_never_reach_the_weights() -> None:
    network = RootAtZero()
    optim = torch.optim.Adam(network.parameters(), 0.1)
    expected = re.escape("gradient of parameter 'variance' has 1 NaN or infinite element(s)")
    em = GradientEM(network, Enumeration(), optim)
    with pytest.raises(TaskSiteError, match=expected):
        em.step(torch.tensor([0.5, 1.0]))
    with pytest.raises(TaskSiteError, match=expected):
        OnlineEM(network, optim, TaskChain.sticky(2, 0.1)).step(torch.tensor(0.3))
    assert network.means.tolist() == [0.0, 1.0]
    assert network.variance.item() == 0.0
    assert not em.history
    assert not optim.state
    assert all(p.grad is None for p in network.parameters())


def test_a_batch_without_data_that_count_teaches_nothing() -> None:
    network = RootAtZero()
    masked = poutine.mask(network, mask=False)
    em = GradientEM(masked, Enumeration(), torch.optim.SGD(network.parameters(), 0.1))
    with pytest.raises(ValueError, match=r"all data of this batch are masked.*leave the batch out"):
        em.step(torch.zeros(2))
