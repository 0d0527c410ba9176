"""Nearest centroid: exact where its assumption holds, and nothing but a forward pass."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro_models import TASK, gaussian, gaussian_scores, normal
from scipy.stats import chi2
from torch import Tensor, nn

from gbi_pyro import BayesFilter, Enumeration, OneStepGradient, TaskChain, TaskSiteError
from gbi_pyro.inference import NearestCentroid, fit_centroids
from gbi_pyro.logjoint import Passes
from gbi_pyro.metrics import kl

F64 = torch.float64
SIGMA = 0.7
MEANS = torch.tensor([[0.0, 0.0], [1.5, 0.0], [0.5, 1.2]], dtype=F64)
LOG_PRIOR = torch.tensor([0.5, 0.3, 0.2], dtype=F64).log()
mixture = partial(gaussian, means=MEANS, sigma=SIGMA, log_prior=LOG_PRIOR)


def same(x: Tensor) -> Tensor:
    return x


def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    z = torch.multinomial(LOG_PRIOR.exp(), n, replacement=True, generator=generator)
    return MEANS[z] + SIGMA * normal(generator, n, 2), z


def tolerance(x: Tensor, n: int) -> float:
    """The divergence that sampling errors of centroids and variance make, at most once in 1e6.

    KL = Var_p(d) / 2 <= E_p d^2 / 2 for errors d_k of the log odds, and to first order d_k is
    (x - c_k) . e_k / v + |x - c_k|^2 e_v / 2 v^2, with e_k ~ Normal(0, v / n_k) and
    e_v ~ Normal(0, 2 v^2 / D (N - K)). It is a quadratic form of K D + 1 normal variables, whose
    tail is no heavier than that of one variable with the same mean.
    """
    p = gaussian_scores(x, MEANS, SIGMA, LOG_PRIOR).softmax(-1)
    squares = (x.unsqueeze(1) - MEANS).square().sum(-1) / SIGMA**2
    of_centroids = squares / (n * LOG_PRIOR.exp())
    of_variance = squares.square() / (2 * MEANS.shape[1] * (n - len(MEANS)))
    expected = 0.5 * (p * (of_centroids + of_variance)).sum(-1).mean()
    return float(expected * chi2.isf(1e-6, 1))


@pytest.mark.parametrize("n", [300, 3_000, 300_000])
def test_it_comes_to_the_exact_posterior_of_a_spherical_mixture(
    n: int, generator: torch.Generator
) -> None:
    x, z = draw(n, generator)
    nearest = fit_centroids(same, z, 3, x)
    judge, _ = draw(4000, generator)
    exact = gaussian_scores(judge, MEANS, SIGMA, LOG_PRIOR).log_softmax(-1)
    divergence = kl(exact, nearest(mixture, judge).logits()).mean().item()
    assert divergence <= tolerance(judge, n)


def test_the_true_centroids_and_variance_give_the_exact_posterior(
    generator: torch.Generator,
) -> None:
    x, _ = draw(200, generator)
    nearest = NearestCentroid(same, MEANS, SIGMA**2)(mixture, x)
    exact = Enumeration()(mixture, x)
    torch.testing.assert_close(nearest.logits(), exact.logits(), rtol=0, atol=1e-12)


def test_inside_the_bayes_filter_it_is_evidence_like_any_other(generator: torch.Generator) -> None:
    means = torch.tensor([0.2, 0.8], dtype=F64)

    def model(x: Tensor) -> None:
        with pyro.plate("sequence", x.shape[0], dim=-2), pyro.plate("time", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.OneHotCategorical(means.new_tensor([0.7, 0.3])), infer=TASK)
            pyro.sample("x", dist.Normal(z @ means, 0.3), obs=x)

    x = normal(generator, 3, 20)
    chain = TaskChain.sticky(2, hazard=0.1)
    nearest = NearestCentroid(lambda x: x.unsqueeze(-1), means.unsqueeze(-1), 0.3**2)
    found, exact = (BayesFilter(infer, chain)(model, x) for infer in (nearest, Enumeration()))
    torch.testing.assert_close(found.logits(), exact.logits(), rtol=0, atol=1e-10)


def test_it_spends_one_forward_pass_of_the_features_and_no_backward_one(
    generator: torch.Generator,
) -> None:
    x, z = draw(50, generator)
    calls: list[int] = []

    def features(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x

    nearest = fit_centroids(features, z, 3, x)
    posterior = nearest(mixture, x)
    assert posterior.passes == Passes(forward=1, backward=0, check=1)
    assert calls == [50, 50]  # one to fit, one to infer
    assert posterior.method == "nearest centroid"
    # What an element explains: one vector, whatever the inference.
    one_step = OneStepGradient()(mixture, x).num_observations["z"]
    assert torch.equal(posterior.num_observations["z"], one_step)


def test_neither_network_nor_random_state_is_touched(generator: torch.Generator) -> None:
    network = nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Dropout(0.5)).double()
    before = {n: t.clone() for n, t in network.state_dict().items()}
    state = torch.get_rng_state()
    x, z = draw(50, generator)
    fit_centroids(network, z, 3, x)(mixture, x)
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_moving_and_scaling_the_features_changes_nothing(generator: torch.Generator) -> None:
    x, z = draw(300, generator)
    rotation, _ = torch.linalg.qr(normal(generator, 2, 2))
    moved = fit_centroids(lambda x: 40.0 + 3.0 * x @ rotation, z, 3, x)
    plain = fit_centroids(same, z, 3, x)
    assert moved.variance == pytest.approx(9 * plain.variance, rel=1e-10)
    torch.testing.assert_close(
        moved(mixture, x).logits(), plain(mixture, x).logits(), rtol=0, atol=1e-9
    )


def test_unknown_labels_do_not_count(generator: torch.Generator) -> None:
    x, z = draw(300, generator)
    some = fit_centroids(same, torch.where(torch.arange(300) < 200, z, -1), 3, x)
    alone = fit_centroids(same, z[:200], 3, x[:200])
    torch.testing.assert_close(some.centroids, alone.centroids)
    assert some.variance == pytest.approx(alone.variance)


def test_a_forbidden_task_stays_forbidden(generator: torch.Generator) -> None:
    x, _ = draw(20, generator)
    log_prior = torch.tensor([0.5, 0.5, 0.0], dtype=F64).log()
    model = partial(gaussian, means=MEANS, sigma=SIGMA, log_prior=log_prior)
    assert not NearestCentroid(same, MEANS, 1.0)(model, x).probs()[:, 2].any()


def test_what_does_not_fit_is_refused(generator: torch.Generator) -> None:
    x, z = draw(30, generator)
    nearest = NearestCentroid(same, MEANS, 1.0)
    with pytest.raises(ValueError, match=r"centroids should be \(K, D\)"):
        NearestCentroid(same, MEANS[0], 1.0)
    with pytest.raises(ValueError, match="centroids have NaN"):
        NearestCentroid(same, MEANS * torch.nan, 1.0)
    with pytest.raises(ValueError, match="variance should be positive"):
        NearestCentroid(same, MEANS, 0.0)
    with pytest.raises(ValueError, match="centroids are those of 2 tasks"):
        NearestCentroid(same, MEANS[:2], 1.0)(mixture, x)
    with pytest.raises(ValueError, match=r"features has shape \(30, 1\), expected \(30, 2\)"):
        NearestCentroid(lambda x: x[:, :1], MEANS, 1.0)(mixture, x)
    with pytest.raises(ValueError, match="features has NaN"):
        NearestCentroid(lambda x: x / 0, MEANS, 1.0)(mixture, x)
    with pytest.raises(TaskSiteError, match="2 task sites"):
        nearest(_two_tasks, x)
    with pytest.raises(ValueError, match=r"features have shape \(30,\)"):
        fit_centroids(lambda x: x[:, 0], z, 3, x)
    with pytest.raises(ValueError, match="labels should name every one of 4 tasks"):
        fit_centroids(same, z, 4, x)
    with pytest.raises(ValueError, match="one of them twice"):
        fit_centroids(same, torch.arange(3), 3, x[:3])
    with pytest.raises(ValueError, match="do not vary"):
        fit_centroids(lambda x: nn.functional.one_hot(z, 3).double(), z, 3, x)
    with pytest.raises(ValueError, match="labels have shape"):
        fit_centroids(same, z[:7], 3, x)


def _two_tasks(x: Tensor) -> None:
    prior = dist.OneHotCategorical(logits=LOG_PRIOR)
    with pyro.plate("sequence", len(x)):
        z, w = (pyro.sample(name, prior, infer=TASK) for name in "zw")
        pyro.sample("x", dist.Normal((z + w) @ MEANS, SIGMA).to_event(1), obs=x)
