"""Autoregressive joints: their protocol, the losses that fit them, and where these lead."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro_models import TASK, gaussian, normal, random_log_probs
from torch import Tensor, nn

from gbi_pyro import Enumeration, TaskPosterior, TaskSiteError
from gbi_pyro.inference import (
    AutoregressiveJoint,
    AutoregressiveRecogniser,
    Drawn,
    ForwardKL,
    LearnedRefiner,
    LocalRecogniser,
    ReverseKL,
    TrainingBatch,
    TrajectoryBalance,
    TrajectorySampler,
)
from gbi_pyro.inference._combinations import Scorer
from gbi_pyro.joint import JointTable
from gbi_pyro.logjoint import Passes, RelaxedModel
from gbi_pyro.problems import Problem

F64 = torch.float64
SIGMA = 0.5
MEANS = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.2, -1.0]], dtype=F64)  # of a, b: ambiguous
PRIOR = {"a": torch.tensor([0.5, 0.3, 0.2]).double(), "b": torch.tensor([0.4, 0.6]).double()}


def two_sites(x: Tensor, mask: Tensor | bool = True) -> None:
    """x ~ Normal(mean of a and b): several combinations make the same data."""
    with pyro.plate("case", len(x)):
        a, b = (pyro.sample(n, dist.OneHotCategorical(p), infer=TASK) for n, p in PRIOR.items())
        mean = torch.einsum("...a,ab,...b->...", a, MEANS, b)
        with pyro.poutine.mask(mask=mask):
            pyro.sample("x", dist.Normal(mean, SIGMA), obs=x)


def draw(n: int, generator: torch.Generator) -> Drawn:
    ids = {
        name: torch.multinomial(p, n, replacement=True, generator=generator)
        for name, p in PRIOR.items()
    }
    return Drawn((MEANS[ids["a"], ids["b"]] + SIGMA * normal(generator, n),), ids)


@dataclass(frozen=True)
class Simulation:
    model: Callable[..., None] = two_sites
    draw: Callable[[int, torch.Generator], Drawn] = draw


def features(x: Tensor) -> Tensor:
    return x.unsqueeze(-1)


def divergence(exact: TaskPosterior, found: TaskPosterior) -> float:
    """KL(exact || found) of the joint posteriors, the mean over elements."""
    p, q = exact.table(), found.table()
    log_p, log_q = p.flat, q.ordered(p.sites).flat
    return torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p - log_q)).sum(-1).mean().item()


def random_joint(generator: torch.Generator) -> AutoregressiveJoint:
    """A joint of three sites over two elements, from random conditionals."""
    sizes = {"a": 2, "b": 3, "c": 2}
    tables = {"a": random_log_probs(generator, 2, 2)}
    tables["b"] = random_log_probs(generator, 2, 2, 3)
    tables["c"] = random_log_probs(generator, 2, 2, 3, 2)

    def conditionals(site: str, ids: dict[str, Tensor]) -> Tensor:
        at = {"a": (), "b": ("a",), "c": ("a", "b")}[site]
        return tables[site][(torch.arange(2), *(ids[n] for n in at))]

    return AutoregressiveJoint(sizes, torch.Size([2]), conditionals)


def batch_at(joint: AutoregressiveJoint, x: Tensor, tasks: dict[str, Tensor]) -> TrainingBatch:
    run = RelaxedModel(two_sites, (x,))
    return TrainingBatch(joint, Scorer(run, run.log_joint(lambda s: s.uniform())), tasks)


def exact_joint(x: Tensor) -> AutoregressiveJoint:
    """The exact posterior, one task given the other."""
    table = Enumeration()(two_sites, x).table()
    return AutoregressiveJoint(
        table.sizes, table.batch_shape, lambda site, ids: table.conditional(site, ids).logits
    )


def test_the_conditionals_of_a_joint_multiply_to_it_and_it_sums_to_one(
    generator: torch.Generator,
) -> None:
    joint = random_joint(generator)
    ids = joint.combinations()
    log_probs = joint.log_prob(ids)
    assert log_probs.shape == (12, 2)
    torch.testing.assert_close(log_probs.logsumexp(0), torch.zeros(2, dtype=F64))
    found = sum(
        joint.conditional(n, ids).log_prob(nn.functional.one_hot(ids[n], k).double())
        for n, k in joint.sizes.items()
    )
    torch.testing.assert_close(found, log_probs)
    table = joint.table()
    torch.testing.assert_close(table.log_prob(ids), log_probs)
    b = joint.conditional("b", {"a": torch.tensor(1)})  # broadcast over the elements
    torch.testing.assert_close(b.probs, table.conditional("b", {"a": torch.tensor(1)}).probs)


def test_draws_of_a_joint_and_marginals_from_draws_fit_it(generator: torch.Generator) -> None:
    """Frequencies of all combinations, within five standard errors."""
    n, joint = 20_000, random_joint(generator)
    drawn, log_q = joint.draw(n, generator)
    torch.testing.assert_close(log_q, joint.log_prob(drawn))
    p = joint.table().flat.exp().T
    number = (drawn["a"] * 3 + drawn["b"]) * 2 + drawn["c"]  # of the combination
    found = torch.nn.functional.one_hot(number, 12).double().mean(0).T
    assert bool(((found - p).abs() <= 5 * (p * (1 - p) / n).sqrt()).all())
    for name, q in joint.marginals(n, generator).items():
        exact = joint.table().marginals()[name].exp()
        assert bool(((q.exp() - exact).abs() <= 5 * (exact * (1 - exact) / n).sqrt()).all())
    first = joint.draw(n, generator, exploration=0.5)[0]["a"]
    mixed = 0.5 * joint.table().marginals()["a"].exp()[:, 1] + 0.25
    error = (first.double().mean(0) - mixed).abs()
    assert bool((error <= 5 * (mixed * (1 - mixed) / n).sqrt()).all())


def test_losses_are_least_at_the_exact_posterior(generator: torch.Generator) -> None:
    """Reverse KL and trajectory balance are zero there, whatever is drawn; elsewhere positive."""
    (x,), tasks = draw(40, generator)
    exact = exact_joint(x)
    other = AutoregressiveJoint(
        exact.sizes,
        exact.batch_shape,
        lambda s, ids: (exact.conditionals(s, ids) * 0.7).log_softmax(-1),
    )
    for loss in (ReverseKL(), TrajectoryBalance(exploration=0.5)):
        assert loss(batch_at(exact, x, tasks), generator).item() == pytest.approx(0, abs=1e-12)
        assert loss(batch_at(other, x, tasks), generator).item() > 1e-3


def test_the_reverse_kl_is_that_of_the_tables(generator: torch.Generator) -> None:
    (x,), tasks = draw(40, generator)
    exact = Enumeration()(two_sites, x).table()
    prior = AutoregressiveJoint(exact.sizes, exact.batch_shape, lambda s, _: PRIOR[s].log())
    log_q = prior.table().flat
    expected = (log_q.exp() * (log_q - exact.flat)).sum(-1).mean()
    found = ReverseKL()(batch_at(prior, x, tasks), generator)
    torch.testing.assert_close(found, expected)


def test_trajectory_balance_at_the_data_comes_to_the_exact_posterior(
    generator: torch.Generator,
) -> None:
    (x,), _ = draw(20, generator)
    infer = TrajectorySampler(updates=250)
    found, exact = infer(two_sites, x), Enumeration()(two_sites, x)
    assert divergence(exact, found) < 0.01
    assert found.total_log_evidence == pytest.approx(exact.total_log_evidence, abs=0.05)
    assert found.passes == Passes(forward=250 * 16 + 64, backward=0, check=2)
    for name in ("a", "b"):
        assert bool((found.probs(name) - exact.probs(name)).abs().max() < 0.05)
        assert not found.logits(name).requires_grad


def test_the_sampler_is_the_same_by_seed_and_whatever_the_chunk() -> None:
    x = torch.tensor([0.4, 1.3], dtype=F64)
    infer, state = TrajectorySampler(updates=5), torch.get_rng_state()
    first = infer(two_sites, x)
    assert torch.equal(torch.get_rng_state(), state)
    for again in (infer, replace(infer, chunk_size=None), replace(infer, chunk_size=5)):
        torch.testing.assert_close(again(two_sites, x).table().flat, first.table().flat)
    other = replace(infer, seed=1)(two_sites, x)
    assert not torch.allclose(other.table().flat, first.table().flat)


def test_elements_without_data_keep_their_prior_exactly() -> None:
    x = torch.tensor([0.4, 1.3], dtype=F64)
    found = TrajectorySampler(updates=20)(two_sites, x, torch.tensor([True, False]))
    prior = torch.outer(PRIOR["a"], PRIOR["b"]).flatten()
    torch.testing.assert_close(found.table().flat[1].exp(), prior)
    assert not torch.allclose(found.table().flat[0].exp(), prior)
    assert found.log_evidence is not None
    assert found.log_evidence[1].item() == pytest.approx(0, abs=1e-6)
    fitted = AutoregressiveRecogniser(features, hidden=8, updates=30).fit(
        Simulation(), torch.Generator().manual_seed(0)
    )
    q = JointTable.of_scores({"a": 3, "b": 2}, prior.log())
    masked = Recorded(fitted.encoder)
    hidden = replace(fitted, encoder=masked)(two_sites, x, torch.tensor([True, False]))
    torch.testing.assert_close(hidden.table().flat[1], q.flat)


@dataclass(frozen=True)
class Recorded:
    encoder: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.encoder(x)


def test_forbidden_and_impossible_tasks_are_found_so(generator: torch.Generator) -> None:
    """A prior of zero, and a likelihood of zero, for some of the combinations."""
    limits = torch.tensor([[1.0, 2.0], [0.4, 1.0], [2.0, 2.0]], dtype=F64)
    prior = torch.tensor([0.6, 0.4, 0.0], dtype=F64)

    def model(x: Tensor) -> None:
        with pyro.plate("case", len(x)):
            a = pyro.sample("a", dist.OneHotCategorical(prior), infer=TASK)
            b = pyro.sample("b", dist.OneHotCategorical(PRIOR["b"]), infer=TASK)
            width = torch.einsum("...a,ab,...b->...", a, limits, b)
            pyro.sample("x", dist.Uniform(0.0, width, validate_args=False), obs=x)

    x = torch.tensor([0.5, 0.3, 1.5], dtype=F64)
    found, exact = TrajectorySampler()(model, x), Enumeration()(model, x)
    difference = found.table().flat.exp() - exact.table().flat.exp()
    assert difference.abs().max() < 0.01
    assert not found.probs("a")[:, 2].any()


def test_one_site_is_fitted_as_well(generator: torch.Generator) -> None:
    means, log_prior = MEANS.flatten()[:4], torch.full((4,), 0.25, dtype=F64).log()
    model = partial(gaussian, means=means, sigma=SIGMA, log_prior=log_prior)

    def draw(n: int, generator: torch.Generator) -> Drawn:
        z = torch.randint(4, (n,), generator=generator)
        return Drawn((means[z] + SIGMA * normal(generator, n),), {"z": z})

    (x,), _ = draw(100, generator)
    exact = Enumeration()(model, x)
    learner = AutoregressiveRecogniser(
        features, hidden=16, updates=100, learning_rate=0.01, loss=ReverseKL()
    )
    fitted = learner.fit(Simulation(model, draw), generator)
    assert divergence(exact, fitted(model, x)) < 0.02
    assert divergence(exact, TrajectorySampler(updates=150)(model, x)) < 0.01


@pytest.mark.parametrize("loss", [ForwardKL(), ReverseKL(), TrajectoryBalance(draws=8)])
def test_networks_learn_the_dependence_between_sites(
    loss: ForwardKL | ReverseKL | TrajectoryBalance, generator: torch.Generator
) -> None:
    """Nearer to the exact posterior than the product of its marginals, on new data.

    Reverse KL is the exception: where data are ambiguous it may hold one of the modes.
    """
    updates = 120
    learner = AutoregressiveRecogniser(
        features, hidden=32, updates=updates, learning_rate=0.01, loss=loss
    )
    state = torch.get_rng_state()
    infer = learner.fit(Simulation(), generator)
    assert torch.equal(torch.get_rng_state(), state)
    assert infer.losses[-30:].mean() < infer.losses[:30].mean()
    (x,), _ = draw(200, generator)
    exact, found = Enumeration()(two_sites, x), infer(two_sites, x)
    factorised = divergence(exact, replace(exact, joint=None))
    if not isinstance(loss, ReverseKL):
        assert divergence(exact, found) < 0.3 * factorised
    assert found.passes == Passes(forward=1, backward=0, check=1)
    assert not found.logits("a").requires_grad
    assert infer.parents == {"a": (), "b": ("a",)}
    scored = {ForwardKL: 0, ReverseKL: 6, TrajectoryBalance: 8}[type(loss)]
    assert infer.fit_passes.forward == scored * updates


def test_beyond_a_table_marginals_come_from_draws(generator: torch.Generator) -> None:
    infer = AutoregressiveRecogniser(features, hidden=8, updates=50).fit(Simulation(), generator)
    (x,), _ = draw(20, generator)
    n = 5000
    exact, found = infer(two_sites, x), replace(infer, max_joint=2, num_draws=n)(two_sites, x)
    assert isinstance(found.joint, AutoregressiveJoint)
    ids = found.sample(7, generator=generator)
    torch.testing.assert_close(found.log_prob(ids), exact.log_prob(ids))
    for name in ("a", "b"):
        p = exact.probs(name)
        bound = 5 * (p * (1 - p) / n).sqrt() + 1e-12
        assert bool(((found.probs(name) - p).abs() <= bound).all())


def test_the_encoder_is_copied_and_trained_and_the_fit_is_the_generators(
    generator: torch.Generator,
) -> None:
    with torch.random.fork_rng():
        network = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Dropout(0.2)).double()
    before = {n: t.clone() for n, t in network.state_dict().items()}

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            return network_of(self)(x.unsqueeze(-1))

    def network_of(encoder: Encoder) -> nn.Module:
        return encoder.network

    learner = AutoregressiveRecogniser(Encoder(), hidden=8, updates=10)
    fits = [learner.fit(Simulation(), torch.Generator().manual_seed(3)) for _ in range(2)]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    x = torch.linspace(-1, 2, 5, dtype=F64)
    torch.testing.assert_close(*(fit(two_sites, x).table().flat for fit in fits))
    trained = fits[0].encoder
    assert isinstance(trained, Encoder)
    assert not torch.equal(trained.network[0].weight, network[0].weight)


@dataclass(frozen=True)
class RewardOnly:
    """-E_q[log p(x, z)] by the score function: no entropy, so nothing keeps a second mode."""

    draws: int = 16

    def __call__(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        ids, log_q = batch.joint.draw(self.draws, generator, exploration=0.1)
        reward = batch.score(ids)
        return -((reward - reward.mean(0)) * log_q).mean()


def test_reward_alone_keeps_one_mode_where_trajectory_balance_keeps_both() -> None:
    """Exact odds of 0.2 to 0.12 at x = 1; a maximum of the reward has one of them."""
    x = torch.tensor([1.0], dtype=F64)
    exact = Enumeration()(two_sites, x)
    found = TrajectorySampler(updates=200)(two_sites, x)
    alone = TrajectorySampler(updates=200, loss=RewardOnly())(two_sites, x)
    assert divergence(exact, found) < 0.01
    assert alone.table().flat.exp().max() > 0.95
    assert exact.table().flat.exp().max() < 0.8
    assert divergence(exact, alone) > 1


def test_what_does_not_fit_is_refused(generator: torch.Generator) -> None:
    x = torch.tensor([0.4, 1.3], dtype=F64)
    with pytest.raises(TypeError, match="encoder should be callable, got a int"):
        AutoregressiveRecogniser(3)
    with pytest.raises(TypeError, match="loss should be callable, got a str"):
        AutoregressiveRecogniser(features, loss="forward")
    with pytest.raises(TypeError, match="loss should be callable, got a str"):
        TrajectorySampler(loss="reward")
    with pytest.raises(ValueError, match="updates must be positive, got 0"):
        AutoregressiveRecogniser(features, updates=0)
    with pytest.raises(ValueError, match="learning_rate must be positive"):
        TrajectorySampler(learning_rate=0.0)
    with pytest.raises(TypeError, match="updates of TrajectorySampler should be an integer"):
        TrajectorySampler(two_sites)
    with pytest.raises(ValueError, match="draws must be at least 2"):
        TrajectoryBalance(draws=1)
    with pytest.raises(ValueError, match="exploration must be a probability below 1, got 1"):
        TrajectoryBalance(exploration=1.0)
    with pytest.raises(ValueError, match="max_joint must be at least 2"):
        ReverseKL(max_joint=1)
    with pytest.raises(ValueError, match="ForwardKL learns from true tasks"):
        TrajectorySampler(loss=ForwardKL())(two_sites, x)
    with pytest.raises(TaskSiteError, match="6 combinations of tasks, more than max_joint = 4"):
        TrajectorySampler(max_joint=4)(two_sites, x)
    small = AutoregressiveRecogniser(features, hidden=4, updates=2, batch_size=8)
    with pytest.raises(TaskSiteError, match="more than max_joint = 4 of ReverseKL"):
        replace(small, loss=ReverseKL(max_joint=4)).fit(Simulation(), generator)
    with pytest.raises(ValueError, match=r"encoder has shape \(1,\), expected \(8, 1\)"):
        replace(small, encoder=lambda x: x[:1]).fit(Simulation(), generator)

    def forbidden(n: int, generator: torch.Generator) -> Drawn:
        args, tasks = draw(n, generator)
        return Drawn(args, {**tasks, "a": torch.full((n,), 1)})

    def certain(x: Tensor) -> None:
        with pyro.plate("case", len(x)):
            prior = dist.OneHotCategorical(torch.tensor([1.0, 0.0, 0.0], dtype=F64))
            a = pyro.sample("a", prior, infer=TASK)
            b = pyro.sample("b", dist.OneHotCategorical(PRIOR["b"]), infer=TASK)
            pyro.sample("x", dist.Normal(a @ MEANS[:, 0] + b @ MEANS[0], SIGMA), obs=x)

    with pytest.raises(ValueError, match="impossible under the prior"):
        small.fit(Simulation(certain, forbidden), generator)
    fitted = small.fit(Simulation(), generator)
    log_prior = torch.full((2,), 0.5, dtype=F64).log()
    with pytest.raises(TaskSiteError, match=r"fitted to the task sites {'a': 3, 'b': 2}"):
        fitted(partial(gaussian, means=MEANS[0], sigma=1.0, log_prior=log_prior), x)

    def bounded(x: Tensor) -> None:
        with pyro.plate("case", len(x)):
            a = pyro.sample("a", dist.OneHotCategorical(PRIOR["a"]), infer=TASK)
            width = a @ torch.tensor([0.1, 1.0, 2.0], dtype=F64)
            pyro.sample("x", dist.Uniform(-width, width, validate_args=False), obs=x)

    with pytest.raises(ValueError, match="tasks of probability zero that the prior allows"):
        replace(small, loss=ReverseKL()).fit(Simulation(bounded), generator)

    def nested(x: Tensor) -> None:
        a = pyro.sample("a", dist.OneHotCategorical(PRIOR["a"]), infer=TASK)
        with pyro.plate("case", len(x)):
            b = pyro.sample("b", dist.OneHotCategorical(PRIOR["b"]), infer=TASK)
            pyro.sample("x", dist.Normal(a @ MEANS[:, 0] + b @ MEANS[0], SIGMA), obs=x)

    with pytest.raises(TaskSiteError, match="task sites that lie in the same plates"):
        TrajectorySampler()(nested, x)
    with pytest.raises(TaskSiteError, match="a joint recogniser takes task sites that lie in the"):
        small.fit(Simulation(nested), generator)


@pytest.mark.parametrize(
    "learner",
    [
        AutoregressiveRecogniser(lambda x: x.unsqueeze(-1), updates=1, batch_size=4),
        LocalRecogniser(lambda x: x.unsqueeze(-1), updates=1, batch_size=4),
        LearnedRefiner(updates=1, batch=4),
    ],
    ids=lambda learner: type(learner).__name__,
)
def test_draws_name_the_sites_of_the_model(learner, generator: torch.Generator) -> None:
    def nameless(n: int, generator: torch.Generator) -> Drawn:
        return Drawn(draw(n, generator).args, {"other": torch.zeros(n, dtype=torch.long)})

    problem = Problem("other names", two_sites, nameless)
    with pytest.raises(TaskSiteError, match="should return the true tasks of site"):
        learner.fit(problem, generator)
