import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro_models import TASK, gaussian, gaussian_scores, normal, random_log_prior
from torch import Tensor

from gbi_pyro import Calibration, Enumeration, OneStepGradient

FIVE = torch.linspace(0.0, 1.0, 5, dtype=torch.float64)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) in nats, element by element."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def even_prior(K: int) -> Tensor:
    return torch.zeros(K, dtype=torch.float64).log_softmax(-1)


def draw_data(generator: torch.Generator, means: Tensor, sigma: float, n: int) -> Tensor:
    z = torch.randint(len(means), (n,), generator=generator)
    return means[z] + sigma * normal(generator, n, *means.shape[1:])


# Where one step is the exact posterior


@pytest.mark.parametrize("seed", range(20))
def test_two_tasks_of_an_affine_gaussian_are_exact(seed: int) -> None:
    """The bar: <= 1e-6, for any prior, means, noise and data."""
    generator = torch.Generator().manual_seed(seed)
    means, log_prior = normal(generator, 2), 3 * normal(generator, 2)
    sigma = float(normal(generator, 1).exp())
    x = 2 * normal(generator, 50)
    log_prior = log_prior.log_softmax(-1)
    exact = gaussian_scores(x, means, sigma, log_prior).softmax(-1)
    for order in (1, 2):
        posterior = OneStepGradient(order=order)(gaussian, x, means, sigma, log_prior)
        assert (posterior.probs() - exact).abs().max() <= 1e-6


@pytest.mark.parametrize("K", [3, 4, 7])
def test_means_equally_far_from_their_centroid_are_exact(
    K: int, generator: torch.Generator
) -> None:
    """The vertices of a regular simplex, turned and moved; any prior."""
    turn, _ = torch.linalg.qr(normal(generator, K, K))
    means = 0.7 * turn + normal(generator, K)
    x, log_prior = normal(generator, 40, K), random_log_prior(generator, K)
    exact = gaussian_scores(x, means, 0.5, log_prior).log_softmax(-1)
    posterior = OneStepGradient()(gaussian, x, means, 0.5, log_prior)
    torch.testing.assert_close(posterior.logits(), exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("K", [2, 3, 10])
def test_a_log_joint_that_is_affine_in_the_task_is_exact(
    K: int, generator: torch.Generator
) -> None:
    scores, log_prior = 3 * normal(generator, 20, K), random_log_prior(generator, K)

    def model() -> None:
        with pyro.plate("sequence", 20):
            z = pyro.sample("z", dist.OneHotCategorical(logits=log_prior), infer=TASK)
            pyro.factor("likelihood", (z * scores).sum(-1))

    exact = (scores + log_prior).log_softmax(-1)
    for infer in (OneStepGradient(), OneStepGradient(order=2), Enumeration()):
        torch.testing.assert_close(infer(model).logits(), exact)


def test_an_affine_head_is_exact_for_any_means(generator: torch.Generator) -> None:
    """The mixture's log density, plus its spread: linear in q."""
    x, means, sigma = normal(generator, 30), FIVE, 0.1
    log_prior = random_log_prior(generator, 5)

    def model() -> None:
        with pyro.plate("sequence", 30):
            z = pyro.sample("z", dist.OneHotCategorical(logits=log_prior), infer=TASK)
            m = z @ means
            pyro.factor("spread", -(z @ means.square() - m.square()) / (2 * sigma**2))
            pyro.sample("x", dist.Normal(m, sigma), obs=x)

    exact = gaussian_scores(x, means, sigma, log_prior).log_softmax(-1)
    posterior = OneStepGradient()(model)
    torch.testing.assert_close(posterior.logits(), exact, rtol=1e-9, atol=1e-9)


def test_several_observations_of_one_task_add_their_evidence(generator: torch.Generator) -> None:
    x, means = normal(generator, 3, 6), torch.tensor([0.2, 0.8], dtype=torch.float64)
    log_prior = random_log_prior(generator, 3, 1, 2)

    def model() -> None:
        with pyro.plate("sequence", 3, dim=-2):
            z = pyro.sample("z", dist.OneHotCategorical(logits=log_prior), infer=TASK)
            with pyro.plate("time", 6, dim=-1):
                pyro.sample("x", dist.Normal(z @ means, 0.7), obs=x)

    scores = dist.Normal(means, 0.7).log_prob(x.unsqueeze(-1)).sum(1, keepdim=True) + log_prior
    posterior = OneStepGradient()(model)
    assert posterior.logits().shape == (3, 1, 2)
    torch.testing.assert_close(posterior.logits(), scores.log_softmax(-1))


def test_a_uniform_prior_that_forbids_nothing_may_be_replaced_by_any(
    generator: torch.Generator,
) -> None:
    """The prior enters linearly: log q - log pi does not depend on it, up to a constant."""
    x, means = normal(generator, 10), normal(generator, 4)
    log_prior = random_log_prior(generator, 10, 4)
    even = OneStepGradient()(gaussian, x, means, 0.5, even_prior(4)).logits()
    other = OneStepGradient()(gaussian, x, means, 0.5, log_prior).logits()
    torch.testing.assert_close((even + log_prior).log_softmax(-1), other)


@pytest.mark.parametrize("order", [1, 2])
def test_a_forbidden_task_has_probability_zero(order: int, generator: torch.Generator) -> None:
    x, means = normal(generator, 10), normal(generator, 3)
    log_prior = torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64).log()
    probs = OneStepGradient(order=order)(gaussian, x, means, 0.5, log_prior).probs()
    assert (probs[:, 1] == 0).all()
    torch.testing.assert_close(probs.sum(-1), torch.ones(10).double())


