"""Fits of public sequences against the numbers that were published for them."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor

from gbi_pyro import TaskChain, hmm_posterior
from gbi_pyro.inference import LearnedChain, marginalize
from gbi_pyro.learning import fit_marginal

F64 = torch.float64
TASK = {"task": True}
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "sequences"
FOLDER = Path(os.environ.get("GBI_PYRO_SEQUENCES", SHARED))
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason=f"no sequences in {FOLDER}")


def columns(name: str, *names: str) -> list[Tensor]:
    table = pd.read_csv(FOLDER / f"{name}.csv")
    chosen = names or (table.columns[-1],)
    return [torch.tensor(table[c].to_numpy(), dtype=F64) for c in chosen]


def parameter(name: str, value: object, support: object = constraints.real) -> Tensor:
    return pyro.param(name, torch.as_tensor(value, dtype=F64), constraint=support)


def even(K: int) -> dist.OneHotCategorical:
    return dist.OneHotCategorical(torch.ones(K, dtype=F64))


@pytest.mark.parametrize(
    ("K", "initial", "expected"),
    [(2, "free", -341.8787), (3, "free", -328.5275), (3, "stationary", -329.4603)],
)
def test_earthquakes(K: int, initial: str, expected: float) -> None:
    """Zucchini and MacDonald 2009, Hidden Markov models for time series, ch. 3 and 6."""
    (x,) = columns("earthquakes")

    def model(x: Tensor) -> None:
        rates = parameter("rates", torch.linspace(12, 32, K), constraints.positive)
        with pyro.plate("time", len(x)):
            z = pyro.sample("z", even(K), infer=TASK)
            pyro.sample("x", dist.Poisson(z @ rates), obs=x)

    chain = LearnedChain(K, initial=initial)  # type: ignore[arg-type]
    fit = fit_marginal(marginalize(model, chain), x, starts=1)
    assert fit.converged
    assert fit.log_evidence == pytest.approx(expected, abs=5e-5)
    if (K, initial) == (3, "free"):
        assert (fit.aic, fit.bic) == (
            pytest.approx(679.06, abs=6e-3),
            pytest.approx(708.46, abs=6e-3),
        )
        published = torch.tensor([13.134, 19.713, 29.710], dtype=F64)
        torch.testing.assert_close(fit.estimates["rates"], published, atol=1e-3, rtol=0)


def test_federal_funds_rate() -> None:
    """Two regimes, stationary start; the numbers of Stata, quoted by statsmodels."""
    (x,) = columns("fedfunds")

    def model(x: Tensor) -> None:
        means, sigma = parameter("means", [3.0, 9.0]), parameter("sigma", 2.0, constraints.positive)
        with pyro.plate("time", len(x)):
            z = pyro.sample("z", even(2), infer=TASK)
            pyro.sample("x", dist.Normal(z @ means, sigma), obs=x)

    fit = fit_marginal(marginalize(model, LearnedChain(2, initial="stationary")), x, starts=2)
    assert fit.log_evidence == pytest.approx(-508.63592, abs=5e-5)
    assert fit.num_agree == 2
    errors = fit.standard_errors()
    found = torch.cat([errors["chain_transition"][:, 0], errors["means"]])
    published = torch.tensor([0.0104002, 0.0268434, 0.1767083, 0.2999889], dtype=F64)
    torch.testing.assert_close(found, published, rtol=2e-4, atol=0)


def regimes(lags: int) -> Tensor:
    """All combinations of the present regime and earlier ones: ``(2 ** (lags + 1), lags + 1)``."""
    return torch.tensor(list(itertools.product(range(2), repeat=lags + 1)))


def expanded(A: Tensor, states: Tensor) -> Tensor:
    """Return the transitions of combinations of regimes from those of regimes, ``(..., 2, 2)``."""
    left, entered = states[:, None], states[None]
    follows = (entered[..., 1:] == left[..., :-1]).all(-1)
    moves = A[..., left[..., 0].expand(follows.shape), entered[..., 0].expand(follows.shape)]
    return torch.where(follows, moves, 0.0)


def started(start: Tensor, A: Tensor, states: Tensor) -> Tensor:
    """Return the probability of the first combination: the oldest regime from ``start``."""
    p = start[states[:, -1]]
    for k in range(states.shape[1] - 1, 0, -1):
        p = p * A[states[:, k], states[:, k - 1]]
    return p


def test_growth_of_gnp() -> None:
    """Hamilton 1989, A new approach to ..., Econometrica 57: MS-AR(4), 2^5 joint states."""
    (y,) = columns("rgnp")
    states = regimes(4)

    def model(y: Tensor) -> None:
        means = parameter("means", [-0.358811, 1.163517])
        ar = parameter("ar", [0.013486, -0.057521, -0.246983, -0.212923])
        sigma = parameter("sigma", 0.769, constraints.positive)
        m = means[states]
        lags = torch.stack([y[4 - i : len(y) - i] for i in range(1, 5)], -1)
        with pyro.plate("time", len(y) - 4):
            z = pyro.sample("z", even(32), infer=TASK)
            mean = z @ m[:, 0] + (((lags.unsqueeze(-2) - m[:, 1:]) @ ar) * z).sum(-1)
            pyro.sample("y", dist.Normal(mean, sigma), obs=y[4:])

    def prior(y: Tensor) -> TaskChain:
        stay = parameter("stay", [0.754673, 1 - 0.095915], constraints.unit_interval)
        A = torch.stack([torch.stack([stay[0], 1 - stay[0]]), torch.stack([1 - stay[1], stay[1]])])
        start = TaskChain("stationary", A.log()).log_initial.exp()
        return TaskChain(started(start, A, states).log(), expanded(A, states).log())

    marginal = marginalize(model, prior, chunk_size=31, check=False)
    at = pyro.poutine.trace(marginal).get_trace(y).log_prob_sum().item()
    assert at == pytest.approx(-181.26339, abs=1e-5)
    fit = fit_marginal(marginal, y, starts=1, num_observations=len(y) - 4)
    assert fit.log_evidence == pytest.approx(-181.26339, abs=1e-4)
    errors = fit.standard_errors()
    found = torch.cat([errors["means"], errors["ar"], errors["stay"]])
    published = [0.26454, 0.07452, 0.11999, 0.13766, 0.10691, 0.11053, 0.09652, 0.03774]
    torch.testing.assert_close(found, torch.tensor(published, dtype=F64), atol=2e-5, rtol=0)


def test_growth_of_gnp_where_recessions_drive_the_regime() -> None:
    """MS-AR(1) at published parameters: the recession of the step entered drives the move."""
    (y,), (recession,) = columns("rgnp"), columns("recession")
    states, u = regimes(1), recession[2:]
    means, ar = torch.tensor([1.027190, -0.719760]).double(), torch.tensor([0.161489, 0.022536])
    p0 = torch.sigmoid(6.564923 - 8.064123 * u)
    p1 = torch.sigmoid(7.846371 - 15.37636 * u)
    A = torch.stack([torch.stack([p0, 1 - p0], -1), torch.stack([p1, 1 - p1], -1)], -2)
    earlier = means[states[:, 1]]
    mean = means[states[:, 0]] + ar.double()[states[:, 0]] * (y[:-1, None] - earlier)
    sigma = torch.tensor(-0.217003, dtype=F64).exp()
    start = TaskChain("stationary", A[0].log()).log_initial.exp()
    found = hmm_posterior(
        started(start, A[0], states).log(),
        expanded(A, states).log(),
        dist.Normal(mean, sigma).log_prob(y[1:, None]),
        per_step=True,
    )
    assert found.log_evidence.item() == pytest.approx(-163.914049, abs=5e-6)


@pytest.mark.parametrize(
    ("accuracy", "driven", "expected"),
    [(False, False, -88.7306), (False, True, -44.1995), (True, True, -255.534)],
)
def test_speed_and_accuracy(accuracy: bool, driven: bool, expected: float) -> None:
    """Dutilh et al. 2011, as fitted by depmixS4: the pay-off of the step left drives the move."""
    rt, right, payoff = columns("speed", "rt", "corr", "Pacc")

    def model(rt: Tensor, right: Tensor, payoff: Tensor) -> None:
        means = parameter("means", [5.5, 6.4])
        sigmas = parameter("sigmas", [0.3, 0.3], constraints.positive)
        share = parameter("share", [0.5, 0.9], constraints.unit_interval) if accuracy else None
        with pyro.plate("time", len(rt)):
            z = pyro.sample("z", even(2), infer=TASK)
            pyro.sample("rt", dist.Normal(z @ means, z @ sigmas), obs=rt)
            if share is not None:
                pyro.sample("right", dist.Bernoulli(z @ share), obs=right)

    inputs: Callable[..., Tensor] | None = (lambda *args: args[2].unsqueeze(-1)) if driven else None
    marginal = marginalize(model, LearnedChain(2, inputs=inputs, of="left"))
    fit = fit_marginal(marginal, rt, right, payoff, starts=1)
    assert fit.log_evidence == pytest.approx(expected, abs=6e-4)


def test_strategies_of_children() -> None:
    """Jansen and van der Maas 2002: three strategies without a chain, their prior driven by age."""
    *items, age = columns("balance", "d1", "d2", "d3", "d4", "age")

    def model(x: Tensor, age: Tensor) -> None:
        intercepts, slopes = parameter("intercepts", [0.0, 0.0]), parameter("slopes", [0.0, 0.0])
        start = torch.tensor([0.05, 0.5, 0.95]).unsqueeze(-1).expand(3, 4)
        p = parameter("p", start, constraints.unit_interval)
        centred = (age - age.mean()).unsqueeze(-1)
        logits = torch.nn.functional.pad(intercepts + slopes * centred, (1, 0))
        with pyro.plate("child", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(logits=logits), infer=TASK)
            pyro.sample("x", dist.Bernoulli(z @ p).to_event(1), obs=x)

    fit = fit_marginal(marginalize(model), torch.stack(items, -1), age, starts=4)
    assert fit.log_evidence == pytest.approx(-917.533, abs=1e-3)
    assert fit.num_agree == 4
    found = torch.nn.functional.pad(fit.estimates["slopes"], (1, 0)) - fit.estimates["slopes"][1]
    published = torch.tensor([-0.676, -0.293, 0.0], dtype=F64)  # against the oldest strategy
    torch.testing.assert_close(found, published, atol=1e-3, rtol=0)
