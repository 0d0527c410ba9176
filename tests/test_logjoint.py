import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro_models import TASK, gaussian, log_joint_by_pyro, normal
from torch import Tensor

from gbi_pyro import (
    Enumeration,
    OneStepGradient,
    TaskSiteError,
    find_task_sites,
    relaxed_log_joint,
)
from gbi_pyro.logjoint import RelaxedModel


def mean_of(z: Tensor) -> Tensor:
    """A network that is nonlinear in the task, K = 3."""
    weights = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.5, -0.7]], dtype=z.dtype, device=z.device)
    return (z @ weights.T).tanh().sum(-1)


def uniform_prior(x: Tensor) -> None:
    with pyro.plate("sequence", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(logits=torch.zeros(3).to(x)), infer=TASK)
        pyro.sample("x", dist.Normal(mean_of(z), 0.3), obs=x[:, 0])


def prior_from_input(x: Tensor) -> None:
    scores = torch.stack([x[:, 0], x[:, 1] ** 2, -x[:, 0]], -1)
    with pyro.plate("sequence", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(logits=scores), infer=TASK)
        pyro.sample("x", dist.Normal(mean_of(z), 0.3), obs=x[:, 1])


def without_plates(x: Tensor) -> None:
    prior = dist.OneHotCategorical(torch.tensor([0.2, 0.5, 0.3]).to(x))
    z = pyro.sample("z", prior, infer=TASK)
    pyro.sample("x", dist.Normal(mean_of(z), 0.3).expand(x.shape).to_event(2), obs=x)


def per_sequence(x: Tensor) -> None:
    prior = dist.OneHotCategorical(torch.tensor([0.2, 0.5, 0.3]).to(x))
    with pyro.plate("sequence", x.shape[0], dim=-2):
        z = pyro.sample("z", prior, infer=TASK)
        with pyro.plate("time", x.shape[1], dim=-1):
            pyro.sample("x", dist.Normal(mean_of(z), 0.3), obs=x)


def per_step(x: Tensor) -> None:
    prior = dist.OneHotCategorical(torch.tensor([0.2, 0.5, 0.3]).to(x))
    with (
        pyro.plate("sequence", x.shape[0], dim=-2),
        pyro.plate("time", x.shape[1], dim=-1),
    ):
        z = pyro.sample("z", prior, infer=TASK)
        pyro.sample("x", dist.Normal(mean_of(z), 0.3), obs=x)


def carried_past(x: Tensor) -> None:
    """x_t depends on z_t-1 too: the log joint is well defined all the same."""
    with (
        pyro.plate("sequence", x.shape[0], dim=-2),
        pyro.plate("time", x.shape[1], dim=-1),
    ):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3).to(x)), infer=TASK)
        m = mean_of(z)
        pyro.sample("x", dist.Normal(m + 0.5 * m.roll(1, -1), 0.3), obs=x)


def two_levels(x: Tensor) -> None:
    """A context per sequence, and tasks per step whose prior depends on it."""
    rows = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.2, 0.6]]).to(x).log()
    with pyro.plate("sequence", x.shape[0], dim=-2):
        c = pyro.sample("c", dist.OneHotCategorical(torch.tensor([0.4, 0.6]).to(x)), infer=TASK)
        with pyro.plate("time", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.OneHotCategorical(logits=c @ rows), infer=TASK)
            pyro.sample("x", dist.Normal(mean_of(z), 0.3), obs=x)


MODELS = [
    uniform_prior,
    prior_from_input,
    without_plates,
    per_sequence,
    per_step,
    carried_past,
    two_levels,
]


def random_corners(
    model: Callable[..., Any], generator: torch.Generator, x: Tensor
) -> dict[str, Tensor]:
    return {
        name: torch.nn.functional.one_hot(
            torch.randint(site.num_tasks, site.batch_shape, generator=generator), site.num_tasks
        ).to(x)
        for name, site in find_task_sites(model, x).items()
    }


