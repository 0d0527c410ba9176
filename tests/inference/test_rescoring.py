"""Exact scores for the most probable combinations of any posterior."""

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro_models import TASK, gaussian, normal, random_log_prior
from torch import Tensor

from gbi_pyro import (
    BayesFilter,
    Enumeration,
    IterativeGradient,
    OneStepGradient,
    TaskChain,
    TaskPosterior,
    TaskSiteError,
    find_task_sites,
    log_likelihoods,
)
from gbi_pyro.inference import (
    PairwiseJoint,
    Recogniser,
    Rescored,
    SecondOrderJoint,
    ShortlistWarning,
)
from gbi_pyro.inference._shortlist import ShortlistJoint, most_probable
from gbi_pyro.inference.rescoring import MAX_BEYOND, MIN_GAP
from gbi_pyro.joint import combinations

F64 = torch.float64


def modules(x: Tensor, y: Tensor, weights: Tensor, readout: Tensor, log_prior: Tensor) -> None:
    """y ~ Normal(V tanh(W x)), W the sum of two modules of a bank, chosen by a task each."""
    K = len(weights)
    with pyro.plate("case", len(x)):
        a = pyro.sample("a", dist.OneHotCategorical(logits=log_prior), infer=TASK)
        b = pyro.sample("b", dist.OneHotCategorical(torch.ones(K, dtype=F64)), infer=TASK)
        hidden = torch.tanh(torch.einsum("...k,khd,...d->...h", a + b, weights, x))
        pyro.sample("y", dist.Normal(hidden @ readout, 1.5), obs=y)


@pytest.fixture
def data(generator: torch.Generator) -> tuple[Tensor, ...]:
    weights, readout = normal(generator, 4, 6, 3), normal(generator, 6)
    x, y = normal(generator, 30, 3), normal(generator, 30)
    return x, y, weights, readout, random_log_prior(generator, 4)


def divergence(exact: TaskPosterior, other: TaskPosterior) -> Tensor:
    p, q = exact.table(), other.table()
    assert p.sites == q.sites
    terms = p.flat.exp() * (p.flat - q.flat)
    return torch.where(p.flat.exp() > 0, terms, 0.0).sum(-1)


def quiet(base: Callable[..., TaskPosterior], num_scored: int, **options: Any) -> Rescored:
    return Rescored(base, num_scored, warn=False, **options)


def chained(model: Any, *args: Any) -> TaskPosterior:
    """A posterior whose joint is no table: that of enumeration, by conditionals."""
    return Enumeration(temperature=3.0)(model, *args)


BASES: list[Any] = [
    OneStepGradient(),
    IterativeGradient(num_steps=5, rate=0.3),
    Enumeration(temperature=3.0),
    SecondOrderJoint(check=False),
]


@pytest.mark.parametrize("max_joint", [65536, 2])
@pytest.mark.parametrize("base", BASES)
def test_all_combinations_are_enumeration(
    base: Any, max_joint: int, data: tuple[Tensor, ...]
) -> None:
    exact = Enumeration()(modules, *data)
    found = Rescored(base, 16, max_joint=max_joint)(modules, *data)
    for name in ("a", "b"):
        torch.testing.assert_close(found.log_probs[name], exact.log_probs[name], rtol=0, atol=1e-10)
    torch.testing.assert_close(found.table().flat, exact.table().flat, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.log_evidence, exact.log_evidence, rtol=0, atol=1e-10)
    assert found.settings["mass_beyond"].abs().max() < 1e-10
    assert found.passes.forward == base(modules, *data).passes.forward + 16
    assert "16 rescored" in found.method


@pytest.mark.parametrize("base", BASES)
def test_each_combination_more_is_no_worse(base: Any, data: tuple[Tensor, ...]) -> None:
    exact, q = Enumeration()(modules, *data), base(modules, *data)
    before = divergence(exact, q)
    for m in range(2, 17):
        found = quiet(base, m)(modules, *data)
        after = divergence(exact, found)
        assert bool((after <= before + 1e-10).all())
        assert (found.log_evidence is None) == (m < 16)
        before = after
    assert before.max() < 1e-10