# Where it is not, and by how much


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_its_bias_is_the_distance_of_each_mean_from_the_middle(
    sigma: float, dim: int, generator: torch.Generator
) -> None:
    """Log q = exact + |mu_k - mu_bar|^2 / 2 sigma^2, up to a constant, whatever the data."""
    means = FIVE if dim == 1 else normal(generator, 5, dim)
    x, log_prior = draw_data(generator, means, sigma, 30), random_log_prior(generator, 5)
    bias = (means - means.mean(0)).reshape(5, -1).square().sum(-1) / (2 * sigma**2)
    predicted = (gaussian_scores(x, means, sigma, log_prior) + bias).log_softmax(-1)
    posterior = OneStepGradient()(gaussian, x, means, sigma, log_prior)
    torch.testing.assert_close(posterior.logits(), predicted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("sigma", "nats"), [(0.1, 3.0), (0.3, 0.14)])
def test_five_even_means_cost_as_many_nats_as_predicted(
    sigma: float, nats: float, generator: torch.Generator
) -> None:
    x = draw_data(generator, FIVE, sigma, 20_000)
    scores = gaussian_scores(x, FIVE, sigma, even_prior(5))
    bias = (FIVE - FIVE.mean()).square() / (2 * sigma**2)
    exact, predicted = scores.log_softmax(-1), (scores + bias).log_softmax(-1)
    loss = kl(exact, OneStepGradient()(gaussian, x, FIVE, sigma, even_prior(5)).logits())
    torch.testing.assert_close(loss, kl(exact, predicted), rtol=1e-9, atol=1e-9)
    standard_error = float(loss.std()) / math.sqrt(len(x))
    assert abs(float(loss.mean()) - nats) <= 5 * standard_error + 0.05 * nats  # (two digits given)


@pytest.mark.parametrize("dim", [1, 3])
def test_second_order_is_exact_for_any_affine_gaussian(
    dim: int, generator: torch.Generator
) -> None:
    """The bar: KL <= 1e-6."""
    means = FIVE if dim == 1 else normal(generator, 5, dim)
    x, log_prior = draw_data(generator, means, 0.1, 200), random_log_prior(generator, 5)
    exact = gaussian_scores(x, means, 0.1, log_prior).log_softmax(-1)
    posterior = OneStepGradient(order=2)(gaussian, x, means, 0.1, log_prior)
    assert kl(exact, posterior.logits()).max() <= 1e-6
    assert posterior.passes == (1, 5, 0)


def test_the_offsets_that_undo_the_bias_make_it_exact(generator: torch.Generator) -> None:
    x, log_prior = draw_data(generator, FIVE, 0.1, 200), random_log_prior(generator, 5)
    bias = (FIVE - FIVE.mean()).square() / (2 * 0.1**2)
    calibrated = OneStepGradient(calibration=Calibration(1.0, bias - bias.mean()))
    exact = gaussian_scores(x, FIVE, 0.1, log_prior).log_softmax(-1)
    posterior = calibrated(gaussian, x, FIVE, 0.1, log_prior)
    assert kl(exact, posterior.logits()).max() <= 1e-6
    assert posterior.passes == (1, 1, 0)


