import math
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor

from gbi_pyro import (
    AutoTaskGuide,
    Enumeration,
    OneStepGradient,
    TaskSiteError,
    clamp_tasks,
    clamped_loss,
    find_task_sites,
    relaxed_log_joint,
)
from gbi_pyro.models import (
    AffineHeadAutoencoder,
    ConditionedAutoencoder,
    ConditionedDecoder,
    EncoderClassifier,
    ImageModel,
    IsotropicNormal,
    PCABasis,
    pca_basis,
)
from gbi_pyro.models.affine_head import mix

F64 = torch.float64
N, K, R = 5, 3, 4
FLAT, CONV = (4, 4), (1, 8, 8)
LOG_PRIOR = torch.tensor([0.2, 0.5, 0.3], dtype=F64).log()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = N, shape: tuple[int, ...] = FLAT, seed: int = 7) -> Tensor:
    return torch.rand((n, *shape), generator=seeded(seed), dtype=F64)


def simplex(*batch: int, seed: int = 3) -> Tensor:
    return torch.randn((*batch, K), generator=seeded(seed), dtype=F64).softmax(-1)


def corners(n: int = N) -> Tensor:
    """Each corner for each image: (K, n, K)."""
    return torch.eye(K, dtype=F64).unsqueeze(1).expand(K, n, K)


def autoencoder(**options: Any) -> ConditionedAutoencoder:
    settings = {"latent_size": 3, "hidden_size": 8, "log_prior": LOG_PRIOR, **options}
    shape = CONV if options.get("network") == "conv" else FLAT
    return ConditionedAutoencoder(shape, K, **settings, generator=seeded()).double().eval()


def decoder(**options: Any) -> ConditionedDecoder:
    settings = {"hidden_size": 8, "log_prior": LOG_PRIOR, **options}
    shape = CONV if options.get("network") == "conv" else FLAT
    return ConditionedDecoder(shape, K, **settings, generator=seeded()).double().eval()


def affine(seed: int = 0, **options: Any) -> AffineHeadAutoencoder:
    settings = {"latent_size": 5, "hidden_size": 8, "log_prior": LOG_PRIOR, **options}
    shape = CONV if options.get("network") == "conv" else FLAT
    basis = pca_basis(images(40, shape), R)
    model = AffineHeadAutoencoder(basis, K, **settings, generator=seeded(seed)).double().eval()
    # Means that the noise tells apart, at unequal distances from their centroid.
    model.head[-1].weight.data *= 4.0
    return model


MODELS: dict[str, Callable[..., ImageModel]] = {
    "autoencoder": autoencoder,
    "autoencoder, noisy": lambda **o: autoencoder(latent="noisy", **o),
    "autoencoder, conv": lambda **o: autoencoder(network="conv", **o),
    "autoencoder, Bernoulli": lambda **o: autoencoder(likelihood="bernoulli", **o),
    "decoder": decoder,
    "decoder, conv": lambda **o: decoder(network="conv", **o),
    "affine head": affine,
    "affine head, conv": lambda **o: affine(network="conv", **o),
}
every_model = pytest.mark.parametrize("name", MODELS)


def with_images(name: str, **options: Any) -> tuple[ImageModel, Tensor]:
    model = MODELS[name](**options)
    return model, images(shape=model.image_shape)


# Every model


@every_model
def test_enumeration_is_bayes_rule_by_hand(name: str) -> None:
    model, x = with_images(name)
    with torch.no_grad():
        if isinstance(model, AffineHeadAutoencoder):
            means, data = model.task_means(x).movedim(1, 0), model.codes(x)
        else:
            like = None if type(model) is ConditionedDecoder else x
            means, data = model.generate(corners(), like).flatten(2), x.flatten(1)
        if getattr(model, "likelihood", "") == "bernoulli":
            terms = data * means.log() + (1 - data) * (1 - means).log()
        else:
            terms = torch.distributions.Normal(means, model.sigma).log_prob(data)
        log_joint = (terms.sum(-1) + LOG_PRIOR.unsqueeze(-1)).T
    posterior = Enumeration()(model, x)
    assert torch.allclose(posterior.logits(), log_joint.log_softmax(-1), atol=1e-12)
    assert torch.allclose(posterior.log_evidence, log_joint.logsumexp(-1), atol=1e-12)


