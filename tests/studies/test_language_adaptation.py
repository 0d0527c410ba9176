"""Adaptation at the head: the maximum under a prior, and what may move."""

import pytest
import torch

from gbi_pyro.models import LanguageLSTM
from studies.language.head_prior import HeadPrior, cut_sample, map_shift

V, K = 12, 3
PRIOR = HeadPrior(bias=0.5, features=0.3, mixture=2.0)


def network(num_tasks: int | None) -> LanguageLSTM:
    draw = torch.Generator().manual_seed(0)
    options = {"inout": True, "conditioning": "affine"} if num_tasks else {}
    made = LanguageLSTM(V, num_tasks, 5, 6, generator=draw, **options).double()
    for weight in (made.embedding.weight, made.bias, made.task_bias):
        if weight is not None:
            torch.nn.init.normal_(weight, generator=draw)
    return made.requires_grad_(False)


@pytest.fixture
def sample(generator: torch.Generator) -> torch.Tensor:
    return torch.randint(V, (4, 6), generator=generator)


@pytest.fixture
def spread(generator: torch.Generator) -> torch.Tensor:
    return 0.5 + torch.rand(V, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("num_tasks", [None, K])
def test_the_bias_is_where_excess_counts_balance_the_prior(num_tasks, sample, spread):
    """At the maximum b = S (c - E c), S = diag((s v)^2) + f^2 E E', c the counts of words."""
    net = network(num_tasks)
    found = map_shift(net, sample, PRIOR, spread)
    z = None if found.z is None else found.z.reshape(1, 1, -1)
    expected = (net.logits(sample, z) + found.bias).softmax(-1).sum((0, 1))
    excess = sample.flatten().bincount(minlength=V) - expected
    E = net.embedding.weight
    covariance = torch.diag((PRIOR.bias * spread) ** 2) + PRIOR.features**2 * E @ E.T
    torch.testing.assert_close(found.bias, covariance @ excess, atol=2e-3, rtol=1e-2)


def test_the_mixture_is_a_maximum_on_the_simplex_of_the_known(sample, spread):
    net, known = network(K), [0, 2]
    found = map_shift(net, sample, PRIOR, spread, known)
    assert found.z is not None
    assert found.z[1] == 0
    assert found.z.sum().item() == pytest.approx(1)

    def joint(z: torch.Tensor) -> float:
        words = (net.logits(sample, z.reshape(1, 1, -1)) + found.bias).log_softmax(-1)
        score = words.gather(-1, sample.unsqueeze(-1)).sum()
        return (score + PRIOR.mixture * z[known].log().mean()).item()

    for step in (-0.02, 0.02):
        assert joint(found.z + step * torch.tensor([1.0, 0.0, -1.0])) < joint(found.z)


def test_a_narrow_prior_leaves_the_network_and_the_middle_of_the_mixture(sample, spread):
    net = network(K)
    found = map_shift(net, sample, HeadPrior(1e-6, 1e-6, 1e9), spread)
    middle = net.log_prob(sample, net.uniform(len(sample)))
    torch.testing.assert_close(found.log_prob(net, sample), middle, atol=1e-5, rtol=1e-5)


def test_a_sample_is_cut_from_the_text_without_a_gap():
    text = torch.arange(500)
    sample = cut_sample(text, 100, 35, seed=3)
    assert sample.shape == (3, 33)
    assert (sample.flatten().diff() == 1).all()
