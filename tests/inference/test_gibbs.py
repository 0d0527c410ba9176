"""Gibbs sampling: the exact posterior is left unchanged, and the estimates approach it."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro_models import TASK, gaussian, normal, random_log_prior
from torch import Tensor

from gbi_pyro import Enumeration, OneStepGradient, TaskSiteError
from gbi_pyro.inference import Rescored, TaskGibbs
from gbi_pyro.inference._combinations import Scorer
from gbi_pyro.inference._scan import Chains
from gbi_pyro.inference._shortlist import ShortlistJoint
from gbi_pyro.inference.gibbs import _GradientMoves
from gbi_pyro.logjoint import RelaxedModel
from tests.inference.coupled_tasks import coupled, coupled_data, divergence, standard_scores

F64 = torch.float64


def chains_at_exact_draws(
    generator: torch.Generator, num: int, power: float = 1.0
) -> tuple[Chains, Tensor]:
    """Return chains, independent of each other, in a distribution, and its probabilities."""
    args = coupled_data(generator, num, same=True)
    run = RelaxedModel(coupled, args)
    first = run.log_joint(lambda site: site.uniform())
    chains = Chains(Scorer(run, first), 1, generator)
    exact = Enumeration()(coupled, *args).table()
    target = power * exact.log_probs[0]
    if power < 1:
        log_a, log_b = (chains.log_pi[n][0] for n in "ab")
        target = target + (1 - power) * (log_a[:, None] + log_b)
    target = target.flatten().softmax(0)
    at = torch.multinomial(target.expand(num, 6), 1, generator=generator).squeeze(-1)
    chains.ids = {"a": (at // 3)[None], "b": (at % 3)[None]}
    chains.log_p = chains.score(chains.ids)
    return chains, target


def states(chains: Chains) -> Tensor:
    return (3 * chains.ids["a"] + chains.ids["b"])[0]


@pytest.mark.parametrize("power", [1.0, 0.4])
def test_a_scan_leaves_its_distribution_unchanged(power: float, generator: torch.Generator) -> None:
    chains, target = chains_at_exact_draws(generator, 20000, power)
    before = states(chains)
    chains.scan(power)
    assert float((states(chains) != before).double().mean()) > 0.2
    counts = torch.bincount(states(chains), minlength=6).double()
    assert standard_scores(counts, target).abs().max() < 4
    torch.testing.assert_close(chains.log_p, chains.score(chains.ids))


def test_gradient_moves_are_in_detailed_balance(generator: torch.Generator) -> None:
    chains, target = chains_at_exact_draws(generator, 20000)
    moves = _GradientMoves(chains)
    before = states(chains)
    moves.step(None)
    after = states(chains)
    assert standard_scores(torch.bincount(after, minlength=6).double(), target).abs().max() < 4
    pairs = torch.bincount(6 * before + after, minlength=36).reshape(6, 6).double()
    moved = (pairs + pairs.T).clamp_min(1)
    assert ((pairs - pairs.T) / moved.sqrt()).abs().max() < 4
    assert 0.1 < moves.acceptance < 1
    torch.testing.assert_close(chains.log_p, chains.score(chains.ids))


@pytest.mark.parametrize("proposals", ["scan", "gradient"])
@pytest.mark.parametrize("max_joint", [65536, 2])
def test_the_estimate_approaches_the_exact_posterior(
    proposals: Any, max_joint: int, generator: torch.Generator
) -> None:
    args = coupled_data(generator, 40)
    exact = Enumeration()(coupled, *args)
    errors = []
    for sweeps in (7, 82):
        found = TaskGibbs(8, sweeps, 2, proposals, max_joint=max_joint)(coupled, *args)
        errors.append(float(divergence(exact, found).mean()))
        for name, q in found.table().marginals().items():
            torch.testing.assert_close(found.log_probs[name].double(), q)
    assert errors[1] < errors[0] / 4  # 16 times the states
    states = 8 * 80 * (2 if proposals == "gradient" else 1)
    assert found.settings["floor"] == pytest.approx(5 / (2 * states))
    if proposals == "scan" and max_joint > 2:  # conditionals say more than draws
        assert errors[1] < found.settings["floor"]


def test_one_site_is_exact(generator: torch.Generator) -> None:
    args = normal(generator, 6), normal(generator, 4), 0.5, random_log_prior(generator, 4)
    found = TaskGibbs(num_chains=1, sweeps=1, burn_in=0)(gaussian, *args)
    exact = Enumeration()(gaussian, *args)
    torch.testing.assert_close(found.logits(), exact.logits(), rtol=0, atol=1e-10)
    assert found.joint is None
    assert found.passes.forward == 4


def test_passes(generator: torch.Generator) -> None:
    args = coupled_data(generator, 3)
    scan = TaskGibbs(num_chains=4, sweeps=5)(coupled, *args).passes
    assert (scan.forward, scan.backward) == (4 + 4 * 5 * (1 + 2), 0)
    moves = TaskGibbs(4, 5, proposals="gradient")(coupled, *args).passes
    assert (moves.forward, moves.backward) == (4 + 4 + 4 * 5 * 2, 4 + 4 * 5 * 2)


@pytest.mark.parametrize("proposals", ["scan", "gradient"])
def test_the_seed_decides(proposals: Any, generator: torch.Generator) -> None:
    args = coupled_data(generator, 5)
    state = torch.get_rng_state()
    first, again, other = (
        TaskGibbs(proposals=proposals, seed=seed)(coupled, *args) for seed in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.table().flat, again.table().flat)
    assert not torch.equal(first.table().flat, other.table().flat)


@pytest.mark.parametrize("proposals", ["scan", "gradient"])
def test_one_by_one_is_the_same(proposals: Any, generator: torch.Generator) -> None:
    args = coupled_data(generator, 5)
    chunk, single = (
        TaskGibbs(2, 4, proposals=proposals, chunk_size=size)(coupled, *args) for size in (64, None)
    )
    torch.testing.assert_close(chunk.table().flat, single.table().flat)


@pytest.mark.parametrize("proposals", ["scan", "gradient"])
def test_forbidden_tasks_and_masked_elements(proposals: Any, generator: torch.Generator) -> None:
    log_prior = torch.tensor([0.5, 0.0, 0.3, 0.2], dtype=F64).log()
    shown = torch.arange(400) % 2 == 0
    args = normal(generator, 400), normal(generator, 4), 0.5, log_prior
    found = TaskGibbs(proposals=proposals, sweeps=30)(poutine.mask(gaussian, shown), *args)
    assert bool((found.probs()[:, 1] == 0).all())
    prior = found.probs()[~shown]
    expected = log_prior.exp().expand(200, 4)
    if proposals == "scan":
        torch.testing.assert_close(prior, expected)
    else:  # counts, with half a count for each task; chains begin at draws from this very prior
        n = 4 * 28
        expected = (n * expected + torch.tensor([0.5, 0.0, 0.5, 0.5])) / (n + 1.5)
        error = prior.std(0) / 200**0.5
        assert bool(((prior.mean(0) - expected[0]).abs() <= 4 * error).all())


def test_states_that_cannot_have_made_the_data_are_left(generator: torch.Generator) -> None:
    def exclusive(x: Tensor) -> None:
        with pyro.plate("case", len(x)):
            a, b = (
                pyro.sample(n, dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
                for n in "ab"
            )
            pyro.factor("x", torch.where(a[..., 1] * b[..., 1] > 0, x, -torch.inf))

    found = TaskGibbs(num_chains=8, sweeps=20, burn_in=10)(exclusive, torch.zeros(20, dtype=F64))
    assert bool((found.probs("a")[:, 1] > 0.999).all())


def test_rescoring_corrects_a_sampler(generator: torch.Generator) -> None:
    args = coupled_data(generator, 20)
    exact = Enumeration()(coupled, *args)
    found = Rescored(TaskGibbs(2, 4), 6)(coupled, *args)
    assert divergence(exact, found).max() < 1e-10
    beyond = Rescored(TaskGibbs(2, 4, max_joint=2), 6, max_joint=2)(coupled, *args)
    assert isinstance(beyond.joint, ShortlistJoint)
    assert divergence(exact, beyond).max() < 1e-10


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"num_chains": 0}, ValueError, "num_chains must be at least 1"),
        ({"sweeps": 0}, ValueError, "sweeps must be at least 1"),
        ({"burn_in": -1}, ValueError, "burn_in must be at least 0"),
        ({"sweeps": 3, "burn_in": 3}, ValueError, "burn_in must be less than sweeps"),
        ({"max_joint": 1}, ValueError, "max_joint must be at least 2"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1"),
        ({"proposals": "random"}, ValueError, "proposals must be 'scan' or 'gradient'"),
        ({"seed": "a"}, TypeError, "seed of TaskGibbs should be an integer"),
    ],
)
def test_options_are_checked(options: dict[str, Any], error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        TaskGibbs(**options)


def test_sites_in_different_plates_are_refused() -> None:
    def nested(x: Tensor) -> None:
        a = pyro.sample("a", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
        with pyro.plate("case", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
            pyro.sample("x", dist.Normal(z[..., 1] + a[..., 1], 1.0), obs=x)

    assert OneStepGradient()(nested, torch.zeros(3)).log_probs.keys() == {"a", "z"}
    with pytest.raises(TaskSiteError, match="Gibbs sampling takes task sites"):
        TaskGibbs()(nested, torch.zeros(3))
