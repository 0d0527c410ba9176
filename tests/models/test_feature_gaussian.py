import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, MultivariateNormal

from gbi_pyro import Enumeration, OneStepGradient, clamped_loss, relaxed_log_joint
from gbi_pyro.files import Manifest
from gbi_pyro.models import (
    AffineHeadAutoencoder,
    FeatureGaussian,
    PatchFeatures,
    feature_em,
    feature_moments,
    load_network,
    pca_basis,
    responsibilities,
    save_networks,
    split_prototypes,
)
from gbi_pyro.models.feature_gaussian import PrototypeNormal

F64 = torch.float64
N, K, D = 9, 4, 6
LOG_PRIOR = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64).log()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=F64)


def gaussian(J: int = 1, phi: nn.Module | None = None) -> FeatureGaussian:
    root = normal(D, D)
    weights = normal(K, J, seed=1).softmax(-1)
    L = torch.linalg.cholesky(root @ root.mT + torch.eye(D, dtype=F64))
    return FeatureGaussian(
        phi or nn.Identity(), 2 * normal(K, J, D, seed=2), L, weights=weights, log_prior=LOG_PRIOR
    )


def labelled(n: int = 400, J: int = 1) -> tuple[Tensor, Tensor]:
    """Draws from the model, with their tasks."""
    model = gaussian(J)
    y = Categorical(logits=LOG_PRIOR).expand((n,)).sample()
    j = Categorical(logits=model.log_weights[y]).sample()
    return (model.means[y, j] + normal(n, D, seed=5) @ model.scale_tril.mT).detach(), y


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("J", [1, 3])
def test_one_step_is_the_exact_posterior_at_one_pass(J: int) -> None:
    model, x = gaussian(J), 3 * normal(N, D, seed=3)
    exact = Enumeration()(model, x).logits()
    for each in (model, model.discriminant()):
        posterior = OneStepGradient()(each.exact, x)
        torch.testing.assert_close(posterior.logits(), exact, rtol=0, atol=1e-10)
        assert posterior.passes[:2] == (1, 1)
    assert (OneStepGradient()(model, x).logits() - exact).abs().max() > 0.1  # why the factor


@pytest.mark.parametrize("J", [1, 3])
def test_density_is_that_of_the_mixture(J: int) -> None:
    model, x = gaussian(J), normal(N, D, seed=3)
    law = MultivariateNormal(model.means, scale_tril=model.scale_tril)
    expected = (law.log_prob(x[:, None, None]) + model.log_weights).logsumexp(-1)
    torch.testing.assert_close(model.log_likelihoods(x), expected)
    away = torch.linalg.solve(model.scale_tril, x[0] - model.means[1, J - 1]).square().sum()
    torch.testing.assert_close(model.squared_distances(x)[0, 1, J - 1], away)
    for k in range(K):
        z = torch.eye(K, dtype=F64)[k].expand(N, K)
        for run in (model, model.exact):
            found = relaxed_log_joint(run, {"z": z}, x).likelihood
            torch.testing.assert_close(found, expected[:, k].sum())


@pytest.mark.parametrize("J", [1, 2])
def test_log_joint_of_exact_is_linear_in_the_task(J: int) -> None:
    model, x = gaussian(J), normal(N, D, seed=3)
    q = normal(N, K, seed=4).softmax(-1)
    found = relaxed_log_joint(model.exact, {"z": q}, x).likelihood
    torch.testing.assert_close(found, (q * model.log_likelihoods(x)).sum())


def test_the_rest_beside_the_discriminant_says_nothing_of_the_task() -> None:
    model, x = gaussian(2), normal(N, D, seed=3)
    small = model.discriminant()
    assert small.means.shape[-1] == min(D, K * 2 - 1)
    away = gaussian().squared_distances(x) - gaussian().discriminant().squared_distances(
        gaussian().discriminant().features(x)
    )
    # |L^-1 (phi - m_k)|^2 is the distance in discriminant coordinates and a rest that all share.
    torch.testing.assert_close(away, away[:, :1].expand_as(away))
    assert away.min() > 0


def test_posterior_does_not_depend_on_the_coordinates_of_the_features() -> None:
    x, y = labelled()
    B, b = normal(D, D, seed=8), normal(D, seed=9)
    found = []
    for features in (x, x @ B + b):
        moments = feature_moments(nn.Identity(), features, y, K)
        model = moments.gaussian(nn.Identity(), shrinkage=0.0)
        found.append(OneStepGradient()(model.exact, features).logits())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-8)