def random_points(
    model: Callable[..., Any], generator: torch.Generator, x: Tensor
) -> dict[str, Tensor]:
    return {
        name: normal(generator, *site.log_prior.shape).softmax(-1).to(x)
        for name, site in find_task_sites(model, x).items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("model", MODELS)
def test_at_a_corner_it_is_pyros_own_log_joint(
    model: Callable[..., Any],
    batch: int,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator,
) -> None:
    x = normal(generator, batch, 5).to(device, dtype)
    for _ in range(3):
        tasks = random_corners(model, generator, x)
        joint = relaxed_log_joint(model, tasks, x)
        expected = log_joint_by_pyro(model, tasks, x)
        # Two orders of summing some hundred terms of order ten.
        tolerance = 100 * torch.finfo(dtype).eps
        torch.testing.assert_close(joint.total, expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(joint.prior + joint.likelihood, joint.total)


@pytest.mark.parametrize("model", MODELS)
def test_its_prior_part_is_linear_in_the_point(
    model: Callable[..., Any], generator: torch.Generator
) -> None:
    x = normal(generator, 4, 5)
    q = random_points(model, generator, x)
    joint = relaxed_log_joint(model, q, x)
    expected = sum((q[n] * site.log_prior).sum() for n, site in joint.sites.items())
    torch.testing.assert_close(joint.prior, expected, rtol=1e-13, atol=1e-13)


def test_its_prior_part_allows_forbidden_tasks(generator: torch.Generator) -> None:
    x, means = normal(generator, 2), normal(generator, 3)
    log_prior = torch.tensor([0.4, 0.6, 0.0], dtype=torch.float64).log()
    q = torch.tensor([[0.3, 0.7, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    allowed = relaxed_log_joint(gaussian, {"z": q}, x, means, 0.5, log_prior)
    torch.testing.assert_close(allowed.prior, (q[:, :2] * log_prior[:2]).sum())
    middle = torch.full((2, 3), 1 / 3, dtype=torch.float64)
    forbidden = relaxed_log_joint(gaussian, {"z": middle}, x, means, 0.5, log_prior)
    assert forbidden.prior == -torch.inf
    assert forbidden.likelihood.isfinite()


@pytest.mark.parametrize("model", MODELS)
def test_its_gradient_agrees_with_finite_differences(
    model: Callable[..., Any], generator: torch.Generator
) -> None:
    x = normal(generator, 2, 3)
    q = random_points(model, generator, x)

    def total(*points: Tensor) -> Tensor:
        return relaxed_log_joint(model, dict(zip(q, points, strict=True)), x).total

    assert torch.autograd.gradcheck(total, [p.requires_grad_() for p in q.values()])


def test_it_is_differentiable_in_the_weights(generator: torch.Generator) -> None:
    x, log_prior = normal(generator, 3), torch.zeros(4, dtype=torch.float64)
    means, q = normal(generator, 4), normal(generator, 3, 4).softmax(-1)
    sigma = torch.tensor(0.4, dtype=torch.float64)

    def total(*weights: Tensor) -> Tensor:
        return relaxed_log_joint(gaussian, {"z": q}, x, *weights).total

    weights = [w.requires_grad_() for w in (means, sigma, log_prior)]
    assert torch.autograd.gradcheck(total, weights)
    assert torch.autograd.gradgradcheck(total, weights)


def test_its_gradient_in_the_weights_at_a_corner_is_pyros(generator: torch.Generator) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))

    def model(x: Tensor) -> None:
        pyro.module("net", net)
        with pyro.plate("sequence", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3)), infer=TASK)
            pyro.sample("x", dist.Normal(net(z).squeeze(-1), 0.3), obs=x)

    x, tasks = torch.randn(4, generator=generator), {"z": torch.eye(3)[[0, 2, 1, 1]]}
    ours = torch.autograd.grad(relaxed_log_joint(model, tasks, x).total, list(net.parameters()))
    theirs = torch.autograd.grad(log_joint_by_pyro(model, tasks, x), list(net.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_several_points_at_once_are_scored_side_by_side(generator: torch.Generator) -> None:
    x = normal(generator, 4, 5)
    points = torch.stack([random_points(per_step, generator, x)["z"] for _ in range(6)])
    together = relaxed_log_joint(per_step, {"z": points}, x)
    apart = torch.stack([relaxed_log_joint(per_step, {"z": p}, x).total for p in points])
    torch.testing.assert_close(
        sum(f.log_prob.sum((-2, -1)) for f in together.factors.values()), apart
    )


# Masks, scales, subsamples


def hidden(x: Tensor, mask: Tensor, how: str) -> None:
    means = torch.tensor([0.2, 0.8], dtype=x.dtype)
    prior = dist.OneHotCategorical(torch.tensor([0.3, 0.7], dtype=x.dtype))
    with pyro.plate("sequence", len(x)):
        if how == "handler around everything":
            with poutine.mask(mask=mask):
                z = pyro.sample("z", prior, infer=TASK)
                pyro.sample("x", dist.Normal(z @ means, 0.3), obs=x)
            return
        z = pyro.sample("z", prior, infer=TASK)
        noise = dist.Normal(z @ means, 0.3)
        if how == "handler":
            with poutine.mask(mask=mask):
                pyro.sample("x", noise, obs=x)
        else:
            pyro.sample("x", noise.mask(mask), obs=x)


@pytest.mark.parametrize("bad", [0.4, math.nan, math.inf])
@pytest.mark.parametrize("how", ["handler", "distribution", "handler around everything"])
@pytest.mark.parametrize("infer", [OneStepGradient(), OneStepGradient(order=2), Enumeration()])
def test_a_masked_element_has_its_prior_and_no_evidence(
    infer: OneStepGradient | Enumeration, how: str, bad: float
) -> None:
    x = torch.tensor([0.3, bad, 0.7], dtype=torch.float64)
    mask = torch.tensor([True, False, True])
    posterior = infer(hidden, x, mask, how)
    whole = infer(hidden, x[mask], mask[mask], how)
    torch.testing.assert_close(posterior.probs()[mask], whole.probs())
    prior = torch.tensor([0.3, 0.7], dtype=torch.float64)
    torch.testing.assert_close(posterior.probs()[1], prior)
    torch.testing.assert_close(posterior.num_observations["z"], mask.double())
    if posterior.log_evidence is not None:
        assert abs(posterior.log_evidence[1].item()) <= 1e-15


def test_masked_vectors_may_hold_nan() -> None:
    x = torch.tensor([[0.3, 0.1], [math.nan, 0.2]])

    def model() -> None:
        with pyro.plate("sequence", 2):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
            with poutine.mask(mask=torch.tensor([True, False])):
                pyro.sample("x", dist.Normal(z @ torch.eye(2), 0.5).to_event(1), obs=x)

    posterior = OneStepGradient()(model)
    assert posterior.probs().isfinite().all()
    torch.testing.assert_close(posterior.probs()[1], torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_data_that_are_not_finite_are_refused(bad: float) -> None:
    x = torch.tensor([0.3, 0.5, bad])
    for infer in (OneStepGradient(), Enumeration()):
        with pytest.raises(TaskSiteError) as error:
            infer(gaussian, x, torch.tensor([0.2, 0.8]), 0.1, torch.zeros(2))
        for part in ("'x'", "1 NaN or infinite", "index (2,)", "finite numbers", "poutine.mask"):
            assert part in str(error.value)


def test_large_data_whose_sum_overflows_are_fine() -> None:
    x = torch.full((3,), 3e38)
    means, corners = torch.tensor([3e38, 0.0]), {"z": torch.tensor([[1.0, 0.0]] * 3)}
    joint = relaxed_log_joint(gaussian, corners, x, means, 1e38, torch.zeros(2))
    assert joint.total.isfinite()


def test_nan_from_the_network_is_distinguished_from_nan_data() -> None:
    means = torch.tensor([0.0, math.nan])
    with pytest.raises(TaskSiteError, match="weights"), pyro.validation_enabled(False):
        OneStepGradient()(gaussian, torch.zeros(2), means, 0.1, torch.zeros(2))


@pytest.mark.parametrize("infer", [OneStepGradient(), OneStepGradient(order=2), Enumeration()])
def test_a_scale_around_everything_tempers_prior_and_likelihood(
    infer: OneStepGradient | Enumeration, generator: torch.Generator
) -> None:
    x, means = normal(generator, 5), normal(generator, 2)
    log_prior = normal(generator, 2).log_softmax(-1)
    scaled = poutine.scale(gaussian, scale=0.25)
    tempered = Enumeration(temperature=4.0)(gaussian, x, means, 0.5, log_prior)
    posterior = infer(scaled, x, means, 0.5, log_prior)
    torch.testing.assert_close(posterior.probs(), tempered.probs())


def test_a_chosen_subsample_is_not_scaled_and_a_random_one_is_refused(
    generator: torch.Generator,
) -> None:
    x, means = normal(generator, 10), torch.tensor([0.0, 1.0], dtype=torch.float64)

    def model(**how: Any) -> None:
        with pyro.plate("sequence", 10, **how) as index:
            prior = dist.OneHotCategorical(torch.tensor([0.3, 0.7], dtype=torch.float64))
            z = pyro.sample("z", prior, infer=TASK)
            pyro.sample("x", dist.Normal(z @ means, 0.5), obs=x[index])

    index = torch.tensor([7, 2, 3])
    for infer in (OneStepGradient(), OneStepGradient(order=2), Enumeration()):
        some, everything = infer(model, subsample=index), infer(model)
        torch.testing.assert_close(some.probs(), everything.probs()[index])
        if some.log_evidence is not None:
            torch.testing.assert_close(some.log_evidence, everything.log_evidence[index])
        with pytest.raises(TaskSiteError, match="'sequence' draws a new subsample") as error:
            infer(model, subsample_size=3)
        assert "subsample=" in str(error.value)


# Tasks that do not reach the likelihood, and tasks that do


def by_argmax(z: Tensor) -> Tensor:
    return torch.tensor([0.0, 1.0])[z.argmax(-1)]


def by_detach(z: Tensor) -> Tensor:
    return z.detach() @ torch.tensor([0.0, 1.0])


def by_rounding(z: Tensor) -> Tensor:
    return z.ge(0.7).to(z) @ torch.tensor([0.0, 1.0])


def by_nothing(z: Tensor) -> Tensor:
    return torch.zeros(z.shape[:-1])


def by_zeros(z: Tensor) -> Tensor:
    return z @ torch.zeros(2)


@pytest.mark.parametrize("enter", [by_argmax, by_detach, by_rounding, by_nothing, by_zeros])
@pytest.mark.parametrize("weight", [False, True], ids=["constant", "learned sigma"])
def test_a_task_that_does_not_reach_the_likelihood_is_an_error(
    enter: Callable[[Tensor], Tensor], weight: bool
) -> None:
    sigma = torch.tensor(0.5, requires_grad=weight)  # gradients elsewhere do not hide it

    def model() -> None:
        with pyro.plate("sequence", 3):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
            pyro.sample("x", dist.Normal(enter(z), sigma), obs=torch.tensor([0.1, 0.5, 0.3]))

    with pytest.raises(TaskSiteError) as error:
        OneStepGradient()(model)
    for part in ("'z' does not reach", "expected the log likelihood to change", "matmul"):
        assert part in str(error.value)


def test_one_of_two_tasks_that_does_not_reach_the_likelihood_is_named() -> None:
    def model() -> None:
        prior = dist.OneHotCategorical(torch.ones(2))
        pyro.sample("a", prior, infer=TASK)
        b = pyro.sample("b", prior, infer=TASK)
        pyro.sample("x", dist.Normal(b @ torch.tensor([0.0, 1.0]), 1.0), obs=torch.tensor(0.2))

    with pytest.raises(TaskSiteError, match="'a' does not reach"):
        OneStepGradient()(model)


def test_a_task_that_reaches_the_data_through_another_task_is_no_error() -> None:
    """While the other one is at maximum entropy nothing depends on it."""
    signs = torch.tensor([-1.0, 1.0])

    def model(coupling: float) -> None:
        prior = dist.OneHotCategorical(torch.ones(2))
        a = pyro.sample("a", prior, infer=TASK) @ signs
        b = pyro.sample("b", prior, infer=TASK) @ signs
        pyro.factor("pair", coupling * a * b)
        pyro.sample("x", dist.Normal(b, 1.0), obs=torch.tensor(0.5))

    torch.testing.assert_close(OneStepGradient()(model, 1.0).probs("a"), torch.full((2,), 0.5))
    with pytest.raises(TaskSiteError, match="'a' does not reach"):
        OneStepGradient()(model, 0.0)


def test_data_midway_between_two_tasks_are_no_error() -> None:
    log_prior = torch.tensor([0.3, 0.7]).log()
    posterior = OneStepGradient()(
        gaussian, torch.tensor([0.5]), torch.tensor([0.0, 1.0]), 0.1, log_prior
    )
    torch.testing.assert_close(posterior.probs(), torch.tensor([[0.3, 0.7]]))
    assert posterior.passes.check == 1  # a corner had to tell


def test_data_that_speak_evenly_for_two_tasks_are_no_error() -> None:
    def model() -> None:
        z = pyro.sample("z", dist.OneHotCategorical(torch.tensor([0.3, 0.7])), infer=TASK)
        with pyro.plate("time", 2):
            mean = z @ torch.tensor([0.0, 1.0])
            pyro.sample("x", dist.Normal(mean, 0.5), obs=torch.tensor([0.0, 1.0]))

    torch.testing.assert_close(OneStepGradient()(model).probs(), torch.tensor([0.3, 0.7]))


def test_a_context_known_only_through_another_tasks_prior_is_no_error() -> None:
    def model() -> None:
        c = pyro.sample("c", dist.OneHotCategorical(torch.tensor([0.3, 0.7])), infer=TASK)
        scores = c @ torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        z = pyro.sample("z", dist.OneHotCategorical(logits=scores), infer=TASK)
        pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0]), 0.5), obs=torch.tensor(0.9))

    posterior = OneStepGradient()(model)  # at maximum entropy of z, both contexts do as well
    torch.testing.assert_close(posterior.probs("c"), torch.tensor([0.3, 0.7]))


