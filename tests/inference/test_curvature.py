"""The second-order joint: where it is exact, what it is elsewhere, and where it is refused."""

import itertools
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
    AutoTaskGuide,
    Enumeration,
    OneStepGradient,
    TaskPosterior,
    TaskSiteError,
    hmm_posterior,
)
from gbi_pyro.inference import PairwiseJoint, SecondOrderJoint
from gbi_pyro.joint import combinations

F64 = torch.float64
FRUSTRATED = [*itertools.pairwise(range(8)), (0, 3), (2, 6), (4, 7)]


class Spins:
    """Coupled binary tasks, each observed with noise."""

    def __init__(self, num: int, edges: list[tuple[int, int]], couplings: Tensor) -> None:
        self.num, self.edges, self.couplings = num, edges, couplings

    def __call__(self, x: Tensor) -> None:
        signs = x.new_tensor([-1.0, 1.0])
        with pyro.plate("case", len(x)):
            s = [
                pyro.sample(f"z{i}", dist.OneHotCategorical(x.new_ones(2)), infer=TASK) @ signs
                for i in range(self.num)
            ]
            for (i, j), coupling in zip(self.edges, self.couplings, strict=True):
                pyro.factor(f"edge{i}_{j}", coupling * s[i] * s[j])
            for i, spin in enumerate(s):
                pyro.sample(f"x{i}", dist.Normal(spin, 1.0), obs=x[..., i])


def spins(generator: torch.Generator, edges: list[tuple[int, int]], num: int = 8) -> Spins:
    """A graph whose couplings have random signs."""
    signs = 2.0 * torch.randint(2, (len(edges),), generator=generator, dtype=F64) - 1
    return Spins(num, edges, signs)


def worst_kl(exact: TaskPosterior, found: TaskPosterior) -> float:
    """The largest KL(exact || found) of an element, of the joint."""
    p, q = exact.table().flat, found.table().flat
    return float(torch.where(p.isneginf(), 0.0, p.exp() * (p - q)).sum(-1).max())


# Where it is exact


@pytest.mark.parametrize("max_joint", [4096, 16])
@pytest.mark.parametrize("edges", [[*itertools.pairwise(range(8))], FRUSTRATED])
def test_coupled_binary_tasks_are_exact(
    edges: list[tuple[int, int]], max_joint: int, generator: torch.Generator
) -> None:
    """As a table and by elimination; a product for each of eight sites, whatever their tasks."""
    model, x = spins(generator, edges), normal(generator, 20, 8)
    found = SecondOrderJoint(max_joint=max_joint)(model, x)
    exact = Enumeration(chunk_size=64)(model, x)
    assert worst_kl(exact, found) <= 1e-8
    for name, log_q in exact.log_probs.items():
        torch.testing.assert_close(found.log_probs[name], log_q, rtol=0, atol=1e-10)
    assert isinstance(found.joint, PairwiseJoint) == (max_joint == 16)
    assert found.passes == (1, 9, 5)
    assert found.settings["edges"] == [[f"z{i}", f"z{j}"] for i, j in sorted(edges, key=by_later)]


def by_later(edge: tuple[int, int]) -> tuple[int, int]:
    return edge[1], edge[0]


def test_more_rounds_of_an_exact_expansion_are_exact(generator: torch.Generator) -> None:
    model, x = spins(generator, FRUSTRATED), normal(generator, 10, 8)
    found = SecondOrderJoint(rounds=3, mix=0.1)(model, x)
    assert worst_kl(Enumeration(chunk_size=64)(model, x), found) <= 1e-8
    assert found.passes == (3, 27, 5)
    assert found.method == "second order, joint, 3 rounds"


def rules(x: Tensor, y: Tensor) -> None:
    a, b = x.unbind(-1)
    outputs = torch.stack([a + b, a - b, a * b, torch.minimum(a, b)], -1)
    with pyro.plate("case", len(x)):
        z = pyro.sample("rule", dist.OneHotCategorical(torch.ones(4, dtype=F64)), infer=TASK)
        mean = torch.einsum("...k,...nk->...n", z, outputs)
        pyro.sample("y", dist.Normal(mean, 0.5).to_event(1), obs=y)