def test_second_order_is_the_taylor_polynomial_of_a_nonlinear_network(
    generator: torch.Generator,
) -> None:
    weights, x = normal(generator, 3, 4), normal(generator, 6)
    log_prior = random_log_prior(generator, 3)

    def log_likelihood(q: Tensor, x: Tensor) -> Tensor:
        return dist.Normal((q @ weights).tanh().sum(-1), 0.5).log_prob(x)

    def model() -> None:
        with pyro.plate("sequence", 6):
            z = pyro.sample("z", dist.OneHotCategorical(logits=log_prior), infer=TASK)
            pyro.sample("x", dist.Normal((z @ weights).tanh().sum(-1), 0.5), obs=x)

    u = torch.full((3,), 1 / 3, dtype=torch.float64)
    moves = torch.eye(3, dtype=torch.float64) - u
    expected = []
    for x_i in x:
        g = torch.autograd.functional.jacobian(lambda q, x_i=x_i: log_likelihood(q, x_i), u)
        C = torch.autograd.functional.hessian(lambda q, x_i=x_i: log_likelihood(q, x_i), u)
        expected.append(moves @ g + 0.5 * torch.einsum("ki,ij,kj->k", moves, C, moves) + log_prior)
    posterior = OneStepGradient(order=2)(model)
    torch.testing.assert_close(posterior.logits(), torch.stack(expected).log_softmax(-1))


# Temperature, scale, invariances


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("order", [1, 2])
def test_temperature_tempers_the_posterior(
    order: int, temperature: float, generator: torch.Generator
) -> None:
    """Proportional to p(x, z)^(1 / temperature)."""
    x, means = normal(generator, 20), normal(generator, 2)
    log_prior = random_log_prior(generator, 2)
    tempered = (gaussian_scores(x, means, 0.5, log_prior) / temperature).log_softmax(-1)
    posterior = OneStepGradient(temperature=temperature, order=order)(
        gaussian, x, means, 0.5, log_prior
    )
    torch.testing.assert_close(posterior.logits(), tempered)


@pytest.mark.parametrize("sigma", [0.1, 0.3, 2.0])
def test_a_gradient_of_the_squared_error_is_not_one_of_the_log_likelihood(
    sigma: float, generator: torch.Generator
) -> None:
    """The factor between the two is 1 / 2 sigma^2."""
    x, means = normal(generator, 20), normal(generator, 2)
    q = torch.full((20, 2), 0.5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(-(x - q @ means).square().sum(), q)
    posterior = OneStepGradient()(gaussian, x, means, sigma, even_prior(2))
    expected = (slope / (2 * sigma**2)).log_softmax(-1)
    torch.testing.assert_close(posterior.logits(), expected)


@pytest.mark.parametrize("order", [1, 2])
def test_renaming_the_tasks_renames_the_posterior(order: int, generator: torch.Generator) -> None:
    x, means = normal(generator, 10), normal(generator, 5)
    log_prior = random_log_prior(generator, 5)
    order_of = torch.randperm(5, generator=generator)
    infer = OneStepGradient(order=order)
    here = infer(gaussian, x, means, 0.5, log_prior).logits()
    there = infer(gaussian, x, means[order_of], 0.5, log_prior[order_of]).logits()
    torch.testing.assert_close(here[:, order_of], there)


@pytest.mark.parametrize("order", [1, 2])
def test_a_batch_is_its_elements_one_at_a_time(order: int, generator: torch.Generator) -> None:
    x, means = normal(generator, 10), normal(generator, 4)
    log_prior = random_log_prior(generator, 10, 4)
    infer = OneStepGradient(order=order)
    together = infer(gaussian, x, means, 0.5, log_prior).logits()
    apart = [infer(gaussian, x[i : i + 1], means, 0.5, log_prior[i]).logits() for i in range(10)]
    torch.testing.assert_close(together, torch.cat(apart))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", [1, 2])
def test_dtype_and_device_are_kept(
    order: int, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> None:
    x, means = normal(generator, 10), normal(generator, 2)
    log_prior = random_log_prior(generator, 2)
    exact = gaussian_scores(x, means, 0.5, log_prior).softmax(-1)
    args = (x.to(device, dtype), means.to(device, dtype), 0.5, log_prior.to(device, dtype))
    posterior = OneStepGradient(order=order)(gaussian, *args)
    assert posterior.probs().dtype == dtype
    assert posterior.probs().device.type == device.type
    # Scores of up to 100 nats, each good to one part in 1 / eps.
    torch.testing.assert_close(
        posterior.probs().double().cpu(), exact, rtol=0, atol=100 * torch.finfo(dtype).eps
    )


def test_a_float64_default_dtype_is_fine(generator: torch.Generator) -> None:
    torch.set_default_dtype(torch.float64)
    try:

        def model() -> None:
            z = pyro.sample("z", dist.OneHotCategorical(torch.tensor([0.3, 0.7])), infer=TASK)
            pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0]), 0.5), obs=torch.tensor(0.3))

        one, exact = OneStepGradient()(model).probs(), Enumeration()(model).probs()
    finally:
        torch.set_default_dtype(torch.float32)
    assert one.dtype == torch.float64
    torch.testing.assert_close(one, exact)


# Several sites


