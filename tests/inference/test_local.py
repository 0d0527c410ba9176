"""The local objective: the graph is read off the model, and the exact posterior is its zero."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro_models import TASK, normal
from torch import Tensor

from gbi_pyro import Enumeration, TaskSiteError
from gbi_pyro.inference import (
    AutoregressiveJoint,
    Drawn,
    LocalRecogniser,
    TrainingBatch,
)
from gbi_pyro.inference._combinations import Scorer
from gbi_pyro.inference._factor_graph import (
    colouring,
    elimination_parents,
    factor_scopes,
    neighbours,
)
from gbi_pyro.inference.local import LocalBalance
from gbi_pyro.logjoint import RelaxedModel

F64 = torch.float64
SIGNS = torch.tensor([-1.0, 1.0], dtype=F64)
COUPLING = 0.8


@dataclass(frozen=True)
class Chain:
    """Spins coupled along a line, each observed with noise; a problem to learn from."""

    num_sites: int
    edges: tuple[tuple[int, int], ...]
    stacked: bool = False

    @classmethod
    def of(cls, n: int, **options: Any) -> "Chain":
        return cls(n, tuple((i, i + 1) for i in range(n - 1)), **options)

    def model(self, x: Tensor) -> None:
        with pyro.plate("case", len(x)):
            spins = []
            for i in range(self.num_sites):
                prior = dist.OneHotCategorical(torch.ones(2, dtype=F64))
                spins.append(pyro.sample(f"z{i}", prior, infer=TASK) @ SIGNS)
            if self.stacked:  # every factor's graph then reaches every task, with zeros
                spins = list(torch.stack(spins))
            for i, j in self.edges:
                pyro.factor(f"edge{i}{j}", COUPLING * spins[i] * spins[j])
            for i, spin in enumerate(spins):
                pyro.sample(f"x{i}", dist.Normal(spin, 1.0), obs=x[..., i])

    def draw(self, n: int, generator: torch.Generator) -> Drawn:
        turns = torch.rand(n, self.num_sites, generator=generator)
        limits = torch.full((self.num_sites,), 1 / (1 + math.exp(2 * COUPLING)))
        limits[0] = 0.5
        ids = (turns < limits).long().cumsum(-1) % 2
        x = 2.0 * ids - 1 + normal(generator, n, self.num_sites)
        return Drawn((x,), {f"z{i}": ids[:, i] for i in range(self.num_sites)})


def scopes_of(model: Callable[[Tensor], None], x: Tensor) -> dict[str, frozenset[str]]:
    return factor_scopes(RelaxedModel(model, (x,)), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("stacked", [False, True])
def test_scopes_read_off_a_model_are_its_edges(stacked: bool, generator: torch.Generator) -> None:
    chain = Chain.of(8, stacked=stacked)
    (x,), _ = chain.draw(5, generator)
    scopes = scopes_of(chain.model, x)
    pairs = {tuple(sorted(s)) for name, s in scopes.items() if name.startswith("edge")}
    assert pairs == {(f"z{i}", f"z{j}") for i, j in chain.edges}
    for i in range(8):
        assert scopes[f"x{i}"] == scopes[f"z{i}"] == {f"z{i}"}


def test_a_prior_that_depends_on_another_task_couples_the_two() -> None:
    table = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=F64)

    def model(x: Tensor) -> None:
        with pyro.plate("case", len(x)):
            a = pyro.sample("a", dist.OneHotCategorical(table[0]), infer=TASK)
            b = pyro.sample("b", dist.OneHotCategorical(a @ table), infer=TASK)
            pyro.sample("x", dist.Normal(b @ SIGNS, 1.0), obs=x)

    assert scopes_of(model, torch.zeros(3, dtype=F64)) == {
        "a": {"a"},
        "b": {"a", "b"},
        "x": {"b"},
    }


def test_parents_come_first_and_hold_the_graph() -> None:
    """A ring needs two parents; every pair of neighbours is a parent and a child."""
    sites = [f"z{i}" for i in range(6)]
    scopes = {f"e{i}": frozenset({sites[i], sites[(i + 1) % 6]}) for i in range(6)}
    parents = elimination_parents(dict.fromkeys(sites, 2), scopes)
    seen: set[str] = set()
    for name, own in parents.items():
        assert seen >= {*own}
        seen.add(name)
    assert seen == {*sites}
    assert max(map(len, parents.values())) == 2
    graph = neighbours(sites, scopes)
    for name, others in graph.items():
        assert all(other in parents[name] or name in parents[other] for other in others)
    groups = colouring(graph)
    assert len(groups) == 2
    assert all(not graph[a] & {*group} for group in groups for a in group)


@pytest.mark.parametrize("chunk_size", [None, 64])
def test_the_objective_is_zero_at_the_exact_posterior_alone(
    chunk_size: int | None, generator: torch.Generator
) -> None:
    """Exact conditionals of a chain of three: z_i depends on z_{i-1} alone, given the data."""
    chain = Chain.of(3)
    (x,), tasks = chain.draw(30, generator)
    run = RelaxedModel(chain.model, (x,))
    scopes = scopes_of(chain.model, x)
    parents = elimination_parents(dict.fromkeys(tasks, 2), scopes)
    assert parents == {"z0": (), "z1": ("z0",), "z2": ("z1",)}
    table = Enumeration()(chain.model, x).table()

    def conditionals(site: str, ids: dict[str, Tensor], power: float = 1.0) -> Tensor:
        return (table.conditional(site, ids).logits * power).log_softmax(-1)

    joint = AutoregressiveJoint(table.sizes, table.batch_shape, conditionals)
    loss = LocalBalance(scopes, parents, exploration=0.5)
    score = Scorer(run, run.log_joint(lambda s: s.uniform()), chunk_size=chunk_size)
    assert loss(TrainingBatch(joint, score, None), generator).item() < 1e-20
    assert run.passes.forward == 2 + 1 + 2  # the check's two, the draws, a run for each colour
    flatter = replace(joint, conditionals=lambda s, ids: conditionals(s, ids, 0.9))
    assert loss(TrainingBatch(flatter, score, None), generator).item() > 1e-3


def test_training_on_a_chain_comes_near_the_exact_posterior(generator: torch.Generator) -> None:
    """Far nearer than the product of the exact marginals; and by the generator alone."""
    chain = Chain.of(4)
    learner = LocalRecogniser(
        lambda x: x, hidden=16, updates=100, batch_size=64, learning_rate=0.02
    )
    state = torch.get_rng_state()
    infer = learner.fit(chain, generator)
    assert torch.equal(torch.get_rng_state(), state)
    assert infer.fit_passes.forward == 1 + 2 + 100 * 3
    (x,), _ = chain.draw(200, generator)
    exact, found = Enumeration()(chain.model, x), infer(chain.model, x)
    p, q = exact.table(), found.table()
    kl = (p.flat.exp() * (p.flat - q.ordered(p.sites).flat)).sum(-1).mean()
    product = replace(exact, joint=None).table()
    assert kl < 0.2 * (p.flat.exp() * (p.flat - product.flat)).sum(-1).mean()
    short = replace(learner, updates=3)
    first, again = (short.fit(chain, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first(chain.model, x).table().flat, again(chain.model, x).table().flat)


def test_forbidden_tasks_are_never_changed_to(generator: torch.Generator) -> None:
    """A site with one possible task, and one with two of three."""

    def model(x: Tensor) -> None:
        with pyro.plate("case", len(x)):
            one = torch.tensor([1.0, 0.0], dtype=F64)
            two = torch.tensor([0.5, 0.0, 0.5], dtype=F64)
            a = pyro.sample("a", dist.OneHotCategorical(one), infer=TASK)
            b = pyro.sample("b", dist.OneHotCategorical(two), infer=TASK)
            mean = (a @ SIGNS) * (b @ torch.tensor([1.0, 2.0, -1.0], dtype=F64))
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    @dataclass(frozen=True)
    class Problem:
        model: Callable[[Tensor], None]

        def draw(self, n: int, generator: torch.Generator) -> Drawn:
            b = 2 * torch.randint(2, (n,), generator=generator)
            x = (b - 1).double() + normal(generator, n)
            return Drawn((x,), {"a": torch.zeros_like(b), "b": b})

    learner = LocalRecogniser(lambda x: x.unsqueeze(-1), hidden=8, updates=100, learning_rate=0.02)
    infer = learner.fit(Problem(model), generator)
    assert bool(infer.losses.isfinite().all())
    x = torch.tensor([0.3, -0.5], dtype=F64)
    found, exact = infer(model, x), Enumeration()(model, x)
    assert not found.probs("a")[:, 1].any()
    assert not found.probs("b")[:, 1].any()
    torch.testing.assert_close(found.probs("b"), exact.probs("b"), atol=0.1, rtol=0)


def test_what_does_not_fit_is_refused(generator: torch.Generator) -> None:
    with pytest.raises(TypeError, match="encoder should be callable, got a NoneType"):
        LocalRecogniser(None)
    with pytest.raises(ValueError, match="exploration must be a probability below 1"):
        LocalRecogniser(lambda x: x, exploration=-0.1)
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        LocalRecogniser(lambda x: x, batch_size=0)
    with pytest.raises(TypeError, match="hidden of LocalRecogniser should be an integer"):
        LocalRecogniser(lambda x: x, hidden=2.5)

    chain = Chain.of(2)

    def summed(x: Tensor) -> None:
        with pyro.plate("case", len(x)):
            prior = dist.OneHotCategorical(torch.ones(2, dtype=F64))
            a, b = (pyro.sample(n, prior, infer=TASK) @ SIGNS for n in ("z0", "z1"))
            pyro.sample("x", dist.Normal(a + b, 1.0), obs=x[..., 0])
        pyro.factor("total", (a * b).sum(-1))

    @dataclass(frozen=True)
    class Summed:
        model: Callable[[Tensor], None] = summed
        draw: Callable[[int, torch.Generator], Drawn] = chain.draw

    learner = LocalRecogniser(lambda x: x, hidden=4, updates=2, batch_size=8, chunk_size=None)
    with pytest.raises(TaskSiteError, match="factor 'total' depends on task site 'z0' and lies"):
        learner.fit(Summed(), generator)