def test_rules_and_regression_with_finitely_many_weights_are_exact(
    generator: torch.Generator,
) -> None:
    weights = normal(generator, 8, 3)

    def regression(x: Tensor, y: Tensor) -> None:
        with pyro.plate("case", len(x)):
            prior = dist.OneHotCategorical(torch.ones(8, dtype=F64))
            w = pyro.sample("weights", prior, infer=TASK) @ weights
            mean = torch.einsum("...d,...nd->...n", w, x)
            pyro.sample("y", dist.Normal(mean, 0.5).to_event(1), obs=y)

    for model, d, K in ((rules, 2, 4), (regression, 3, 8)):
        for n in (1, 4):
            data = normal(generator, 30, n, d), normal(generator, 30, n)
            found = SecondOrderJoint()(model, *data)
            assert worst_kl(Enumeration(chunk_size=8)(model, *data), found) <= 1e-8
            assert found.passes == (1, K, 5)


def test_forty_coupled_tasks_are_exact_and_their_graph_is_found(
    generator: torch.Generator,
) -> None:
    """2^40 combinations, against forward-backward; in single precision too."""
    edges = [*itertools.pairwise(range(40))]
    couplings = normal(generator, 39)
    x = normal(generator, 10, 40) + 1.0
    signs = torch.tensor([-1.0, 1.0], dtype=F64)
    logs = dist.Normal(signs, 1.0).log_prob(x.unsqueeze(-1))
    pairs = couplings[:, None, None] * signs[:, None] * signs
    log_Z = torch.zeros(2, dtype=F64)
    transitions = []  # of the prior's chain, from its last site to its first
    for pair in pairs.flip(0):
        joint = pair + log_Z
        log_Z = joint.logsumexp(-1)
        transitions.append(joint - log_Z.unsqueeze(-1))
    transition = torch.stack(transitions[::-1])
    exact = hmm_posterior(log_Z.log_softmax(-1), transition, logs, per_step=True).log_smoothed
    for dtype, atol in ((F64, 1e-10), (torch.float32, 1e-5)):
        found = SecondOrderJoint()(Spins(40, edges, couplings.to(dtype)), x.to(dtype))
        marginals = torch.stack([found.log_probs[f"z{i}"] for i in range(40)], 1)
        torch.testing.assert_close(marginals.exp().double(), exact.exp(), rtol=0, atol=atol)
        assert found.settings["edges"] == [[f"z{i}", f"z{j}"] for i, j in edges]
        assert found.passes == (1, 41, 5)
        drawn = found.sample(3, generator=generator)
        assert found.log_prob(drawn).shape == (3, 10)


def test_edges_are_found_where_all_sites_enter_one_factor(generator: torch.Generator) -> None:
    """The energy of all spins at once, in single precision: zeros are zeros up to rounding."""
    J = torch.zeros(6, 6)
    for i, j in ((0, 2), (1, 4), (2, 5)):
        J[i, j] = J[j, i] = 1.0
    basis, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    turned = basis.T @ J @ basis

    def model(x: Tensor) -> None:
        with pyro.plate("case", len(x)):
            prior = dist.OneHotCategorical(torch.ones(2))
            s = [
                pyro.sample(f"z{i}", prior, infer=TASK) @ torch.tensor([-1.0, 1.0])
                for i in range(6)
            ]
            spin = torch.stack(torch.broadcast_tensors(*s), -1)
            turn = spin @ basis
            pyro.factor("energy", 0.5 * torch.einsum("...i,ij,...j->...", turn, turned, turn))
            pyro.sample("x", dist.Normal(spin, 1.0).to_event(1), obs=x)

    found = SecondOrderJoint()(model, torch.randn(5, 6, generator=generator))
    assert found.settings["edges"] == [["z0", "z2"], ["z1", "z4"], ["z2", "z5"]]