def test_the_step_ranks_well_and_weighs_badly_through_tanh(generator: torch.Generator) -> None:
    """One or two of six modules in a network: 21 tasks, 16 observations of each case."""
    codes = [torch.eye(6)[i].maximum(torch.eye(6)[j]) for i in range(6) for j in range(i + 1)]
    code, bank = torch.stack(codes).double(), normal(generator, 6, 16, 4)
    readout, x = normal(generator, 2, 16) / 4, 2 * torch.rand(40, 16, 4, generator=generator) - 1

    def mean(chosen: Tensor) -> Tensor:
        weights = torch.einsum("...ck,khd->...chd", chosen, bank)
        hidden = torch.tanh(torch.einsum("...chd,cnd->...cnh", weights, x.double()))
        return torch.einsum("oh,...cnh->...cno", readout, hidden)

    def model(y: Tensor) -> None:
        with pyro.plate("case", len(y)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(21, dtype=F64)), infer=TASK)
            pyro.sample("y", dist.Normal(mean(z @ code), 0.6).to_event(2), obs=y)

    truth = torch.randint(21, (40,), generator=generator)
    y = mean(code[truth]) + 0.6 * normal(generator, 40, 16, 2)
    exact, step = Enumeration()(model, y), OneStepGradient()(model, y)
    scored = quiet(OneStepGradient(), 8)(model, y)
    assert divergence(exact, scored).mean() < divergence(exact, step).mean() / 10
    right = [float((q.mode() == exact.mode()).float().mean()) for q in (step, scored)]
    assert right[1] > 0.9 > right[0]


@pytest.mark.parametrize("max_joint", [65536, 2])
def test_scored_and_others(max_joint: int, data: tuple[Tensor, ...]) -> None:
    exact, q = Enumeration()(modules, *data).table().flat, OneStepGradient()(modules, *data)
    found = quiet(OneStepGradient(), 5, max_joint=max_joint)(modules, *data)
    before, after = q.table().flat, found.table().flat
    top = before.topk(5).indices
    mass = before.gather(-1, top).logsumexp(-1, keepdim=True)
    own = after.gather(-1, top)
    torch.testing.assert_close(own - mass, exact.gather(-1, top).log_softmax(-1))
    listed = torch.zeros_like(before, dtype=torch.bool).scatter(-1, top, True)
    torch.testing.assert_close(after[~listed], before[~listed])
    scores = exact.gather(-1, top)
    torch.testing.assert_close(found.settings["gap"], scores.amax(-1) - scores[:, -1])
    # The others at the weight of the last three of the five.
    weight = scores[:, 2:].exp().sum(-1) / before.gather(-1, top)[:, 2:].exp().sum(-1)
    others = weight * before.exp().masked_fill(listed, 0.0).sum(-1)
    expected = others / (others + scores.exp().sum(-1))
    torch.testing.assert_close(found.settings["mass_beyond"], expected)
    for name, q_i in found.table().marginals().items():
        torch.testing.assert_close(found.log_probs[name], q_i)


@pytest.mark.parametrize("base", [OneStepGradient(), chained])
def test_beyond_a_table_the_joint_is_the_same(base: Any, data: tuple[Tensor, ...]) -> None:
    table = quiet(base, 6)(modules, *data)
    q = base(modules, *data)
    listed, _ = most_probable(q, q.table(), 6)
    joint = quiet(base, 6, max_joint=2)(modules, *data).joint
    assert isinstance(joint, ShortlistJoint)
    # A beam may find another list; the same one serves for the comparison.
    joint = ShortlistJoint(q, listed, table.log_prob(listed.ids), torch.zeros(30, dtype=F64))
    ids = {n: k[:, None].expand(-1, 30) for n, k in combinations({"a": 4, "b": 4}).items()}
    torch.testing.assert_close(joint.log_prob(ids), table.log_prob(ids))
    for name, q_i in joint.marginals().items():
        torch.testing.assert_close(q_i, table.log_probs[name])
    first = joint.conditional("a", {}).logits
    second = joint.conditional("b", {"a": ids["a"]}).logits
    log_prob = first.gather(-1, ids["a"].T).T + second.gather(-1, ids["b"].unsqueeze(-1))[..., 0]
    torch.testing.assert_close(log_prob, table.log_prob(ids))