def test_closed_form_is_a_stationary_point_of_the_likelihood() -> None:
    x, y = labelled()
    model = feature_moments(nn.Identity(), x, y, K).gaussian(nn.Identity(), shrinkage=0.0)
    z = nn.functional.one_hot(y, K).to(F64)
    clamped_loss(model, x, z).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() < 1e-10
    shares = torch.bincount(y, minlength=K) / len(y)
    torch.testing.assert_close(model.log_prior.exp(), shares.double())


def test_gradient_finds_the_closed_form() -> None:
    x, y = labelled(200)
    z = nn.functional.one_hot(y, K).to(F64)
    best = feature_moments(nn.Identity(), x, y, K).gaussian(nn.Identity(), shrinkage=0.0)
    model = FeatureGaussian(
        nn.Identity(), torch.zeros(K, D, dtype=F64), torch.eye(D, dtype=F64), log_prior=LOG_PRIOR
    )
    optimiser = torch.optim.LBFGS(
        model.parameters(), max_iter=300, line_search_fn="strong_wolfe", tolerance_change=1e-14
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = clamped_loss(model, x, z)
        loss.backward()
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(model.means, best.means, rtol=0, atol=1e-3)
    torch.testing.assert_close(model.scale_tril, best.scale_tril, rtol=0, atol=1e-3)


def test_moments_by_chunks_and_mirrored() -> None:
    x = torch.rand(1200, 1, 3, 3, generator=seeded(), dtype=F64)
    y = torch.arange(1200) % K
    phi = nn.Flatten()
    both = feature_moments(phi, x, y, K, mirror=True)
    same = feature_moments(phi, torch.cat([x, x.flip(-1)]), torch.cat([y, y]), K)
    torch.testing.assert_close(both.covariance(), same.covariance())
    within = torch.stack([(x[y == k].flatten(1)).mT.cov(correction=0) for k in range(K)]).mean(0)
    plain = feature_moments(phi, x, y, K)
    torch.testing.assert_close(plain.covariance(), within)
    full = plain.gaussian(phi, 1.0)
    torch.testing.assert_close(full.scale_tril, within.diagonal().sqrt().diag())


def test_shrinkage_makes_few_images_enough() -> None:
    x, _ = labelled(D)
    moments = feature_moments(nn.Identity(), x, torch.arange(D) % K, K)
    with pytest.raises(ValueError, match="not positive definite: take more shrinkage"):
        moments.gaussian(nn.Identity(), shrinkage=0.0)
    assert moments.gaussian(nn.Identity(), shrinkage=0.5).scale_tril.isfinite().all()


def test_any_fixed_features_and_none_of_them_trained() -> None:
    x = torch.rand(50, 1, 8, 8, generator=seeded())
    y = torch.arange(50) % 3
    encoder = AffineHeadAutoencoder(pca_basis(x, 4), 3, hidden_size=8, latent_size=5).encoder
    patches = PatchFeatures.fit(x, 2, seeded(), patch=4, pool=1)
    for phi in (encoder, patches):
        model = feature_moments(phi.eval(), x, y, 3).gaussian(phi, 0.2, (1, 8, 8)).train()
        assert not phi.training
        clamped_loss(model, x, nn.functional.one_hot(y, 3).float()).backward()
        assert all(p.grad is None for p in phi.parameters())
        assert OneStepGradient()(model.exact, x).probs().shape == (50, 3)


def test_draws_follow_the_model() -> None:
    model, n = gaussian(2), 20_000
    z = torch.tensor([0.3, 0.7, 0.0, 0.0], dtype=F64)
    weights = z @ model.log_weights.exp()
    means = torch.einsum("k,kjd->jd", z, model.means).detach()
    law = PrototypeNormal(means, weights.log(), torch.tensor(0.0, dtype=F64))
    draws = law.sample((n,))
    assert draws.shape == (n, D) == law.expand((n,)).sample().shape
    expected = weights @ means
    error = draws.std(0) / n**0.5
    assert ((draws.mean(0) - expected).abs() < 5 * error).all()


def test_saved_and_loaded(tmp_path: Path) -> None:
    model, other, x = gaussian(2), gaussian(2), normal(N, D)
    with torch.no_grad():
        other.means.zero_()
    save_networks(tmp_path, {"features": model})
    Manifest.write(tmp_path)
    load_network(tmp_path, "features", into=other)
    assert torch.equal(other.log_likelihoods(x), model.log_likelihoods(x))


# Expectation maximisation


@pytest.mark.parametrize("known", [0.0, 0.1, 1.0])
def test_em_never_lowers_the_evidence(known: float) -> None:
    x, y = labelled(300, J=2)
    labels = y.where(torch.rand(300, generator=seeded()) < known, torch.tensor(-1))
    q = split_prototypes(x, y, K, 2, seeded())
    torch.testing.assert_close(q.sum((1, 2)), torch.ones(300, dtype=F64))
    start = FeatureGaussian(nn.Identity(), x[: 2 * K].reshape(K, 2, D), 2 * torch.eye(D, dtype=F64))
    model, evidence = feature_em(start, x, labels, steps=30)
    assert min(b - a for a, b in itertools.pairwise(evidence)) > -1e-10
    joint = responsibilities(model, x, labels)[1].mean().item()
    assert joint >= evidence[-1] - 1e-10
    assert math.isfinite(joint)


def test_em_with_all_labels_is_the_closed_form() -> None:
    x, y = labelled()
    start = FeatureGaussian(nn.Identity(), normal(K, D), torch.eye(D, dtype=F64))
    model, _ = feature_em(start, x, y, steps=1)
    best = feature_moments(nn.Identity(), x, y, K).gaussian(nn.Identity(), 0.0)
    for name, value in best.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_responsibilities_are_bayes_rule() -> None:
    model, x = gaussian(3), normal(N, D, seed=3)
    q, evidence = responsibilities(model, x)
    torch.testing.assert_close(q.sum(-1), Enumeration()(model, x).probs())
    joint = model.log_likelihoods(x) + LOG_PRIOR
    torch.testing.assert_close(evidence, joint.logsumexp(-1))
    known, _ = responsibilities(model, x, torch.full((N,), 2))
    torch.testing.assert_close(known[:, 2].sum(-1), torch.ones(N, dtype=F64))


# Errors


def test_wrong_arguments() -> None:
    eye, x = torch.eye(D, dtype=F64), normal(N, D)
    with pytest.raises(ValueError, match="means have shape"):
        FeatureGaussian(nn.Identity(), torch.zeros(D, dtype=F64), eye)
    with pytest.raises(ValueError, match="scale_tril has shape"):
        FeatureGaussian(nn.Identity(), normal(K, D + 1), eye)
    with pytest.raises(ValueError, match="weights has shape"):
        FeatureGaussian(nn.Identity(), normal(K, D), eye, weights=torch.ones(K, 2))
    with pytest.raises(ValueError, match="expected floating numbers"):
        gaussian()(x[:, 1:])
    moments = feature_moments(nn.Identity(), x, torch.arange(N) % 2, K)
    with pytest.raises(ValueError, match="tasks \\[2, 3\\] have no images"):
        moments.gaussian(nn.Identity(), 0.1)
    with pytest.raises(ValueError, match="shrinkage must be between 0 and 1"):
        moments.gaussian(nn.Identity(), 1.1)
    with pytest.raises(ValueError, match=r"9 images and tasks of shape \(8,\)"):
        feature_moments(nn.Identity(), x, torch.zeros(8, dtype=torch.long), K)
    with pytest.raises(ValueError, match="integers from 0 to 3"):
        feature_moments(nn.Identity(), x, torch.full((N,), K), K)
    with pytest.raises(ValueError, match="labels should be 9 integers"):
        responsibilities(gaussian(), x, torch.full((N,), K))
    with pytest.raises(ValueError, match="task 0 has 3 features, expected 4"):
        split_prototypes(x, torch.arange(N) % 3, 3, 4, seeded())


def test_without_tasks_the_moments_are_those_of_one_gaussian() -> None:
    x, y = labelled()
    model = feature_moments(nn.Identity(), x, y, K).without_tasks().gaussian(nn.Identity(), 0.0)
    law = MultivariateNormal(x.mean(0), x.mT.cov(correction=0))
    found = model.log_likelihoods(x)
    torch.testing.assert_close(found[:, 0], law.log_prob(x))
    torch.testing.assert_close(found[:, 1], found[:, 0])


def test_what_would_give_a_plausible_number_is_refused() -> None:
    x, y = normal(6, D), torch.tensor([0, 1, 2, 3, 0, 1])
    upper = torch.eye(D, dtype=F64) + torch.ones(D, D, dtype=F64).triu(1)
    for factor in (upper, -torch.eye(D, dtype=F64)):
        with pytest.raises(ValueError, match="lower triangular with a positive diagonal"):
            FeatureGaussian(nn.Identity(), normal(K, D), factor)
    with pytest.raises(ValueError, match=r"tasks of shape \(6, 4\)"):
        feature_moments(nn.Identity(), x, nn.functional.one_hot(y, K), K)
    with pytest.raises(ValueError, match="features should be finite"):
        feature_moments(nn.Identity(), x * math.nan, y, K).gaussian(nn.Identity(), 0.1)
    with pytest.raises(ValueError, match=r"of torch\.float32 from 0\.5"):
        responsibilities(gaussian(), x, torch.full((6,), 0.5))
