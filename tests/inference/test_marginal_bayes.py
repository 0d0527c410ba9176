"""Bayesian inference through the marginal: simulation-based calibration, NUTS, SVI, comparison."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import arviz as az
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_versions import from_arrays
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_value
from torch import Tensor

from gbi_pyro import TaskChain, to_inference_data
from gbi_pyro.inference import LearnedChain, Marginal, marginalize
from gbi_pyro.learning import fit_marginal
from gbi_pyro.metrics import (
    SBCResult,
    check_sbc,
    compare_models,
    leave_one_out,
    one_step_ahead,
    rank_test,
)

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "sequences"
FOLDER = Path(os.environ.get("GBI_PYRO_SEQUENCES", SHARED))
F64 = torch.float64
TASK = {"task": True}
HAZARDS = torch.linspace(0.02, 0.42, 7, dtype=F64)
LEVELS = torch.linspace(0.4, 2.4, 7, dtype=F64)
SIMULATIONS, T = 600, 12
Start = Literal["uniform", "stationary"] | Tensor


def even(K: int) -> dist.OneHotCategorical:
    return dist.OneHotCategorical(torch.ones(K, dtype=F64))


def rows(hazard: Tensor, ratio: float) -> Tensor:
    """Task 0 is left with the hazard, task 1 ``ratio`` times as often: ``(..., 2, 2)``."""
    leave = torch.stack([hazard, ratio * hazard], -1)
    stay = 1 - leave
    ahead = torch.stack([stay[..., 0], leave[..., 0]], -1)
    back = torch.stack([leave[..., 1], stay[..., 1]], -1)
    return torch.stack([ahead, back], -2)


def switching(ratio: float = 2.0, start: Start = "stationary") -> Marginal:
    """Two tasks with means 0 and an unknown level, an unknown hazard; a sequence a simulation."""

    def model(x: Tensor) -> None:
        level = pyro.sample("level", dist.Uniform(0 * LEVELS[0], 3.0))
        with pyro.plate("simulation", len(x), dim=-2), pyro.plate("time", x.shape[1], dim=-1):
            z = pyro.sample("z", even(2), infer=TASK)
            pyro.sample("x", dist.Normal(z[..., 1] * level, 1.0), obs=x)

    def prior(x: Tensor) -> TaskChain:
        hazard = pyro.sample("hazard", dist.Uniform(0 * HAZARDS[0], 0.5))
        return TaskChain(start, rows(hazard, ratio).log())

    return marginalize(model, prior, check=False)


def simulate(hazard: Tensor, level: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw tasks and data step by step, with no code of the library."""
    A, n = rows(hazard, 2.0), torch.arange(len(hazard))
    leave = 1 - A.diagonal(dim1=-2, dim2=-1)
    stationary = leave.flip(-1) / leave.sum(-1, keepdim=True)
    z = [torch.multinomial(stationary, 1, generator=generator).squeeze(-1)]
    for _ in range(T - 1):
        z.append(torch.multinomial(A[n, z[-1]], 1, generator=generator).squeeze(-1))
    tasks = torch.stack(z, -1)
    noise = torch.randn(tasks.shape, generator=generator, dtype=F64)
    return tasks, tasks * level.unsqueeze(-1) + noise


def on_the_grid(marginal: Marginal, x: Tensor) -> dict[str, Tensor]:
    """The exact posterior of hazard, level and tasks: every pair of values is tried."""
    evidence, smoothed = [], []
    for hazard in HAZARDS:
        for level in LEVELS:
            at = marginal.condition({"hazard": hazard, "level": level})
            trace = poutine.trace(at).get_trace(x)
            smoothed.append(at.infer(x).logits())
            trace.compute_log_prob()
            evidence.append(trace.nodes["z_log_evidence"]["log_prob"].squeeze(-1))
    q = torch.stack(evidence, -1).log_softmax(-1)
    pairs = q.unflatten(-1, (len(HAZARDS), len(LEVELS)))
    tasks = (torch.stack(smoothed, 1) + q[..., None, None]).logsumexp(1)
    return {"hazard": pairs.logsumexp(-1), "level": pairs.logsumexp(-2), "z": tasks}


@pytest.fixture(scope="module")
def simulated() -> tuple[dict[str, Tensor], Tensor]:
    """True grid points and tasks, and the data, (N, T)."""
    generator = torch.Generator().manual_seed(0)
    hazard, level = torch.randint(7, (2, SIMULATIONS), generator=generator)
    z, x = simulate(HAZARDS[hazard], LEVELS[level], generator)
    return {"hazard": hazard, "level": level, "z": z}, x


def test_parameters_and_tasks_of_a_chain_are_calibrated(
    simulated: tuple[dict[str, Tensor], Tensor],
) -> None:
    """A priori each point of the grid is as probable: the posterior there is exact."""
    truth, x = simulated
    found = check_sbc(SBCResult(truth, on_the_grid(switching(), x), "marginal on a grid"))
    assert found.passed, found.verdict