# What it is elsewhere


def nonlinear(x: Tensor, weights: Tensor, priors: Tensor) -> None:
    with pyro.plate("case", len(x)):
        a = pyro.sample("a", dist.OneHotCategorical(logits=priors[:3]), infer=TASK)
        b = pyro.sample("b", dist.OneHotCategorical(logits=a @ weights[:3]), infer=TASK)
        c = pyro.sample("c", dist.OneHotCategorical(logits=priors[3:]), infer=TASK)
        z = torch.cat(torch.broadcast_tensors(a, b, c), -1)
        mean = (z @ weights).tanh().sum(-1)
        pyro.sample("x", dist.Normal(mean, 0.7), obs=x)


@pytest.mark.parametrize("rounds", [1, 2])
def test_it_is_the_taylor_polynomial_of_the_log_joint(
    rounds: int, generator: torch.Generator
) -> None:
    """Priors that depend on other tasks, and all their derivatives, are in it."""
    weights, priors = normal(generator, 9, 3), normal(generator, 6)
    x = normal(generator, 4)
    infer = SecondOrderJoint(rounds=rounds, check=False)
    found = infer(nonlinear, x, weights, priors)
    point = torch.full((4, 9), 1 / 3, dtype=F64)
    if rounds == 2:
        first = SecondOrderJoint(check=False)(nonlinear, x, weights, priors)
        point = 0.7 * torch.cat([first.probs(n) for n in "abc"], -1) + 0.3 * point
    corners = torch.stack(
        [
            torch.cat([torch.eye(3, dtype=F64)[ids[n]] for n in "abc"])
            for ids in ({n: k[i] for n, k in combinations(SIZES).items()} for i in range(27))
        ]
    )
    for i in range(4):

        def log_joint(q: Tensor, i: int = i) -> Tensor:
            a, b, c = q.split(3)
            prior = a @ priors[:3].log_softmax(-1) + c @ priors[3:].log_softmax(-1)
            prior = prior + b @ (a @ weights[:3]).log_softmax(-1)
            return prior + dist.Normal((q @ weights).tanh().sum(-1), 0.7).log_prob(x[i])

        moves = corners - point[i]
        g = torch.autograd.functional.jacobian(log_joint, point[i])
        C = torch.autograd.functional.hessian(log_joint, point[i])
        score = moves @ g + 0.5 * torch.einsum("zi,ij,zj->z", moves, C, moves)
        expected = score.log_softmax(-1)
        torch.testing.assert_close(found.table().flat[i], expected, rtol=0, atol=1e-10)


SIZES = dict.fromkeys("abc", 3)


def test_evidence_reaches_a_task_through_the_prior_of_another() -> None:
    """x -> b -> a: one step leaves a at its prior, the second order does not."""
    likely = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=F64)

    def model(x: Tensor) -> None:
        with pyro.plate("case", len(x)):
            a = pyro.sample("a", dist.OneHotCategorical(x.new_ones(2)), infer=TASK)
            b = pyro.sample("b", dist.OneHotCategorical(probs=a @ likely), infer=TASK)
            pyro.sample("x", dist.Normal(b @ x.new_tensor([-1.0, 1.0]), 1.0), obs=x)

    x = torch.tensor([-1.5, 1.5], dtype=F64)
    exact = Enumeration()(model, x).probs("a")[:, 0]
    first = OneStepGradient()(model, x).probs("a")[:, 0]
    found = SecondOrderJoint()(model, x)
    torch.testing.assert_close(first[0], first[1])
    assert (found.probs("a")[:, 0] - exact).abs().max() < 0.1 * (exact[0] - exact[1])
    assert worst_kl(Enumeration()(model, x), found) < 0.02


