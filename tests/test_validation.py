"""With Pyro's validation switched off, a call waits for a couple of numbers, and no more."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro_models import TASK, gaussian, normal
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gbi_pyro import Enumeration, IterativeGradient, OneStepGradient, TaskSiteError, find_task_sites
from gbi_pyro.relax import SoftOneHot

PRIOR = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()


class Waits(TorchDispatchMode):
    """Counts how often a number is read from a tensor: on a GPU a synchronisation each."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def waits(infer: Callable[..., Any], model: Callable[..., Any], *args: Any) -> int:
    with Waits() as counted:
        infer(model, *args)
    return counted.count


def data() -> tuple[Tensor, Tensor, float, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return normal(generator, 6), normal(generator, 3), 0.5, PRIOR


def masked(x: Tensor, means: Tensor, sigma: float, log_prior: Tensor) -> None:
    """Every other element has no data: NaN."""
    mask = torch.arange(len(x)) % 2 == 0
    with poutine.mask(mask=mask):
        gaussian(torch.where(mask, x, torch.nan), means, sigma, log_prior)


def many_sites(x: Tensor, means: Tensor, sigma: float, log_prior: Tensor) -> None:
    with pyro.plate("element", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(logits=log_prior), infer=TASK)
        for i in range(10):
            pyro.sample(f"x{i}", dist.Normal(z @ means, sigma), obs=x + 0.1 * i)


MODELS = [gaussian, masked, many_sites]


@pytest.mark.parametrize("model", MODELS)
def test_one_step_waits_twice(model: Callable[..., Any]) -> None:
    checked = waits(OneStepGradient(), model, *data())
    with pyro.validation_enabled(False):
        assert waits(OneStepGradient(), model, *data()) <= 2 < checked


@pytest.mark.parametrize("model", MODELS)
def test_an_ascent_waits_twice_a_step(model: Callable[..., Any]) -> None:
    with pyro.validation_enabled(False):
        few, many = (waits(IterativeGradient(num_steps=steps), model, *data()) for steps in (5, 15))
    assert many - few <= 2 * 10


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "infer",
    [OneStepGradient(), OneStepGradient(order=2), Enumeration(), IterativeGradient(num_steps=5)],
)
def test_the_switch_changes_no_posterior(infer: Any, model: Callable[..., Any]) -> None:
    found = infer(model, *data())
    with pyro.validation_enabled(False):
        torch.testing.assert_close(infer(model, *data()).probs(), found.probs())


def test_a_forbidden_task_costs_nothing_with_the_switch_off() -> None:
    prior = torch.tensor([0.5, 0.5, 0.0])
    with pyro.validation_enabled(False):
        site = find_task_sites(lambda: pyro.sample("z", dist.OneHotCategorical(prior), infer=TASK))
        log_prob = SoftOneHot(site["z"].log_prior).log_prob(torch.tensor([0.25, 0.75, 0.0]))
    torch.testing.assert_close(log_prob, torch.tensor(0.5).log())


def test_shapes_and_names_are_checked_with_the_switch_off() -> None:
    def column(x: Tensor, *args: Any) -> None:
        gaussian(x, *args)
        with pyro.plate("again", len(x)):
            pyro.sample("y", dist.Normal(x.unsqueeze(-1), 1.0), obs=x)

    with pyro.validation_enabled(False), pytest.raises(TaskSiteError, match="shape"):
        OneStepGradient()(column, *data())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_data_that_are_not_finite_do_not_pass_with_the_switch_off(value: float) -> None:
    x, *rest = data()
    x = torch.where(torch.arange(len(x)) == 1, value, x)
    with pyro.validation_enabled(False), pytest.raises(TaskSiteError, match="NaN"):
        OneStepGradient()(gaussian, x, *rest)


def test_a_task_that_does_not_reach_the_data_is_refused_with_the_switch_off() -> None:
    def apart(x: Tensor) -> None:
        pyro.sample("z", dist.OneHotCategorical(logits=PRIOR), infer=TASK)
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pyro.validation_enabled(False), pytest.raises(TaskSiteError, match="does not reach"):
        OneStepGradient()(apart, torch.tensor(0.3))