@pytest.mark.parametrize(
    ("ratio", "start", "site"),
    [(1.0, "stationary", "level"), (2.0, torch.tensor([0.05, 0.95]).log(), "z")],
)
def test_a_wrong_transition_or_start_is_found(
    ratio: float, start: Start, site: str, simulated: tuple[dict[str, Tensor], Tensor]
) -> None:
    truth, x = simulated
    wrong = check_sbc(SBCResult(truth, on_the_grid(switching(ratio, start), x), "wrong chain"))
    assert not wrong.passed
    assert wrong.sites[site].p_value < 0.01


def test_drawn_paths_are_calibrated(simulated: tuple[dict[str, Tensor], Tensor]) -> None:
    """The true path is one more draw: by its task at a step, its switches, its log joint."""
    generator = torch.Generator().manual_seed(1)
    hazard = torch.full((SIMULATIONS,), 0.1, dtype=F64)
    z, x = simulate(hazard, 1.5 + 0 * hazard, generator)
    step = torch.randint(T, (SIMULATIONS,), generator=generator)

    def log_joint(path: Tensor) -> Tensor:
        A = rows(hazard[0], 2.0)
        pi = torch.tensor([2 / 3, 1 / 3], dtype=F64)
        moves = A.log()[path[..., :-1], path[..., 1:]].sum(-1)
        return pi.log()[path[..., 0]] + moves - 0.5 * ((x - 1.5 * path) ** 2).sum(-1)

    quantities = {
        "task": lambda path: path[..., torch.arange(len(step)), step],
        "switches": lambda path: (path.diff(dim=-1) != 0).sum(-1),
        "log joint": log_joint,
    }

    def p_values(paths: Tensor) -> dict[str, float]:
        return {
            name: rank_test(of(paths).mT, of(z), generator=generator).p_value
            for name, of in quantities.items()
        }

    values = {"hazard": hazard[0], "level": torch.tensor(1.5, dtype=F64)}
    exact, wrong = (switching(ratio).condition(values).infer(x) for ratio in (2.0, 0.5))
    level = 0.01 / len(quantities)
    assert min(p_values(exact.sample(19, generator=generator)["z"]).values()) > level
    assert p_values(wrong.sample(19, generator=generator)["z"])["log joint"] < level
    # Steps drawn one by one have the right tasks, and switch too often.
    one_by_one = torch.rand((19, *z.shape), generator=generator) < exact.probs()[..., 1]
    alone = p_values(one_by_one.long())
    assert alone["task"] > level
    assert alone["switches"] < level
    assert alone["log joint"] < level


def subjects(x: Tensor, pooled: bool = True) -> None:
    """Each subject has a level of its own, from a population; or all have the same."""
    level = pyro.sample("population", dist.Normal(x.new_zeros(()), 3.0))
    between = pyro.sample("between", dist.LogNormal(x.new_tensor(-1.0), 0.5)) if pooled else None
    with pyro.plate("subject", len(x), dim=-2):
        if between is not None:
            level = pyro.sample("level", dist.Normal(level, between))
        with pyro.plate("time", x.shape[1], dim=-1):
            z = pyro.sample("z", even(2), infer=TASK)
            pyro.sample("x", dist.Normal(z[..., 1] * level, 1.0), obs=x)


def population_on_a_grid(marginal: Marginal, x: Tensor) -> tuple[float, float]:
    """The exact mean and standard deviation of the population's mean, given all subjects.

    p(x | population, between) = prod_n sum_level p(level | population, between) p(x_n | level).
    """
    levels = torch.linspace(-2, 6, 81, dtype=F64)
    means, between = torch.linspace(0, 4, 81, dtype=F64), torch.linspace(0.04, 2, 50, dtype=F64)
    others = {"population": levels[0], "between": between[0]}
    given = [
        marginal.condition({**others, "level": level.expand(len(x), 1)}).infer(x).log_evidence
        for level in levels
    ]
    of_level = dist.Normal(means[:, None, None], between[:, None]).log_prob(levels)
    of_subject = [(of_level + evidence).logsumexp(-1) for evidence in torch.stack(given, -1)]
    prior = dist.Normal(0.0, 3.0).log_prob(means)[:, None]
    prior = prior + dist.LogNormal(-1.0, 0.5).log_prob(between)
    q = (prior + torch.stack(of_subject).sum(0)).flatten().softmax(0).reshape(prior.shape).sum(-1)
    mean = (q * means).sum()
    return mean.item(), (q * (means - mean) ** 2).sum().sqrt().item()