def test_one_site_is_the_second_order_step(generator: torch.Generator) -> None:
    x, means, log_prior = (
        normal(generator, 30),
        normal(generator, 5),
        random_log_prior(generator, 5),
    )
    log_prior[1] = -torch.inf
    found = SecondOrderJoint()(gaussian, x, means, 0.5, log_prior.log_softmax(-1))
    step = OneStepGradient(order=2)(gaussian, x, means, 0.5, log_prior.log_softmax(-1))
    torch.testing.assert_close(found.logits(), step.logits(), rtol=0, atol=1e-12)
    assert found.joint is None
    assert found.passes[:2] == step.passes[:2]
    torch.testing.assert_close(found.num_observations, step.num_observations)


# Elements, masks, priors


@pytest.mark.parametrize("rounds", [1, 2])
def test_each_element_is_as_if_it_were_alone(rounds: int, generator: torch.Generator) -> None:
    weights, priors, x = 0.5 * normal(generator, 9, 3), normal(generator, 6), normal(generator, 5)
    infer = SecondOrderJoint(rounds=rounds)
    together = infer(nonlinear, x, weights, priors).table().log_probs
    for i in range(5):
        alone = infer(nonlinear, x[i : i + 1], weights, priors).table().log_probs
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("max_joint", [4096, 9])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_priors_that_forbid_and_data_that_are_masked(
    dtype: torch.dtype, max_joint: int, generator: torch.Generator
) -> None:
    """In no plate and in two; where all data are masked the joint is the product of the priors."""
    log_prior = torch.tensor([0.5, 0.0, 0.5], dtype=dtype).log()
    table = normal(generator, 3, 3, dtype=dtype)

    def model(x: Tensor, seen: Tensor) -> None:
        a = pyro.sample("a", dist.OneHotCategorical(logits=log_prior), infer=TASK)
        b = pyro.sample("b", dist.OneHotCategorical(x.new_ones(3)), infer=TASK)
        c = pyro.sample("c", dist.OneHotCategorical(x.new_ones(3)), infer=TASK)
        with poutine.mask(mask=seen):
            for name, one, other in (("x", a, b), ("y", b, c)):
                mean = torch.einsum("...i,...j,ij->...", one, other, table)
                pyro.sample(name, dist.Normal(mean, 2.0), obs=x)

    def plated(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("row", 2, dim=-2), pyro.plate("case", 3, dim=-1):
            model(x, seen)

    infer = SecondOrderJoint(max_joint=max_joint)
    x, seen = normal(generator, 2, 3, dtype=dtype), torch.tensor([[1, 1, 0], [0, 1, 1]]).bool()
    found = infer(plated, x, seen)
    hidden = found.table().log_probs.exp()[~seen]
    expected = log_prior.double().exp()[:, None, None].expand(2, 3, 3, 3) / 9
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-6)
    assert isinstance(found.joint, PairwiseJoint) == (max_joint == 9)
    assert bool((found.probs("a")[..., 1] == 0).all())
    assert found.logits("a").dtype == dtype
    assert worst_kl(Enumeration()(plated, x, seen), found) < 0.2
    alone = infer(model, x[0, 0], torch.tensor(True))
    assert alone.logits("b").shape == (3,)
    torch.testing.assert_close(
        alone.table().log_probs, found.table().log_probs[0, 0], rtol=0, atol=1e-5
    )
    torch.testing.assert_close(found.num_observations["b"], 2 * seen.to(dtype))


# Where it is refused


def hyperteacher(generator: torch.Generator) -> Callable[..., None]:
    """One or two of six modules make the first layer of a network with tanh units."""
    modules, readout = normal(generator, 6, 16, 4), normal(generator, 2, 16) / 4
    active = [{i} for i in range(6)] + [set(pair) for pair in itertools.combinations(range(6), 2)]
    code = torch.tensor([[float(m in on) for m in range(6)] for on in active], dtype=F64)

    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("case", len(x)):
            prior = dist.OneHotCategorical(torch.ones(21, dtype=F64))
            z = pyro.sample("modules", prior, infer=TASK)
            first = torch.einsum("...m,mhd->...hd", z @ code, modules)
            hidden = torch.einsum("...hd,...nd->...nh", first, x).tanh()
            pyro.sample("y", dist.Normal(hidden @ readout.T, 0.6).to_event(2), obs=y)

    return model


