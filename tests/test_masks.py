"""Data that count only in part: masks around a site, inside its event, and by obs_mask."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro_models import TASK
from torch import Tensor

from gbi_pyro import (
    Enumeration,
    IterativeGradient,
    OneStepGradient,
    TaskSiteError,
    check_model,
    clamped_loss,
)

PRIOR, MEANS = torch.tensor([0.3, 0.7]), torch.tensor([0.0, 2.0])
TABLE = torch.tensor([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])
NAN = math.nan
EXACT = [Enumeration(), OneStepGradient(), OneStepGradient(order=2)]
GRADIENTS = [OneStepGradient(), OneStepGradient(order=2), IterativeGradient(num_steps=5)]


def task() -> Tensor:
    return pyro.sample("z", dist.OneHotCategorical(PRIOR), infer=TASK)


def by_obs_mask(x: Tensor, seen: Tensor) -> Tensor:
    with pyro.plate("trial", len(x)):
        return pyro.sample("x", dist.Normal(task() @ MEANS, 1.0), obs=x, obs_mask=seen)


# obs_mask


@pytest.mark.parametrize("infer", EXACT, ids=str)
@pytest.mark.parametrize("filler", [NAN, 100.0])
def test_what_obs_mask_leaves_out_does_not_count(infer: Any, filler: float) -> None:
    x, seen = torch.tensor([0.5, filler, 1.5]), torch.tensor([True, False, True])
    found = infer(by_obs_mask, x, seen)
    joint = PRIOR * dist.Normal(MEANS, 1.0).log_prob(x[seen].unsqueeze(-1)).exp()
    torch.testing.assert_close(found.probs()[seen], joint / joint.sum(-1, keepdim=True))
    torch.testing.assert_close(found.probs()[1], PRIOR)
    assert found.num_observations["z"].tolist() == [1, 0, 1]
    if found.log_evidence is not None:
        expected = torch.tensor([joint[0].sum().log(), 0.0, joint[1].sum().log()])
        torch.testing.assert_close(found.log_evidence, expected, atol=1e-6, rtol=1e-5)


def test_obs_mask_is_a_mask_in_training_too() -> None:
    x, seen = torch.tensor([0.5, NAN]), torch.tensor([True, False])
    z = torch.eye(2)

    def model() -> None:
        with pyro.plate("trial", 2):
            value = pyro.sample("z", dist.OneHotCategorical(PRIOR), obs=z, infer=TASK)
            pyro.sample("x", dist.Normal(value @ MEANS, 1.0), obs=x, obs_mask=seen)

    expected = -(PRIOR.log().sum() + dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.5)))
    torch.testing.assert_close(clamped_loss(model), expected)


def into_a_mean(value: Tensor) -> None:
    pyro.sample("y", dist.Normal(value, 1.0), obs=torch.zeros(2))


def into_a_comparison(value: Tensor) -> None:
    pyro.sample("y", dist.Normal((value > 1).float(), 1.0), obs=torch.zeros(2))


def into_a_factor(value: Tensor) -> None:
    pyro.factor("y", value.nan_to_num())


def into_a_buffer(value: Tensor) -> None:
    buffer = torch.zeros(2)
    buffer[:] = value
    pyro.sample("y", dist.Normal(buffer, 1.0, validate_args=False), obs=torch.zeros(2))


@pytest.mark.parametrize("use", [into_a_mean, into_a_comparison, into_a_factor, into_a_buffer])
@pytest.mark.parametrize("infer", [Enumeration(), OneStepGradient()], ids=str)
def test_a_model_that_uses_what_nobody_observed_is_refused(
    use: Callable[[Tensor], None], infer: Any
) -> None:
    def model(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("trial", len(x)):
            value = pyro.sample("x", dist.Normal(task() @ MEANS, 1.0), obs=x, obs_mask=seen)
            use(value)

    x, seen = torch.tensor([0.5, 0.0]), torch.tensor([True, False])
    with pytest.raises(TaskSiteError, match=r"obs_mask.*'x'.*depend.*poutine\.mask"):
        infer(model, x, seen)


def test_an_index_made_of_what_nobody_observed_is_refused() -> None:
    def model(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("trial", len(x)):
            word = dist.Categorical(task() @ TABLE)
            value = pyro.sample("x", word, obs=x, obs_mask=seen)
            pyro.sample("y", dist.Normal(torch.arange(3.0)[value], 1.0), obs=torch.zeros(2))

    with pytest.raises(TaskSiteError, match=r"obs_mask.*'x'.*IndexError"):
        OneStepGradient()(model, torch.tensor([0, 2]), torch.tensor([True, False]))


# Everything masked


@pytest.mark.parametrize("how", ["handler", "distribution", "handler off", "obs_mask"])
@pytest.mark.parametrize("infer", [*GRADIENTS, Enumeration()], ids=str)
def test_without_data_that_count_the_posterior_is_the_prior(infer: Any, how: str) -> None:
    none = torch.zeros(2, dtype=torch.bool)

    def model(x: Tensor) -> None:
        with pyro.plate("trial", len(x)):
            noise = dist.Normal(task() @ MEANS, 1.0)
            if how == "distribution":
                pyro.sample("x", noise.mask(False), obs=x)
            elif how == "obs_mask":
                pyro.sample("x", noise, obs=x, obs_mask=none)
            else:
                with poutine.mask(mask=none if how == "handler" else False):
                    pyro.sample("x", noise, obs=x)

    found = infer(model, torch.tensor([0.5, NAN]))
    torch.testing.assert_close(found.probs(), PRIOR.expand(2, 2))
    assert found.num_observations["z"].tolist() == [0, 0]
    report = check_model(model, torch.tensor([0.5, NAN]))
    assert report.ok
    assert any("all data of this call are masked" in f.message for f in report.findings)


def test_a_bare_factor_counts_beside_masked_data() -> None:
    def model() -> None:
        z = task()
        with poutine.mask(mask=False):
            pyro.sample("x", dist.Normal(z @ MEANS, 1.0), obs=torch.tensor(0.3))
        pyro.factor("f", z @ torch.tensor([0.0, 1.0]))

    odds = PRIOR * torch.tensor([0.0, 1.0]).exp()
    torch.testing.assert_close(OneStepGradient()(model).probs(), odds / odds.sum())


# Masks inside of an event, and values that no distribution can score


@pytest.mark.parametrize("infer", EXACT, ids=str)
def test_elements_masked_inside_of_an_event_do_not_count(infer: Any) -> None:
    def model(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("trial", len(x)):
            noise = dist.Normal((task() @ MEANS).unsqueeze(-1), 1.0)
            pyro.sample("x", noise.mask(seen).to_event(1), obs=x)

    x = torch.tensor([[0.5, NAN, 0.2], [NAN, NAN, math.inf], [0.5, 1.0, 1.0]])
    found = infer(model, x, x.isfinite())
    log_prob = dist.Normal(MEANS, 1.0, validate_args=False).log_prob(x.unsqueeze(-1))
    expected = PRIOR.log() + log_prob.masked_fill(~x.isfinite().unsqueeze(-1), 0.0).sum(1)
    torch.testing.assert_close(found.logits(), expected.log_softmax(-1))
    torch.testing.assert_close(found.probs()[1], PRIOR)
    assert found.num_observations["z"].tolist() == [1, 0, 1]
    with pytest.raises(TaskSiteError, match=r"'x' have 1 NaN or infinite.*index \(0, 1\)"):
        infer(model, x, x.isfinite() | torch.tensor([[False, True, False]] + [[False] * 3] * 2))


@pytest.mark.parametrize("how", ["handler", "distribution"])
@pytest.mark.parametrize("validation", [True, False])
def test_masked_ids_need_not_be_in_the_support(how: str, validation: bool) -> None:
    def model(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("trial", len(x)):
            word = dist.Categorical(task() @ TABLE)
            if how == "distribution":
                pyro.sample("x", word.mask(seen), obs=x)
            else:
                with poutine.mask(mask=seen):
                    pyro.sample("x", word, obs=x)

    x = torch.tensor([0, -1, 2])
    expected = torch.stack([PRIOR * TABLE[:, 0], PRIOR, PRIOR * TABLE[:, 2]])
    before = torch.get_rng_state()
    with pyro.validation_enabled(validation):
        found = Enumeration()(model, x, x >= 0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(found.probs(), expected / expected.sum(-1, keepdim=True))
    assert found.num_observations["z"].tolist() == [1, 0, 1]
    assert OneStepGradient()(model, x, x >= 0).probs().isfinite().all()


def test_positive_numbers_may_be_padded_with_zeros() -> None:
    rates = torch.tensor([1.0, 3.0])

    def model(x: Tensor) -> None:
        with pyro.plate("trial", len(x)), poutine.mask(mask=x > 0):
            z = task()
            pyro.sample("x", dist.Gamma(2.0, z @ rates), obs=x)

    x = torch.tensor([0.5, 0.0, -1.0])
    odds = PRIOR * dist.Gamma(2.0, rates).log_prob(torch.tensor(0.5)).exp()
    expected = torch.stack([odds / odds.sum(), PRIOR, PRIOR])
    torch.testing.assert_close(Enumeration()(model, x).probs(), expected)
    assert OneStepGradient()(model, x).probs().isfinite().all()


def test_values_out_of_the_support_are_named_with_their_site() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("trial", len(x)):
            pyro.sample("word", dist.Categorical(task() @ TABLE), obs=x)

    with pytest.raises(TaskSiteError, match=r"'word', of shape \(2,\).*support.*poutine\.mask"):
        Enumeration()(model, torch.tensor([0, 3]))
    with pytest.raises(TaskSiteError, match=r"'word', of shape \(2, 2\)|'word' has log prob"):
        Enumeration()(model, torch.zeros(2, 2, dtype=torch.long))


def test_a_mask_of_another_shape_is_named() -> None:
    x = torch.zeros(2)
    with pytest.raises(TaskSiteError, match=r"mask of site 'x_observed' has shape \(3,\).*\(2,\)"):
        OneStepGradient()(by_obs_mask, x, torch.tensor([True, False, True]))


def test_one_of_two_sites_may_have_all_its_data_masked() -> None:
    def model(hidden: bool) -> None:
        for name, seen in (("a", True), ("b", not hidden)):
            with pyro.plate(f"plate_{name}", 2):
                prior = dist.OneHotCategorical(torch.tensor([0.3, 0.7]))
                z = pyro.sample(name, prior, infer={"task": True})
                with poutine.mask(mask=torch.tensor([seen, seen])):
                    mean = z @ torch.tensor([0.0, 1.0])
                    pyro.sample(f"x_{name}", dist.Normal(mean, 1.0), obs=torch.tensor([0.0, 1.0]))

    both, one = OneStepGradient()(model, False), OneStepGradient()(model, True)
    torch.testing.assert_close(one.probs("a"), both.probs("a"))
    torch.testing.assert_close(one.probs("b"), torch.tensor([[0.3, 0.7]] * 2))
    torch.testing.assert_close(Enumeration()(model, True).probs("b"), one.probs("b"))