def test_a_gradient_that_is_not_finite_is_an_error() -> None:
    def model() -> None:
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
        kink = (z[..., 0] - z[..., 1]).abs().sqrt()
        pyro.sample("x", dist.Normal(kink, 0.5), obs=torch.tensor(0.9))

    with pytest.raises(TaskSiteError, match="'z' has NaN or infinite") as error:
        OneStepGradient()(model)
    assert "expected finite numbers" in str(error.value)


def test_a_model_without_data_has_its_prior_as_log_joint_and_no_gradient() -> None:
    def model() -> None:
        pyro.sample("z", dist.OneHotCategorical(torch.tensor([0.3, 0.7])), infer=TASK)

    joint = relaxed_log_joint(model, {"z": torch.tensor([1.0, 0.0])})
    torch.testing.assert_close(joint.total, torch.tensor(0.3).log())
    assert joint.likelihood == 0
    torch.testing.assert_close(Enumeration()(model).probs(), torch.tensor([0.3, 0.7]))
    with pytest.raises(TaskSiteError, match="'z' has nothing to be inferred from") as error:
        OneStepGradient()(model)
    assert "obs=" in str(error.value)


# What an element explains


def test_observations_are_counted_by_element(generator: torch.Generator) -> None:
    x = normal(generator, 4, 5)
    for model, count in ((per_sequence, 5.0), (per_step, 1.0), (without_plates, 1.0)):
        q = random_points(model, generator, x)
        joint = relaxed_log_joint(model, q, x)
        site = joint.sites["z"]
        expected = torch.full(site.batch_shape, count, dtype=torch.float64)
        torch.testing.assert_close(joint.num_observations(site), expected)


