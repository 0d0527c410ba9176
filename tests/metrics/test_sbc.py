"""Simulation-based calibration: exact inference passes, wrong inference fails, any model goes."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro_models import TASK
from torch import Tensor

from gbi_pyro import (
    Enumeration,
    OneStepGradient,
    TaskPosterior,
    TaskSiteError,
    calibrate,
    stepwise,
)
from gbi_pyro.metrics import SBCResult, check_sbc, reliability_table, run_sbc
from gbi_pyro.models import SequenceLSTM

ONE = (torch.zeros(1),)


def mixture(x: Tensor, z: Tensor | None = None) -> None:
    """Three tasks with means that lie unequally far from their centre."""
    with pyro.plate("trial", len(x)):
        prior = dist.OneHotCategorical(torch.tensor([0.5, 0.3, 0.2]))
        z = pyro.sample("z", prior, obs=z, infer=TASK)
        pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0, 2.5]), 0.7), obs=x)


def nested(x: Tensor) -> None:
    """A task for each sequence, and one for each of its steps."""
    prior = dist.OneHotCategorical(torch.tensor([0.3, 0.7]))
    with pyro.plate("sequence", x.shape[0], dim=-2):
        context = pyro.sample("context", prior, infer=TASK)
        with pyro.plate("time", x.shape[1], dim=-1):
            z = pyro.sample("z", prior, infer=TASK)
            mean = z @ torch.tensor([0.0, 1.0]) + context @ torch.tensor([0.0, 0.5])
            pyro.sample("x", dist.Normal(mean, 0.5), obs=x)


@pytest.mark.parametrize(("temperature", "passes"), [(1.0, True), (0.6, False), (2.0, False)])
def test_exact_inference_passes_and_a_wrong_temperature_fails(
    generator: torch.Generator, temperature: float, passes: bool
) -> None:
    found = []
    for _ in range(100):
        result = run_sbc(
            mixture,
            Enumeration(temperature=temperature),
            ONE,
            num_simulations=600,
            generator=generator,
            parallel=True,
        )
        found.append(check_sbc(result, num_draws=499, generator=generator).passed)
    assert found.count(passes) >= 95


def test_one_step_of_three_tasks_fails_until_it_is_corrected(generator: torch.Generator) -> None:
    def judge(infer: Any) -> bool:
        result = run_sbc(
            mixture, infer, ONE, num_simulations=1500, generator=generator, parallel=True
        )
        return check_sbc(result).passed

    assert not judge(OneStepGradient())
    assert judge(OneStepGradient(order=2))
    other = torch.linspace(-2, 4, 50)
    corrected = calibrate(OneStepGradient()(mixture, other), Enumeration()(mixture, other))
    assert judge(OneStepGradient(calibration=corrected))


@pytest.mark.parametrize("parallel", [True, False])
def test_data_are_drawn_anew_and_explained_by_their_own_tasks(
    generator: torch.Generator, parallel: bool
) -> None:
    def clear(x: Tensor) -> None:  # hardly any noise: the posterior is sure, and has to be right
        with pyro.plate("trial", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3)), infer=TASK)
            pyro.deterministic("mean", z @ torch.arange(3.0))
            pyro.sample("x", dist.Normal(z @ torch.arange(3.0), 1e-3), obs=x)

    result = run_sbc(
        clear,
        Enumeration(),
        (torch.full((4,), 77.0),),
        num_simulations=30,
        generator=generator,
        parallel=parallel,
    )
    assert result.tasks["z"].shape == (30, 4)
    assert result.log_probs["z"].shape == (30, 4, 3)
    assert torch.equal(result.log_probs["z"].argmax(-1), result.tasks["z"])
    # Shares of the prior, within five standard errors.
    shares = result.tasks["z"].flatten().bincount(minlength=3) / 120
    assert ((shares - 1 / 3).abs() < 5 * math.sqrt(2 / 9 / 120)).all()
    # Each simulation has one element judged, each element in its turn.
    log_q, z = result.cases("z")
    assert torch.equal(z[:5], result.tasks["z"][torch.arange(5), torch.tensor([0, 1, 2, 3, 0])])
    assert reliability_table(log_q, z).num_elements.tolist() == [30]
    assert result.cases("z", "all")[0].shape == (120, 3)


@pytest.mark.parametrize("parallel", [True, False])
def test_sites_of_different_plates_are_tested_together(
    generator: torch.Generator, parallel: bool
) -> None:
    args, n = (torch.zeros(2, 3),), 1000 if parallel else 30
    exact, wrong = (
        run_sbc(nested, infer, args, num_simulations=n, generator=generator, parallel=parallel)
        for infer in (Enumeration(), Enumeration(temperature=3.0))
    )
    assert exact.tasks["context"].shape == (n, 2, 1)
    assert exact.tasks["z"].shape == (n, 2, 3)
    found = check_sbc(exact)
    assert found.passed
    smallest = min(site.p_value for site in found.sites.values())
    assert found.p_value == min(1.0, 2 * smallest)  # Bonferroni over two sites
    assert "say nothing against its posterior" in found.verdict
    if parallel:
        failed = check_sbc(wrong)
        assert not failed.passed
        assert "'z': too unsure: true tasks have log probability" in failed.verdict


def test_elements_of_one_simulation_count_singly_unless_they_are_independent(
    generator: torch.Generator,
) -> None:
    # A perfect posterior of one task that a hundred elements share: as cases they are one.
    z = torch.randint(2, (10, 1), generator=generator).expand(10, 100)
    result = SBCResult({"z": z}, {"z": torch.full((10, 100, 2), 0.5).log()}, "example")
    assert check_sbc(result).sites["z"].num_cases == 10
    assert check_sbc(result, elements="all").sites["z"].num_cases == 1000
    many = run_sbc(
        mixture, Enumeration(), (torch.zeros(200),), num_simulations=5, generator=generator
    )
    assert check_sbc(many, elements="all").passed


def test_a_single_task_without_plates(generator: torch.Generator) -> None:
    def single(x: Tensor) -> None:
        z = pyro.sample("z", dist.OneHotCategorical(torch.tensor([0.3, 0.7])), infer=TASK)
        with pyro.plate("trial", len(x)):
            pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0]), 1.0), obs=x)

    for parallel, n in ((True, 500), (False, 40)):
        result = run_sbc(
            single,
            Enumeration(),
            (torch.zeros(3),),
            num_simulations=n,
            generator=generator,
            parallel=parallel,
        )
        assert result.tasks["z"].shape == (n,)
        assert check_sbc(result).passed


def test_single_steps_of_a_recurrent_network_with_its_past_fixed(
    generator: torch.Generator,
) -> None:
    network = SequenceLSTM(3, 8, generator=generator).eval()
    x = torch.randn(2, 20, generator=generator)
    result = run_sbc(stepwise(network, x), Enumeration(), num_simulations=20, generator=generator)
    assert result.tasks["z"].shape == (20, 2, 20)
    assert check_sbc(result, elements="all").passed


def test_labels_are_drawn_too_and_sites_to_keep_are_not(generator: torch.Generator) -> None:
    def two(x: Tensor, context: Tensor) -> None:
        with pyro.plate("trial", len(x)):
            prior = dist.OneHotCategorical(torch.tensor([0.5, 0.5]))
            c = pyro.sample("context", prior, obs=context, infer=TASK)
            z = pyro.sample("z", prior, infer=TASK)
            mean = z @ torch.tensor([0.0, 1.0]) + c @ torch.tensor([0.0, 10.0])
            pyro.sample("x", dist.Normal(mean, 0.5), obs=x)

    seen: list[Tensor] = []

    def infer(model: Any, *args: Any) -> TaskPosterior:
        data = pyro.poutine.trace(model).get_trace(*args)
        seen.append(data.nodes["context"]["value"])
        seen.append(data.nodes["x"]["value"])
        return Enumeration()(model, *args)

    labels = torch.tensor([[1.0, 0.0]]).expand(50, 2)
    args = (torch.zeros(50), labels)
    for keep in ((), ("context",)):
        result = run_sbc(two, infer, args, num_simulations=20, generator=generator, keep=keep)
        assert list(result.tasks) == ["z"]
        assert check_sbc(result, elements="all").passed
        context, x = seen[-2:]
        assert torch.equal(context, labels) == bool(keep)
        assert torch.equal(context[:, 1] == 1, x > 5)  # data follow the context that is shown


def test_it_is_pure_and_seeded(generator: torch.Generator) -> None:
    before = torch.get_rng_state()

    def run(seed: int) -> Tensor:
        own = torch.Generator().manual_seed(seed)
        result = run_sbc(mixture, Enumeration(), ONE, num_simulations=5, generator=own)
        return result.log_probs["z"]

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))
    assert torch.equal(torch.get_rng_state(), before)
    assert not pyro.get_param_store().keys()


def test_invalid_models_are_named(generator: torch.Generator) -> None:
    simulate = {"num_simulations": 2, "generator": generator}

    def factor(x: Tensor) -> None:
        mixture(x)
        pyro.factor("bonus", torch.tensor(1.0))

    def latent(x: Tensor) -> None:
        scale = pyro.sample("scale", dist.Gamma(2.0, 2.0))
        with pyro.plate("trial", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
            pyro.sample("x", dist.Normal(z @ torch.arange(2.0), scale), obs=x)

    def categorical(x: Tensor) -> None:
        pyro.sample("z", dist.Categorical(torch.ones(2)), infer=TASK)
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[0])

    with pytest.raises(TaskSiteError, match=r"'bonus' is a pyro\.factor.*not drawn"):
        run_sbc(factor, Enumeration(), ONE, **simulate)
    with pytest.raises(TaskSiteError, match="'scale' is neither observed nor a task"):
        run_sbc(latent, Enumeration(), ONE, **simulate)
    with pytest.raises(TaskSiteError, match="'z' is a Categorical"):
        run_sbc(categorical, Enumeration(), ONE, **simulate)
    with pytest.raises(TaskSiteError, match="nothing to be inferred from"):
        run_sbc(mixture, Enumeration(), ONE, **simulate, keep=["x"])
    with pytest.raises(TaskSiteError, match="no task site"):
        run_sbc(lambda: pyro.sample("x", dist.Normal(0.0, 1.0)), Enumeration(), **simulate)

    def fewer(model: Any, x: Tensor) -> TaskPosterior:
        return Enumeration()(mixture, x[:1])

    with pytest.raises(TaskSiteError, match=r"drawn for elements \(3,\) and inferred for \(1,\)"):
        run_sbc(mixture, fewer, (torch.zeros(3),), **simulate)
    with pytest.raises(ValueError, match="num_simulations should be 1 or more"):
        run_sbc(mixture, Enumeration(), ONE, num_simulations=0, generator=generator)


def test_invalid_options_are_named(generator: torch.Generator) -> None:
    result = run_sbc(mixture, Enumeration(), ONE, num_simulations=3, generator=generator)
    with pytest.raises(ValueError, match="num_draws should be 299 or more, for 3 tests"):
        check_sbc(result, num_draws=298)
    check_sbc(result, num_draws=299)
    with pytest.raises(ValueError, match="level should be between 0 and 1"):
        check_sbc(result, level=0.0)
    with pytest.raises(ValueError, match="elements should be 'one' or 'all'; got 'some'"):
        check_sbc(result, elements="some")  # type: ignore[arg-type]
    with pytest.raises(TaskSiteError, match="'w' is not a task site"):
        result.cases("w")
    broken = SBCResult(result.tasks, {"z": result.log_probs["z"] * math.nan}, "broken")
    with pytest.raises(ValueError, match=r"'z'.*should hold log probabilities"):
        check_sbc(broken)