def test_draws_beyond_a_table_follow_the_joint(
    data: tuple[Tensor, ...], generator: torch.Generator
) -> None:
    found = quiet(OneStepGradient(), 6, max_joint=2)(modules, *data)
    n = 4000
    state = torch.get_rng_state()
    draws = found.sample(n, generator=generator)
    assert torch.equal(torch.get_rng_state(), state)
    expected = found.table().flat.exp()
    at = 4 * draws["a"] + draws["b"]
    counts = torch.nn.functional.one_hot(at, 16).double().sum(0)
    error = (expected * (1 - expected) / n).sqrt()
    z = (counts / n - expected) / error.clamp_min(1 / n)
    assert z.abs().max() < 5


def test_the_list_of_independent_sites_is_exact_without_a_table(
    generator: torch.Generator,
) -> None:
    sizes = {"a": 3, "b": 4, "c": 2}
    log_probs = {n: random_log_prior(generator, 20, K) for n, K in sizes.items()}
    q = TaskPosterior(log_probs, {}, "by hand")
    table = sum(log_probs[n][:, k] for n, k in combinations(sizes).items())
    assert isinstance(table, Tensor)
    for m in (1, 5, 24):
        found, others = most_probable(q, None, m)
        expected = 1 - table.topk(m).values.exp().sum(-1)
        torch.testing.assert_close(others.exp(), expected.clamp_min(0))
        torch.testing.assert_close(found.log_q.T, table.topk(m).values)
        at = (found.ids["a"] * 4 + found.ids["b"]) * 2 + found.ids["c"]
        torch.testing.assert_close(table.gather(-1, at.T), found.log_q.T)


def chained_signs(x: Tensor) -> None:
    """Signs of a chain, each seen through noise."""
    with pyro.plate("case", len(x)):
        signs = [
            2 * pyro.sample(f"z{i}", dist.OneHotCategorical(torch.ones(2)), infer=TASK)[..., 1] - 1
            for i in range(x.shape[-1])
        ]
        pyro.factor("pairs", sum(0.5 * a * b for a, b in itertools.pairwise(signs)))
        for i, s in enumerate(signs):
            pyro.sample(f"x{i}", dist.Normal(s, 1.0), obs=x[:, i])


def test_an_exact_base_without_a_table_stays_exact(generator: torch.Generator) -> None:
    x = normal(generator, 6, 5, dtype=torch.float32)
    base = SecondOrderJoint(max_joint=8)
    assert isinstance(base(chained_signs, x).joint, PairwiseJoint)
    found, exact = quiet(base, 9, max_joint=8)(chained_signs, x), Enumeration()(chained_signs, x)
    assert isinstance(found.joint, ShortlistJoint)
    for name, q in exact.log_probs.items():
        torch.testing.assert_close(found.log_probs[name], q, rtol=0, atol=1e-4)  # float32
    assert divergence(exact, found).max() < 1e-4


def test_twenty_sites_beyond_any_table(generator: torch.Generator) -> None:
    x = 1.5 * normal(generator, 10, 20, dtype=torch.float32)
    found = quiet(OneStepGradient(), 32)(chained_signs, x)
    draws = found.sample(50, generator=generator)
    assert bool(found.log_prob(draws).isfinite().all())
    means = torch.stack([found.probs(f"z{i}")[:, 1] for i in range(20)])
    assert bool(((means >= 0) & (means <= 1)).all())
    expected = torch.stack([draws[f"z{i}"].float().mean(0) for i in range(20)])
    assert (expected - means).abs().mean() < 5 * 0.5 / math.sqrt(50 * 20)


@pytest.mark.parametrize("chunk_size", [None, 2, 64])
def test_one_site(chunk_size: int | None, generator: torch.Generator) -> None:
    means, log_prior = normal(generator, 7), random_log_prior(generator, 7)
    args = normal(generator, 12), means, 0.4, log_prior
    exact = Enumeration()(gaussian, *args)
    found = Rescored(OneStepGradient(), 7, chunk_size=chunk_size)(gaussian, *args)
    torch.testing.assert_close(found.logits(), exact.logits(), rtol=0, atol=1e-10)
    assert found.joint is None
    before = divergence(exact, OneStepGradient()(gaussian, *args))
    after = divergence(exact, quiet(OneStepGradient(), 4, chunk_size=chunk_size)(gaussian, *args))
    assert bool((after <= before + 1e-10).all())