@pytest.mark.parametrize("batch", [1, 3])
def test_terms_of_another_plate_at_the_same_dimension_are_not_an_elements_own(batch: int) -> None:
    """Two plates may use one dimension, one after the other, even with the same size."""

    def model(others: int) -> None:
        with pyro.plate("sequence", batch):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
            pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0]), 0.5), obs=torch.zeros(batch))
        with pyro.plate("word", others):
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.zeros(others))

    alone = Enumeration()(model, 1)
    for others in (3, 7):
        posterior = Enumeration()(model, others)
        torch.testing.assert_close(posterior.log_evidence, alone.log_evidence)
        torch.testing.assert_close(posterior.num_observations["z"], torch.ones(batch))


def test_passes_are_counted_as_they_are_spent() -> None:
    run = RelaxedModel(gaussian, (torch.zeros(2), torch.tensor([0.0, 1.0]), 0.5, torch.zeros(2)))
    joint = run.log_joint(lambda site: site.uniform(), order=1)
    run.count(forward=1)
    run.likelihood_gradient(joint)
    assert run.passes == (1, 1, 0)


def test_inference_mode_is_refused_in_words() -> None:
    with torch.inference_mode(), pytest.raises(TaskSiteError, match=r"inference_mode\(\)"):
        OneStepGradient()(uniform_prior, torch.zeros(3, 2))