def model_index(x: Tensor, y: Tensor) -> None:
    """Which degree a polynomial has, its weights integrated out."""
    features = torch.stack([x**d for d in range(4)], -1)
    with pyro.plate("case", len(x)):
        z = pyro.sample("degree", dist.OneHotCategorical(torch.ones(4, dtype=F64)), infer=TASK)
        scale = (z @ torch.ones(4, 4, dtype=F64).tril()).sqrt().unsqueeze(-2)
        noise = torch.full((x.shape[-1],), 0.09, dtype=F64)
        prior = dist.LowRankMultivariateNormal(torch.zeros_like(noise), features * scale, noise)
        pyro.sample("y", prior, obs=y)


def test_an_expansion_that_does_not_hold_is_refused(generator: torch.Generator) -> None:
    """A network through tanh units, and a covariance."""
    model = hyperteacher(generator)
    x = 2 * torch.rand(60, 16, 4, generator=generator, dtype=F64) - 1
    given = torch.nn.functional.one_hot(torch.arange(60) % 21, 21).double()
    drawn = poutine.uncondition(poutine.condition(model, {"modules": given}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = poutine.trace(drawn).get_trace(x, torch.zeros(60, 16, 2, dtype=F64)).nodes["y"]["value"]
    with pytest.raises(TaskSiteError, match=r"far from quadratic.* of 60 elements.*Rescored"):
        SecondOrderJoint()(model, x, y)
    assert (
        worst_kl(
            Enumeration(chunk_size=21)(model, x, y), SecondOrderJoint(check=False)(model, x, y)
        )
        > 3
    )

    x = 2 * torch.rand(100, 16, generator=generator, dtype=F64) - 1
    features = torch.stack([x**d for d in range(4)], -1)
    degree = torch.arange(100) % 4
    on = torch.ones(4, 4, dtype=F64).tril()[degree]
    y = torch.einsum("cnd,cd->cn", features, on * normal(generator, 100, 4))
    y = y + 0.3 * normal(generator, 100, 16)
    with pytest.raises(TaskSiteError, match="far from quadratic"):
        SecondOrderJoint(rounds=2)(model_index, x, y)


def test_data_that_the_probable_combinations_cannot_have_made_are_refused() -> None:
    """Between the corners all is finite: only scores at corners can tell."""

    def model(x: Tensor) -> None:
        with pyro.plate("case", len(x)):
            a = pyro.sample("a", dist.OneHotCategorical(x.new_ones(4)), infer=TASK)
            b = pyro.sample("b", dist.OneHotCategorical(x.new_ones(4)), infer=TASK)
            width = 0.1 + (a * b).sum(-1)
            pyro.sample("x", dist.Uniform(-width, width, validate_args=False), obs=x)

    with pytest.raises(TaskSiteError, match=r"in 2 of 2 elements, up to inf"):
        SecondOrderJoint()(model, torch.tensor([0.2, -0.2], dtype=F64))


def test_elements_that_influence_each_other_are_refused(generator: torch.Generator) -> None:
    def smeared(x: Tensor) -> None:
        with pyro.plate("case", len(x)):
            a = pyro.sample("a", dist.OneHotCategorical(x.new_ones(2)), infer=TASK)
            b = pyro.sample("b", dist.OneHotCategorical(x.new_ones(2)), infer=TASK)
            pyro.sample("x", dist.Normal((a * b)[..., 1].cumsum(-1), 1.0), obs=x)

    with pytest.raises(TaskSiteError, match="changes with the tasks of others"):
        SecondOrderJoint()(smeared, normal(generator, 4))


def test_sites_in_different_plates_and_wide_graphs_are_refused(
    generator: torch.Generator,
) -> None:
    def nested(x: Tensor) -> None:
        a = pyro.sample("a", dist.OneHotCategorical(x.new_ones(2)), infer=TASK)
        with pyro.plate("case", len(x)):
            b = pyro.sample("b", dist.OneHotCategorical(x.new_ones(2)), infer=TASK)
            pyro.sample("x", dist.Normal((a + b)[..., 0], 1.0), obs=x)

    x = normal(generator, 3, 6)
    with pytest.raises(TaskSiteError, match=r"SecondOrderJoint takes task sites .* same plates"):
        SecondOrderJoint()(nested, x[:, 0])
    complete = spins(generator, [*itertools.combinations(range(6), 2)], 6)
    with pytest.raises(TaskSiteError, match="table of 64 combinations of 6 sites"):
        SecondOrderJoint(max_joint=32)(complete, x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"rounds": 2, "mix": 0.0}, "mix must be above 0"),
        ({"rounds": 2, "mix": 1.5}, "mix must be above 0 and at most 1, got 1.5"),
        ({"mix": 0.5}, "mix has an effect from the second round on"),
        ({"max_joint": 1}, "max_joint must be at least 2, got 1"),
        ({"chunk_size": 0}, "chunk_size must be at least 1 or None, got 0"),
        ({"chunk_size": 4, "check": False}, "chunk_size is that of the check"),
    ],
)
def test_options_out_of_range_or_without_effect(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SecondOrderJoint(**options)


def test_a_model_in_place_of_an_option_is_named() -> None:
    with pytest.raises(TypeError, match=r"the model comes at the call, SecondOrderJoint\(\)"):
        SecondOrderJoint(rules)  # type: ignore[arg-type]


def test_chunks_give_the_same_check(generator: torch.Generator) -> None:
    model, x = spins(generator, FRUSTRATED), normal(generator, 5, 8)
    found = SecondOrderJoint(chunk_size=4)(model, x)
    assert found.passes == SecondOrderJoint()(model, x).passes


@pytest.mark.parametrize("max_joint", [4096, 16])
def test_guides_draw_from_it_and_tasks_may_be_renumbered(
    max_joint: int, generator: torch.Generator
) -> None:
    """Where it is exact, p(x, z) / q(z) of any draw is the evidence."""
    model, x = spins(generator, FRUSTRATED), normal(generator, 6, 8)
    infer, evidence = SecondOrderJoint(max_joint=max_joint), Enumeration(chunk_size=64)(model, x)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = poutine.trace(AutoTaskGuide(model, infer)).get_trace(x)
    log_p = poutine.trace(poutine.replay(model, drawn)).get_trace(x).log_prob_sum()
    assert evidence.log_evidence is not None
    total = evidence.log_evidence.sum()
    torch.testing.assert_close(log_p - drawn.log_prob_sum(), total, rtol=0, atol=1e-9)
    found = infer(model, x)
    ids = found.sample(20, generator=generator)
    moved = found.reordered([1, 0], "z3").log_prob({**ids, "z3": 1 - ids["z3"]})
    torch.testing.assert_close(moved, found.log_prob(ids))


def test_it_leaves_nothing_behind(generator: torch.Generator) -> None:
    network = torch.nn.Linear(4, 1).double()

    def model(x: Tensor) -> None:
        pyro.module("network", network)
        with pyro.plate("case", len(x)):
            a = pyro.sample("a", dist.OneHotCategorical(x.new_ones(2)), infer=TASK)
            b = pyro.sample("b", dist.OneHotCategorical(x.new_ones(2)), infer=TASK)
            mean = network(torch.cat(torch.broadcast_tensors(a, b), -1)).squeeze(-1)
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    state = torch.get_rng_state()
    with torch.no_grad():
        found = SecondOrderJoint(rounds=2)(model, normal(generator, 3))
    assert torch.equal(state, torch.get_rng_state())
    assert not list(pyro.get_param_store().keys())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not found.table().log_probs.requires_grad