@every_model
def test_tasks_tried_side_by_side_score_as_one_after_the_other(name: str) -> None:
    model, x = with_images(name)
    one, all_ = Enumeration()(model, x), Enumeration(chunk_size=K)(model, x)
    assert torch.allclose(one.logits(), all_.logits(), atol=1e-12)
    assert torch.allclose(one.log_evidence, all_.log_evidence, atol=1e-12)


@every_model
def test_pyros_own_enumeration_gives_the_same_evidence(name: str) -> None:
    model, x = with_images(name)
    elbo = TraceEnum_ELBO(max_plate_nesting=1).loss(config_enumerate(model), lambda x: None, x)
    assert math.isclose(-elbo, Enumeration()(model, x).log_evidence.sum().item(), rel_tol=1e-12)


@every_model
def test_labels_are_corners_of_the_relaxed_model(name: str) -> None:
    model, x = with_images(name)
    for z in (*corners(), simplex(N)):
        relaxed = relaxed_log_joint(model, {"z": z}, x).total / N
        assert torch.allclose(clamped_loss(model, x, z), -relaxed, atol=1e-12)
        assert torch.allclose(clamped_loss(clamp_tasks(model, {"z": z}), x), -relaxed, atol=1e-12)


@every_model
def test_the_task_site_lies_in_the_plate_of_images(name: str) -> None:
    model, x = with_images(name)
    site = find_task_sites(model, x)["z"]
    assert (site.dims, site.num_tasks, tuple(site.batch_shape)) == (("image",), K, (N,))
    assert torch.equal(site.uniform()[0], model.uniform().to(F64))
    assert torch.allclose(site.log_prior, LOG_PRIOR)


@every_model
def test_every_weight_learns(name: str) -> None:
    model, x = with_images(name)
    clamped_loss(model.train(), x, simplex(N)).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.any())


@every_model
def test_guides_run_on_it(name: str) -> None:
    model, x = with_images(name)
    with poutine.trace() as trace:
        AutoTaskGuide(model)(x)
    assert trace.trace.nodes["z"]["value"].shape == (N, K)


@every_model
def test_a_generator_gives_the_same_weights_and_the_global_state_stays(name: str) -> None:
    before = torch.get_rng_state()
    first, second = MODELS[name](), MODELS[name]()
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weights_differ_between_seeds_and_come_from_torch_without_a_generator() -> None:
    def first_weight(generator: torch.Generator | None) -> Tensor:
        return ConditionedDecoder(FLAT, K, generator=generator).decoder[0].weight

    assert not torch.equal(first_weight(seeded(0)), first_weight(seeded(1)))
    torch.manual_seed(0)
    a = first_weight(None)
    torch.manual_seed(0)
    assert torch.equal(a, first_weight(None))


@every_model
def test_a_prior_is_uniform_unless_given(name: str) -> None:
    model, x = with_images(name, log_prior=None)
    given, _ = with_images(name, log_prior=torch.full((K,), 2.0, dtype=F64))
    assert torch.allclose(
        Enumeration()(model, x).logits(), Enumeration()(given, x).logits(), atol=1e-12
    )


@every_model
def test_nan_pixels_are_refused(name: str) -> None:
    model, x = with_images(name)
    x[2] = torch.nan
    with pytest.raises(TaskSiteError, match=r"data of site 'x' have .* first at index \(2,"):
        OneStepGradient()(model, x)


@every_model
def test_images_of_another_size_are_refused(name: str) -> None:
    model, x = with_images(name)
    with pytest.raises(ValueError, match="images have shape"):
        model(x[..., 1:])
    with pytest.raises(ValueError, match="images have shape"):
        model(x[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda k: ConditionedAutoencoder(FLAT, k),
        lambda k: ConditionedDecoder(FLAT, k),
        lambda k: EncoderClassifier(FLAT, k),
        lambda k: AffineHeadAutoencoder(pca_basis(images(), 2), k),
    ],
)
def test_one_task_is_none(make: Callable[[int], Any]) -> None:
    with pytest.raises(ValueError, match="num_tasks must be at least 2, got 1"):
        make(1)


