"""Bayesian inference through the marginal: simulation-based calibration, NUTS, SVI, comparison."""

from typing import Literal

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from gbi_pyro import TaskChain
from gbi_pyro.inference import Marginal, marginalize
from gbi_pyro.metrics import SBCResult, check_sbc, rank_test

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