def test_subjects_are_pooled_by_svi_and_compared(generator: torch.Generator) -> None:
    N, T, true, between = 12, 40, 3.0, 0.5
    level = true + between * torch.randn(N, 1, generator=generator, dtype=F64)
    switches = torch.rand(N, T, generator=generator) < 0.1
    noise = torch.randn(N, T, generator=generator, dtype=F64)
    x = (switches.cumsum(-1) % 2) * level + noise
    marginal = marginalize(subjects, TaskChain.sticky(2, hazard=0.1), check=False)
    scores = {}
    for name, pooled, steps in (("one level", False, 50), ("a level each", True, 120)):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        guide = AutoNormal(marginal)
        optimiser = pyro.optim.ClippedAdam({"lr": 0.2, "lrd": 0.01 ** (1 / steps)})
        svi = SVI(marginal, guide, optimiser, Trace_ELBO())
        for _ in range(steps):
            svi.step(x, pooled)
        draws = Predictive(guide, num_samples=60)(x, pooled)
        data = to_inference_data(draws, marginal, (x, pooled), num_draws=0, by_step=False)
        scores[name] = leave_one_out(data)
        found = data.posterior["population"].mean().item()
    mean, deviation = population_on_a_grid(marginal, x)
    assert abs(found - mean) < deviation
    assert abs(found - true) < 4 * deviation
    table = compare_models(scores).records()
    assert [row["model"] for row in table] == ["a level each", "one level"]
    # A subject's own level hangs on its data alone, and its k-hat says so.
    assert table[0]["worst k-hat"] > 0.7


Site = Callable[[str, dist.Distribution, object], Tensor]


def regimes(site: Site) -> Callable[[Tensor], None]:
    def model(x: Tensor) -> None:
        means = site("means", dist.Normal(x.new_tensor([3.0, 9.0]), 10.0).to_event(1), None)
        sigma = site("sigma", dist.LogNormal(x.new_tensor(0.7), 2.0), constraints.positive)
        with pyro.plate("time", len(x)):
            z = pyro.sample("z", even(2), infer=TASK)
            pyro.sample("x", dist.Normal(z @ means, sigma), obs=x)

    return model


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.exists(), reason=f"no sequences in {FOLDER}")
def test_nuts_agrees_with_maximum_likelihood_on_the_federal_funds_rate() -> None:
    """Weak priors: posterior means lie within two of the published standard errors."""
    x = torch.tensor(pd.read_csv(FOLDER / "fedfunds.csv").iloc[:, -1].to_numpy(), dtype=F64)
    start = {"means": x.new_tensor([3.0, 9.0]), "sigma": x.new_tensor(2.0)}

    def parameter(name: str, prior: dist.Distribution, support: object) -> Tensor:
        return pyro.param(name, start[name], constraint=support or constraints.real)

    likely = fit_marginal(
        marginalize(regimes(parameter), LearnedChain(2, initial="stationary")), x, starts=1
    )
    assert likely.log_evidence == pytest.approx(-508.63592, abs=5e-5)
    optimum = torch.cat([likely.estimates["chain_transition"][:, 0], likely.estimates["means"]])

    def chain(x: Tensor) -> TaskChain:
        to_low = pyro.sample("to_low", dist.Beta(x.new_ones(2), 1.0).to_event(1))
        return TaskChain("stationary", torch.stack([to_low, 1 - to_low], -1).log())

    marginal = marginalize(regimes(lambda name, prior, _: pyro.sample(name, prior)), chain)
    runs = []
    for seed in range(4):
        pyro.set_rng_seed(seed)
        begin = init_to_value(values={**start, "to_low": x.new_tensor([0.9, 0.1])})
        kernel = NUTS(marginal, full_mass=True, init_strategy=begin)
        runs.append(MCMC(kernel, num_samples=150, warmup_steps=60, disable_progbar=True))
        runs[-1].run(x)
    drawn = [run.get_samples() for run in runs]
    values = {name: np.stack([d[name].numpy() for d in drawn]) for name in drawn[0]}
    summary = az.summary(from_arrays(posterior=values), round_to="none")
    # Of four chains in agreement R-hat is sqrt(1 + F / n), n the effective draws of a chain, here
    # 70 or more: F(3, 4 n) is below 7.5 but for one time in 10,000.
    assert (summary["ess_tail"] > 4 * 70).all()
    assert (summary["r_hat"] < (1 + 7.5 / 70) ** 0.5).all()
    assert (summary["ess_bulk"] > 200).all()
    names = ["to_low[0]", "to_low[1]", "means[0]", "means[1]"]
    found = torch.tensor(summary.loc[names, "mean"].to_list(), dtype=F64)
    published = torch.tensor([0.0104002, 0.0268434, 0.1767083, 0.2999889], dtype=F64)
    assert ((found - optimum).abs() < 2 * published).all()

    data = to_inference_data(runs[0], marginal, (x,), num_draws=10)
    with pytest.raises(ValueError, match=r"a single element.*one_step_ahead"):
        leave_one_out(data)
    assert one_step_ahead(data, first=200).pointwise.shape == (len(x) - 200,)