def test_several_sites_are_inferred_with_the_others_at_maximum_entropy(
    generator: torch.Generator,
) -> None:
    a_means, b_means = normal(generator, 2), normal(generator, 3)
    a_prior, b_prior = random_log_prior(generator, 2), random_log_prior(generator, 3)
    x, sigma = normal(generator, 8), 0.6

    def model() -> None:
        with pyro.plate("sequence", 8):
            a = pyro.sample("a", dist.OneHotCategorical(logits=a_prior), infer=TASK)
            b = pyro.sample("b", dist.OneHotCategorical(logits=b_prior), infer=TASK)
            pyro.sample("x", dist.Normal(a @ a_means + b @ b_means, sigma), obs=x)

    posterior = OneStepGradient()(model)
    error = ((x - a_means.mean() - b_means.mean()) / sigma**2).unsqueeze(-1)
    for name, means, prior in (("a", a_means, a_prior), ("b", b_means, b_prior)):
        expected = (error * means + prior).log_softmax(-1)
        torch.testing.assert_close(posterior.logits(name), expected)
    second = OneStepGradient(order=2)(model)
    for name, means, prior in (("a", a_means, a_prior), ("b", b_means, b_prior)):
        moves = means - means.mean()
        expected = (error * moves - moves.square() / (2 * sigma**2) + prior).log_softmax(-1)
        torch.testing.assert_close(second.logits(name), expected)


def test_sites_that_do_not_share_data_are_exact(generator: torch.Generator) -> None:
    means, x = normal(generator, 2), normal(generator, 2)

    def model() -> None:
        for i in range(2):
            prior = dist.OneHotCategorical(torch.tensor([0.3, 0.7], dtype=torch.float64))
            z = pyro.sample(f"z_{i}", prior, infer=TASK)
            pyro.sample(f"x_{i}", dist.Normal(z @ means, 0.5), obs=x[i])

    one, exact = OneStepGradient()(model), Enumeration()(model)
    for name in ("z_0", "z_1"):
        torch.testing.assert_close(one.probs(name), exact.probs(name))


def test_a_prior_that_depends_on_another_task_sends_it_evidence(
    generator: torch.Generator,
) -> None:
    """Log p = c . log pi + z . (c . rows) + z . scores, so the gradient at (u, u) is known."""
    rows, scores = random_log_prior(generator, 2, 3), normal(generator, 3)
    log_prior = random_log_prior(generator, 2)

    def model() -> None:
        c = pyro.sample("c", dist.OneHotCategorical(logits=log_prior), infer=TASK)
        z = pyro.sample("z", dist.OneHotCategorical(logits=c @ rows), infer=TASK)
        pyro.factor("likelihood", z @ scores)

    posterior = OneStepGradient()(model)
    # The library's prior of z at c = u is normalised, as the distribution is.
    u = torch.full((2,), 0.5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad((u @ rows).log_softmax(-1).mean(), u)
    torch.testing.assert_close(posterior.logits("c"), (log_prior + slope).log_softmax(-1))
    z_prior = (u.detach() @ rows).log_softmax(-1)
    torch.testing.assert_close(posterior.logits("z"), (z_prior + scores).log_softmax(-1))


# Options and bookkeeping


def test_passes_are_one_forward_and_one_backward(generator: torch.Generator) -> None:
    posterior = OneStepGradient()(gaussian, normal(generator, 3), FIVE, 0.5, even_prior(5))
    assert posterior.passes == (1, 1, 0)
    assert posterior.log_evidence is None
    assert posterior.method == "one step"
    assert posterior.settings == {"temperature": 1.0, "order": 1, "calibration": []}


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": math.nan}, "temperature must be positive"),
        ({"order": 3}, "order must be 1 or 2"),
        ({"order": 2, "calibration": Calibration(1.0, torch.zeros(2))}, "no calibration"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        OneStepGradient(**options)


def test_a_calibration_has_to_belong_to_the_model(generator: torch.Generator) -> None:
    args = normal(generator, 3), normal(generator, 2), 0.5, even_prior(2)
    with pytest.raises(ValueError, match="fitted on 3 tasks and is asked for 2"):
        OneStepGradient(calibration=Calibration(1.0, torch.zeros(3)))(gaussian, *args)


def call_with(model: Callable[..., Any], **kwargs: Any) -> Tensor:
    return OneStepGradient()(model, **kwargs).probs()


def test_models_may_take_keyword_arguments(generator: torch.Generator) -> None:
    x, means = normal(generator, 3), normal(generator, 2)
    by_name = call_with(gaussian, x=x, means=means, sigma=0.5, log_prior=even_prior(2))
    by_place = OneStepGradient()(gaussian, x, means, 0.5, even_prior(2)).probs()
    assert torch.equal(by_name, by_place)