def test_a_recogniser_as_base(generator: torch.Generator) -> None:
    means, log_prior = normal(generator, 5), random_log_prior(generator, 5)
    args = normal(generator, 12), means, 0.4, log_prior
    base = Recogniser(lambda x, *_: x[:, None] * means)
    exact = Enumeration()(gaussian, *args)
    found = Rescored(base, 5)(gaussian, *args)
    torch.testing.assert_close(found.logits(), exact.logits(), rtol=0, atol=1e-10)


def test_inside_a_filter(generator: torch.Generator) -> None:
    def switching(x: Tensor, means: Tensor, log_prior: Tensor) -> None:
        with pyro.plate("time", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(logits=log_prior), infer=TASK)
            pyro.sample("x", dist.Normal(z @ means, 0.4), obs=x)

    args = normal(generator, 20), normal(generator, 5), random_log_prior(generator, 5)
    chain = TaskChain.sticky(5, hazard=0.2)
    exact = BayesFilter(Enumeration(), chain)(switching, *args)
    found = BayesFilter(Rescored(OneStepGradient(temperature=2.0), 5), chain)(switching, *args)
    torch.testing.assert_close(found.logits(), exact.logits(), rtol=0, atol=1e-10)
    torch.testing.assert_close(found.log_evidence, exact.log_evidence, rtol=0, atol=1e-10)
    # Of a list the log likelihoods are exact up to a constant of the element.
    part = quiet(OneStepGradient(temperature=2.0), 3)(switching, *args)
    top = OneStepGradient()(switching, *args).logits().topk(3).indices
    gap = (log_likelihoods(part) - log_likelihoods(Enumeration()(switching, *args))).gather(-1, top)
    torch.testing.assert_close(gap, gap[:, :1].expand_as(gap), rtol=0, atol=1e-10)


@pytest.mark.parametrize("max_joint", [65536, 2])
def test_forbidden_tasks_stay_forbidden(max_joint: int, data: tuple[Tensor, ...]) -> None:
    x, y, weights, readout, _ = data
    log_prior = torch.tensor([0.5, 0.0, 0.5, 0.0], dtype=F64).log()
    args = x, y, weights, readout, log_prior
    exact = Enumeration()(modules, *args)
    found = Rescored(OneStepGradient(), 8, max_joint=max_joint)(modules, *args)
    torch.testing.assert_close(found.table().flat, exact.table().flat, rtol=0, atol=1e-10)
    assert bool(found.probs("a")[:, [1, 3]].eq(0).all())
    part = quiet(OneStepGradient(), 3, max_joint=max_joint)(modules, *args)
    assert bool(part.probs("a")[:, [1, 3]].eq(0).all())


def test_masked_elements_have_the_prior(data: tuple[Tensor, ...]) -> None:
    shown = torch.arange(30) % 2 == 0
    found = quiet(OneStepGradient(), 5)(poutine.mask(modules, shown), *data)
    expected = data[-1].expand(15, 4)
    torch.testing.assert_close(found.logits("a")[~shown], expected, rtol=0, atol=1e-10)
    alone = quiet(OneStepGradient(), 5)(modules, *data)
    torch.testing.assert_close(found.logits("a")[shown], alone.logits("a")[shown])


def ruled_out(x: Tensor) -> None:
    """Task k makes numbers in (k, k + 1)."""
    with pyro.plate("case", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(4, dtype=F64)), infer=TASK)
        low = (z * torch.arange(4, dtype=F64)).sum(-1)
        inside = (x > low) & (x < low + 1)
        pyro.factor("x", torch.where(inside, 0.0, -torch.inf).double())