# Latent noise


def trace_of(model: ImageModel, x: Tensor, seed: int | None = None) -> Tensor:
    generator = None if seed is None else seeded(seed)
    return clamped_loss(model, x, model.uniform(len(x)).to(F64), generator=generator)


@pytest.mark.parametrize("name", ["autoencoder, noisy", "affine head", "affine head, conv"])
def test_the_latent_is_noisy_in_training_only(name: str) -> None:
    model, x = with_images(name)
    assert torch.equal(trace_of(model, x), trace_of(model, x))
    model.train()
    assert not torch.equal(trace_of(model, x), trace_of(model, x))
    before = torch.get_rng_state()
    assert torch.equal(trace_of(model, x, 1), trace_of(model, x, 1))
    assert not torch.equal(trace_of(model, x, 1), trace_of(model, x, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_plain_latent_has_no_noise() -> None:
    model, x = with_images("autoencoder")
    assert torch.equal(trace_of(model.train(), x), trace_of(model.eval(), x))


def test_a_noisy_latent_is_normalised_and_its_noise_standard_normal() -> None:
    encoder = autoencoder(latent="noisy", latent_size=8).encoder
    assert encoder is not None
    x = images(4000)
    clean = encoder.eval()(x)
    assert torch.allclose(clean.mean(-1), torch.zeros(4000, dtype=F64), atol=1e-12)
    assert torch.allclose(clean.square().mean(-1), torch.ones(4000, dtype=F64), rtol=1e-2)
    noise = encoder.train()(x, seeded()) - clean
    error = 1 / math.sqrt(noise.numel())
    assert abs(noise.mean().item()) < 4 * error
    assert abs(noise.square().mean().item() - 1) < 4 * math.sqrt(2) * error


def test_the_classifier_is_normalised_and_uses_the_same_latent() -> None:
    x = images()
    model = EncoderClassifier(FLAT, K, latent_size=5, hidden_size=8, generator=seeded()).double()
    first = model.train()(x, seeded())
    assert torch.equal(first, model(x, seeded()))
    assert not torch.equal(first, model(x, seeded(1)))
    log_probs = model.eval()(x)
    assert torch.allclose(log_probs.exp().sum(-1), torch.ones(N, dtype=F64))
    assert torch.equal(log_probs, model(x))
    assert torch.allclose(log_probs, model.head(model.encoder(x)).log_softmax(-1))
    affine_head = affine()
    assert [p.shape for p in model.encoder.parameters()] == [
        p.shape for p in affine_head.encoder.parameters()
    ]


# Pixels


def test_a_decoder_alone_knows_nothing_but_the_task() -> None:
    model = decoder()
    assert torch.equal(model.generate(corners())[:, 0], model.generate(corners())[:, 1])
    with pytest.raises(ValueError, match="ConditionedDecoder takes none"):
        model.generate(corners(), images())


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_generated_images_have_the_shape_of_images(network: str, likelihood: str) -> None:
    model = autoencoder(network=network, likelihood=likelihood)
    x = images(shape=model.image_shape)
    generated = model.generate(corners(), x)
    assert generated.shape == (K, *x.shape)
    for k in range(K):
        assert torch.allclose(generated[k], model.generate(corners()[k], x), atol=1e-12)
    if likelihood == "bernoulli":
        assert bool(((generated > 0) & (generated < 1)).all())
    with pytest.raises(ValueError, match="ConditionedAutoencoder needs the images"):
        model.generate(corners())


def test_bernoulli_scores_grey_pixels_as_cross_entropy_and_refuses_others() -> None:
    model, x = with_images("autoencoder, Bernoulli")
    z = simplex(N)
    expected = (
        torch.nn.functional.binary_cross_entropy(model.generate(z, x), x, reduction="sum")
        - (z * LOG_PRIOR).sum()
    )
    assert torch.allclose(clamped_loss(model, x, z), expected / N)
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\], got .* to 2"):
        model(torch.full_like(x, 2.0), z)


def test_isotropic_normal_is_a_product_of_normals() -> None:
    mean, x = images(), images(seed=8)
    sigma = torch.tensor(0.3, dtype=F64)
    ours, torchs = IsotropicNormal(mean.flatten(1), sigma), torch.distributions.Normal(mean, sigma)
    assert torch.allclose(ours.log_prob(x.flatten(1)), torchs.log_prob(x).flatten(1).sum(-1))
    wide = ours.expand([2, N])
    assert (wide.batch_shape, wide.event_shape) == ((2, N), (16,))
    assert torch.equal(wide.log_prob(x.flatten(1))[1], ours.log_prob(x.flatten(1)))
    pyro.set_rng_seed(0)
    noise = ours.sample((2000,)) - mean.flatten(1)
    error = 0.3 / math.sqrt(2 * noise.numel())
    assert abs(noise.square().mean().sqrt().item() - 0.3) < 4 * error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "cnn"}, "network must be one of"),
        ({"latent": "vae"}, "latent must be one of"),
        ({"likelihood": "poisson"}, "likelihood must be one of"),
        ({"latent_size": 0}, "at least 1 for a plain latent, got 0"),
        ({"latent_size": 1, "latent": "noisy"}, "at least 2 for a noisy latent, got 1"),
        ({"initial_sigma": 0.0}, "initial_sigma must be positive, got 0.0"),
        ({"network": "conv"}, r"image_shape is \(4, 4\); a convolutional network expects"),
        ({"log_prior": torch.zeros(2)}, r"log_prior has shape \(2,\), expected \(3,\)"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConditionedAutoencoder(FLAT, K, **options)


# PCA


def test_pca_is_orthonormal_and_loses_the_variances_left_out() -> None:
    x = images(30)
    every = pca_basis(x, 16)
    total = x.flatten(1).var(0, correction=0).sum()
    assert torch.allclose(every.variances.sum(), total)
    for r in (1, 4, 16):
        basis = pca_basis(x, r)
        assert torch.allclose(
            basis.directions.T @ basis.directions, torch.eye(r, dtype=F64), atol=1e-12
        )
        centred = (x - basis.mean).flatten(1)
        lost = (centred - centred @ basis.directions @ basis.directions.T).square().sum(-1).mean()
        assert torch.allclose(lost, every.variances[r:].sum(), atol=1e-12)
        assert torch.allclose((centred @ basis.directions).var(0, correction=0), basis.variances)


def test_pca_directions_keep_their_sign() -> None:
    x = images(30)
    a, b = pca_basis(x, R), pca_basis(1 - x, R)  # the same axes, turned round
    assert torch.allclose(a.directions, b.directions, atol=1e-10)
    assert bool((a.directions.amax(0) >= -a.directions.amin(0)).all())


@pytest.mark.parametrize(("n", "r", "most"), [(40, 17, 16), (5, 5, 4), (5, 0, 4)])
def test_pca_refuses_more_directions_than_the_images_span(n: int, r: int, most: int) -> None:
    with pytest.raises(ValueError, match=f"r must be between 1 and {most}"):
        pca_basis(images(n), r)


def test_a_basis_that_does_not_fit_itself_is_refused() -> None:
    basis = PCABasis(torch.zeros(3, 3), torch.eye(4), torch.ones(4))
    with pytest.raises(ValueError, match="directions of 4 pixels and a mean image of 9"):
        AffineHeadAutoencoder(basis, K)


def test_sigma_starts_at_the_spread_of_the_codes() -> None:
    x = images(40)
    model = affine()
    assert torch.allclose(model.sigma.square(), model.codes(x).var(0, correction=0).mean())


# The affine head

CASES = [(seed, network) for seed in range(3) for network in ("mlp", "conv")]
random_weights = pytest.mark.parametrize(("seed", "network"), CASES)


@random_weights
def test_one_step_of_the_exact_form_is_the_posterior(seed: int, network: str) -> None:
    model = affine(seed, network=network)
    x = images(shape=model.image_shape)
    truth, step = Enumeration()(model, x), OneStepGradient()(model.exact, x)
    assert torch.allclose(step.logits(), truth.logits(), atol=1e-10)
    assert (step.passes.forward, step.passes.backward) == (1, 1)
    # The plain step is not: its task means lie at unequal distances from their centroid.
    assert not torch.allclose(OneStepGradient()(model, x).logits(), truth.logits(), atol=1e-2)


@random_weights
def test_the_second_order_step_is_the_posterior(seed: int, network: str) -> None:
    model = affine(seed, network=network)
    x = images(shape=model.image_shape)
    step = OneStepGradient(order=2)(model, x)
    assert torch.allclose(step.logits(), Enumeration()(model, x).logits(), atol=1e-10)


def test_the_within_factor_is_zero_at_every_corner() -> None:
    model, x = affine(), images()
    for z in corners():
        plain, exact = (relaxed_log_joint(m, {"z": z}, x) for m in (model, model.exact))
        within = exact.factors["within"].log_prob
        assert torch.allclose(within, torch.zeros(N, dtype=F64), atol=1e-12)
        assert torch.allclose(plain.total, exact.total, atol=1e-12)
        assert torch.allclose(clamped_loss(model, x, z), clamped_loss(model.exact, x, z))
    inside = relaxed_log_joint(model.exact, {"z": simplex(N)}, x).factors["within"]
    assert bool((inside.log_prob < 0).all())
    assert torch.allclose(
        Enumeration()(model, x).log_evidence, Enumeration(chunk_size=2)(model.exact, x).log_evidence
    )


def test_the_exact_log_joint_is_linear_in_the_task() -> None:
    model, x, q = affine(), images(), simplex(N)

    def by_image(z: Tensor) -> Tensor:
        joint = relaxed_log_joint(model.exact, {"z": z}, x)
        return sum((f.log_prob for f in joint.factors.values()), torch.zeros(N, dtype=F64))

    at_corners = torch.stack([by_image(z) for z in corners()], -1)
    assert torch.allclose(by_image(q), (q * at_corners).sum(-1), atol=1e-12)


def test_a_mixture_of_tasks_renders_the_mixture_of_their_images() -> None:
    model, x, q = affine(), images(), simplex(N)
    pure = model.generate(corners(), x)
    assert pure.shape == (K, N, *FLAT)
    expected = torch.einsum("nk,knhw->nhw", q, pure)
    assert torch.allclose(model.generate(q, x), expected, atol=1e-12)


def test_codes_residuals_and_directions_belong_together() -> None:
    model, x, q = affine(), images(), simplex(N)
    centred = (model.generate(q, x) - model.mean).flatten(1)
    assert torch.allclose(centred @ model.directions, model.codes(x) - model.residual(x, q))
    directions = model.task_directions(x)
    assert torch.allclose(directions.sum(1), torch.zeros(N, R, dtype=F64), atol=1e-12)
    u = model.uniform(N).to(F64)
    for k, z in enumerate(corners()):
        assert torch.allclose(model.residual(x, u) - model.residual(x, z), directions[:, k])
    assert model.residual(x, corners()).shape == (K, N, R)
    # The score of the plain step is the residual seen along the class directions.
    step = OneStepGradient()(model, x).logits()
    seen = (model.residual(x, u).unsqueeze(1) * directions).sum(-1) / model.sigma.square()
    assert torch.allclose(step, (seen + LOG_PRIOR).log_softmax(-1), atol=1e-10)


def test_tasks_mix_whatever_stands_left_of_them() -> None:
    means, z = torch.randn(N, K, R, generator=seeded(), dtype=F64), simplex(2, N)
    expected = (z.unsqueeze(-1) * means).sum(-2)
    assert torch.allclose(mix(z, means), expected)
    enumerated = torch.eye(K, dtype=F64).unsqueeze(1)  # as Pyro makes it, (K, 1, K)
    assert torch.equal(mix(enumerated, means), means.movedim(1, 0))


def test_training_finds_the_tasks() -> None:
    g = seeded()
    prototypes = torch.rand(K, 4, 4, generator=g)
    labels = torch.arange(300) % K
    x = prototypes[labels] + 0.2 * torch.randn(300, 4, 4, generator=g)
    z = torch.eye(K)[labels]
    model = AffineHeadAutoencoder(pca_basis(x, R), K, latent_size=8, hidden_size=16, generator=g)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        loss = clamped_loss(model, x, z, generator=g)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    assert bool((OneStepGradient()(model.exact, x).mode() == labels).float().mean() > 0.95)