def ranked(x: Tensor, probs: list[float]) -> TaskPosterior:
    site = find_task_sites(ruled_out, x)["z"]
    q = torch.tensor(probs, dtype=F64).log().expand(len(x), 4)
    return TaskPosterior({"z": q}, {"z": site}, "by hand")


def test_a_list_that_cannot_have_made_the_data_leaves_the_others() -> None:
    x = torch.tensor([0.5, 3.5], dtype=F64)
    found = quiet(lambda model, x: ranked(x, [0.4, 0.3, 0.2, 0.1]), 2)(ruled_out, x)
    expected = torch.tensor([[0.7, 0, 0.2, 0.1], [0, 0, 2 / 3, 1 / 3]], dtype=F64)
    torch.testing.assert_close(found.probs(), expected)
    with pytest.raises(TaskSiteError, match="can have made the data of element \\(1,\\)"):
        quiet(lambda model, x: ranked(x, [0.5, 0.5, 0.0, 0.0]), 2)(ruled_out, x)
    with pytest.raises(TaskSiteError, match="can have made the data of element \\(0,\\)"):
        quiet(lambda model, x: ranked(x, [0.4, 0.3, 0.2, 0.1]), 4)(ruled_out, x + 9)


def test_the_warning_names_how_many_elements_are_affected(data: tuple[Tensor, ...]) -> None:
    settings = quiet(OneStepGradient(), 10)(modules, *data).settings
    affected = int(((settings["mass_beyond"] > MAX_BEYOND) | (settings["gap"] < MIN_GAP)).sum())
    assert 0 < affected < 30
    with pytest.warns(ShortlistWarning, match=f"10 of 16 .* in {affected} of 30 elements"):
        Rescored(OneStepGradient(), 10)(modules, *data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Rescored(OneStepGradient(), 16)(modules, *data)


def test_what_lies_outside_of_the_plate_is_kept() -> None:
    def model(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(0.0, 1.0), obs=torch.tensor(0.5, dtype=F64))
        with pyro.plate("case", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
            pyro.sample("x", dist.Normal(z[..., 1], 1.0), obs=x)

    x = torch.tensor([0.1, 0.7], dtype=F64)
    exact, found = Enumeration()(model, x), Rescored(OneStepGradient(), 2)(model, x)
    assert found.total_log_evidence == pytest.approx(exact.total_log_evidence, abs=1e-10)


def test_a_reordered_base_is_put_back(generator: torch.Generator) -> None:
    args = normal(generator, 6), normal(generator, 4), 0.4, random_log_prior(generator, 4)

    def reordered(model: Any, *args: Any) -> TaskPosterior:
        return OneStepGradient()(model, *args).reordered([2, 0, 3, 1])

    found = quiet(reordered, 3)(gaussian, *args)
    plain = quiet(OneStepGradient(), 3)(gaussian, *args)
    torch.testing.assert_close(found.logits(), plain.logits())


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"base": "one step"}, TypeError, "base should be an inference"),
        ({"num_scored": 1}, ValueError, "num_scored must be at least 2"),
        ({"num_scored": 2.5}, TypeError, "num_scored of Rescored should be an integer"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1"),
        ({"max_joint": 1}, ValueError, "max_joint must be at least 2"),
    ],
)
def test_options_are_checked(options: dict[str, Any], error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        Rescored(**{"base": OneStepGradient(), **options})


def test_bases_that_do_not_fit_are_refused(generator: torch.Generator) -> None:
    args = normal(generator, 6), normal(generator, 3), 0.4, random_log_prior(generator, 3)
    with pytest.raises(TypeError, match="base should return a TaskPosterior"):
        Rescored(lambda *args: torch.zeros(3))(gaussian, *args)
    along = BayesFilter(OneStepGradient(), TaskChain.sticky(3, hazard=0.1))
    with pytest.raises(TaskSiteError, match="put Rescored inside"):
        Rescored(along)(gaussian, *args)

    def nested(x: Tensor) -> None:
        a = pyro.sample("a", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
        with pyro.plate("case", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
            pyro.sample("x", dist.Normal(z[..., 1] + a[..., 1], 1.0), obs=x)

    with pytest.raises(TaskSiteError, match="same plates"):
        Rescored(OneStepGradient())(nested, torch.zeros(3))
