import itertools
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro_models import TASK, brute_force, normal, random_log_prior
from torch import Tensor, nn

from gbi_pyro import (
    BayesFilter,
    Enumeration,
    IterativeGradient,
    OneStepGradient,
    TaskPosterior,
    TaskSiteError,
    stepwise,
)
from gbi_pyro.data import SwitchingStream
from gbi_pyro.inference import ChainPosterior, TaskChain, TaskPrior, marginalize
from gbi_pyro.learning import CollapseWarning, GradientEM
from gbi_pyro.models import SequenceLSTM

F64 = torch.float64
MEANS = {2: (0.2, 0.8), 3: (0.1, 0.5, 0.9), 5: (0.1, 0.3, 0.5, 0.7, 0.9)}


class Mixture(nn.Module):
    """x ~ Normal(mu_z, sigma), mu and sigma learned; steps (B, T), or trials (N,)."""

    def __init__(self, means: Tensor, sigma: float = 0.3, log_prior: Tensor | None = None) -> None:
        super().__init__()
        self.means = nn.Parameter(means.detach().clone())
        self.log_sigma = nn.Parameter(torch.tensor(sigma, dtype=means.dtype).log())
        self.log_prior = torch.zeros_like(means) if log_prior is None else log_prior

    def forward(self, x: Tensor) -> None:
        with pyro.plate("trial", x.shape[0], dim=-x.ndim):
            if x.ndim == 1:
                self.step(x)
            else:
                with pyro.plate("time", x.shape[1], dim=-1):
                    self.step(x)

    def step(self, x: Tensor) -> None:
        z = pyro.sample("z", dist.OneHotCategorical(logits=self.log_prior), infer=TASK)
        pyro.sample("x", dist.Normal(z @ self.means, self.log_sigma.exp()), obs=x)


def sgd(model: nn.Module, rate: float = 0.01) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=rate)


def adam(model: nn.Module, rate: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=rate)


def spread_means(K: int, generator: torch.Generator) -> Tensor:
    return 0.5 + 0.1 * normal(generator, K)


def stream(K: int, generator: torch.Generator, sequences: int = 4, T: int = 40) -> Any:
    return SwitchingStream(MEANS[K], sigma=0.1).sample(sequences, T, generator, dtype=F64)


def train(em: GradientEM, steps: int, *args: Any) -> None:
    for _ in range(steps):
        em.step(*args)


E_STEPS: dict[str, Callable[..., TaskPosterior]] = {
    "enumeration": Enumeration(),
    "one step": OneStepGradient(),
    "second order": OneStepGradient(order=2),
    "iterative": IterativeGradient(num_steps=3),
    "filter": BayesFilter(Enumeration(), TaskChain.sticky(3, 0.05), output="smoothed"),
}


@pytest.mark.parametrize("K", [2, 3, 5])
@pytest.mark.parametrize("m_step", ["expected", "hard"])
def test_the_first_weight_update_follows_the_gradient_of_the_evidence(
    K: int, m_step: str, generator: torch.Generator
) -> None:
    """Fisher's identity: with the exact posterior an expected M-step ascends log p(x) itself."""
    x = stream(K, generator).x.flatten()
    model = Mixture(spread_means(K, generator), log_prior=random_log_prior(generator, K))
    joint = model.log_prior + dist.Normal(model.means, model.log_sigma.exp()).log_prob(x[:, None])
    target = joint.logsumexp(-1).sum() if m_step == "expected" else joint.amax(-1).sum()
    gradient = torch.autograd.grad(target, list(model.parameters()))
    start = [p.detach().clone() for p in model.parameters()]
    GradientEM(model, Enumeration(), sgd(model, 0.01), m_step=m_step).step(x)  # type: ignore[arg-type]
    for p, a, g in zip(model.parameters(), start, gradient, strict=True):
        torch.testing.assert_close(p.detach(), a + 0.01 * g / len(x))


def test_a_relaxed_update_puts_the_mixture_into_the_network(generator: torch.Generator) -> None:
    x = stream(3, generator).x.flatten()
    model = Mixture(spread_means(3, generator))
    q = Enumeration()(model, x).probs()
    mean = q @ model.means
    target = dist.Normal(mean, model.log_sigma.exp()).log_prob(x).sum()
    gradient = torch.autograd.grad(target, list(model.parameters()))
    start = [p.detach().clone() for p in model.parameters()]
    em = GradientEM(model, Enumeration(), sgd(model, 0.01), m_step="relaxed")
    em.step(x)
    for p, a, g in zip(model.parameters(), start, gradient, strict=True):
        torch.testing.assert_close(p.detach(), a + 0.01 * g / len(x))
    expected = target + math.log(1 / 3) * len(x)
    assert em.history[0].expected_log_joint == pytest.approx(expected.item())


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 9])
def test_folding_tasks_into_the_batch_changes_nothing(
    chunk_size: int, generator: torch.Generator
) -> None:
    x, means = stream(5, generator).x, spread_means(5, generator)
    found = []
    for size in (None, chunk_size):
        model = Mixture(means)
        em = GradientEM(
            model, Enumeration(), sgd(model), prior=TaskChain.sticky(5, 0.05), chunk_size=size
        )
        em.step(x)
        found.append([*(p.detach() for p in model.parameters()), em.history[0].bound])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("name", E_STEPS)
@pytest.mark.parametrize("m_step", ["expected", "relaxed", "hard"])
def test_the_e_step_leaves_the_weights_bit_by_bit(
    name: str, m_step: str, generator: torch.Generator
) -> None:
    x = stream(3, generator).x
    model = Mixture(spread_means(3, generator))
    em = GradientEM(model, E_STEPS[name], sgd(model), m_step=m_step)  # type: ignore[arg-type]
    before = [p.detach().clone() for p in model.parameters()]
    em.infer(x)
    assert all(torch.equal(a, p) for a, p in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    em.step(x)
    assert not any(torch.equal(a, p) for a, p in zip(before, model.parameters(), strict=True))


PRIORS: dict[str, Callable[[int], TaskPrior | TaskChain | None]] = {
    "the model's own": lambda K: None,
    "independent": lambda K: TaskPrior.uniform(K, learn=True),
    "hazard": lambda K: TaskChain.sticky(K, 0.1, learn_transition="hazard", stay=9.0, switch=1.0),
    "full": lambda K: TaskChain.sticky(K, 0.1, learn_transition="full", learn_initial=True),
}


@pytest.mark.parametrize("K", [2, 3, 5])
@pytest.mark.parametrize("prior", PRIORS)
def test_with_backtracking_the_objective_never_falls(
    K: int, prior: str, generator: torch.Generator
) -> None:
    """The bar: to 1e-6 relative, from a rate at which plain Adam does fall."""
    x = stream(K, generator).x
    model = Mixture(spread_means(K, generator))
    em = GradientEM(
        model, Enumeration(check=False), adam(model, 0.2), prior=PRIORS[prior](K), monotone=True
    )
    train(em, 30, x)
    objective = torch.tensor([h.objective for h in em.history], dtype=F64)
    assert bool((objective.diff() >= -1e-6 * objective[:-1].abs()).all())
    assert objective[-1] > objective[0] + 10
    if em.history[0].log_density == 0:  # then the objective is the log evidence
        assert [h.objective for h in em.history] == [h.log_evidence for h in em.history]
    assert min(h.accepted for h in em.history) < 1  # backtracking was needed


def test_without_backtracking_the_evidence_may_fall(generator: torch.Generator) -> None:
    """The reason for the option: the invariant above is not free."""
    x = stream(3, generator).x
    model = Mixture(spread_means(3, generator))
    em = GradientEM(model, Enumeration(check=False), adam(model, 0.2))
    train(em, 30, x)
    assert min(torch.tensor([h.objective for h in em.history]).diff()) < 0


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("labelled", [0.0, 0.3, 1.0])
def test_the_bound_of_the_exact_posterior_is_the_evidence(
    prior: str, labelled: float, generator: torch.Generator
) -> None:
    data = stream(3, generator)
    known = torch.rand(data.z.shape, generator=generator) < labelled
    model = Mixture(spread_means(3, generator), log_prior=random_log_prior(generator, 3))
    em = GradientEM(model, Enumeration(), adam(model), prior=PRIORS[prior](3))
    for _ in range(3):
        em.step(data.x, labels=data.z.where(known, torch.tensor(-1)))
    for step in em.history:
        assert step.log_evidence == pytest.approx(step.bound, rel=1e-9)


@pytest.mark.parametrize("name", ["one step", "iterative"])
def test_any_other_posterior_stays_below_the_evidence(
    name: str, generator: torch.Generator
) -> None:
    x = stream(3, generator).x
    means, prior = spread_means(3, generator), TaskChain.sticky(3, 0.1)
    steps = []
    for infer in (Enumeration(), E_STEPS[name]):
        model = Mixture(means)
        em = GradientEM(model, infer, adam(model), prior=prior)
        em.step(x)
        steps.append(em.history[0])
    exact, cheap = steps
    assert cheap.log_evidence is None
    assert cheap.objective == cheap.bound < exact.bound


def test_labels_make_the_evidence_that_of_data_and_labels(generator: torch.Generator) -> None:
    x, log_prior = normal(generator, 4), random_log_prior(generator, 3)
    model = Mixture(spread_means(3, generator), log_prior=log_prior)
    labels = torch.tensor([-1, 2, -1, 0])
    joint = log_prior + dist.Normal(model.means, model.log_sigma.exp()).log_prob(x[:, None])
    expected = joint.logsumexp(-1)[[0, 2]].sum() + joint[1, 2] + joint[3, 0]
    em = GradientEM(model, Enumeration(), sgd(model))
    q = em.infer(x, labels=labels).probs()
    torch.testing.assert_close(q[[1, 3]], torch.eye(3, dtype=F64)[[2, 0]])
    torch.testing.assert_close(q[[0, 2]], joint.softmax(-1)[[0, 2]].detach())
    assert em.step(x, labels=labels) == pytest.approx(expected.item() / 4)
    # A prior of EM's own that is the same as the model's changes nothing.
    model = Mixture(model.means, log_prior=log_prior)
    em = GradientEM(model, Enumeration(), sgd(model), prior=TaskPrior(log_prior))
    torch.testing.assert_close(em.infer(x, labels=labels).probs()[[1, 3]], q[[1, 3]])


def test_a_labelled_step_tells_its_neighbours_in_a_chain(generator: torch.Generator) -> None:
    """Exact conditioning: the oracle tries all tasks of all steps under the chain."""
    chain, x = TaskChain.sticky(2, 0.2), normal(generator, 1, 5) * 0.1 + 0.5
    model = Mixture(torch.tensor([0.3, 0.7], dtype=F64), sigma=0.3)
    labels = torch.tensor([[-1, -1, 1, -1, -1]])
    emission = dist.Normal(model.means, 0.3).log_prob(x[0, :, None]).detach()

    def chained() -> None:
        z = [
            pyro.sample(f"z{t}", dist.OneHotCategorical(torch.full((2,), 0.5)), infer=TASK)
            for t in range(5)
        ]
        total = sum((e * q).sum() for e, q in zip(emission, z, strict=True)) + 5 * math.log(2)
        for a, b in itertools.pairwise(z):
            total = total + (a.double() @ chain.log_transition.double() @ b.double())
        pyro.factor("all", total + chain.log_initial[0] + (-1e9 * z[2][0]))

    exact, _ = brute_force(chained, {f"z{t}": (2,) for t in range(5)})
    q = GradientEM(model, Enumeration(), sgd(model), prior=chain).infer(x, labels=labels).probs()
    for t in range(5):
        torch.testing.assert_close(q[0, t], exact[f"z{t}"].double(), rtol=1e-6, atol=1e-6)
    unlabelled = GradientEM(model, Enumeration(), sgd(model), prior=chain).infer(x).probs()
    assert q[0, 1, 1] > unlabelled[0, 1, 1]


def test_all_labels_make_it_supervised_training(generator: torch.Generator) -> None:
    """Then the three M-steps and any E-step are one and the same."""
    data, means = stream(3, generator), spread_means(3, generator)
    found = []
    for m_step in ("expected", "relaxed", "hard"):
        for infer in (Enumeration(), OneStepGradient()):
            model = Mixture(means)
            em = GradientEM(model, infer, adam(model), m_step=m_step)  # type: ignore[arg-type]
            for _ in range(5):
                em.step(data.x, labels=data.z)
            found.append([p.detach() for p in model.parameters()])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_a_task_prior_is_learned_to_the_shares_of_the_tasks(generator: torch.Generator) -> None:
    """The fixed point of exact EM: pi is the mean posterior (Dempster, Laird and Rubin 1977)."""
    truth = (torch.rand(400, generator=generator) < 0.2).long()
    x = torch.tensor(MEANS[2], dtype=F64)[truth] + 0.05 * normal(generator, 400)
    model = Mixture(torch.tensor(MEANS[2], dtype=F64), sigma=0.05)
    em = GradientEM(model, Enumeration(), sgd(model, 0.0), prior=TaskPrior.uniform(2, learn=True))
    train(em, 20, x)
    assert em.prior is not None
    shares = em.infer(x).probs().mean(0)
    torch.testing.assert_close(em.prior.log_probs.exp(), shares, rtol=0, atol=1e-5)  # type: ignore[union-attr]
    assert shares[1].item() == pytest.approx(truth.double().mean().item(), abs=1e-3)


def test_a_hazard_is_learned_from_the_switches(generator: torch.Generator) -> None:
    """Well apart, the tasks are known, so the hazard is the share of switches, to 1e-3."""
    data = stream(2, generator, sequences=8, T=200)
    model = Mixture(torch.tensor(MEANS[2], dtype=F64), sigma=0.1)
    chain = TaskChain.sticky(2, 0.3, learn_transition="hazard")
    em = GradientEM(model, Enumeration(), sgd(model, 0.0), prior=chain)
    train(em, 10, data.x)
    switches = (data.z.diff(dim=-1) != 0).double().mean().item()
    assert em.prior.hazard == pytest.approx(switches, abs=1e-3)  # type: ignore[union-attr]


def test_mini_batches_learn_the_prior_of_the_whole(generator: torch.Generator) -> None:
    truth = (torch.rand(1000, generator=generator) < 0.2).long()
    x = torch.tensor(MEANS[2], dtype=F64)[truth] + 0.05 * normal(generator, 1000)
    model = Mixture(torch.tensor(MEANS[2], dtype=F64), sigma=0.05)
    prior = TaskPrior.uniform(2, learn=True)
    em = GradientEM(model, Enumeration(), sgd(model, 0.0), prior=prior, prior_rate=0.02)
    for _ in range(10):
        for batch in x.split(50):
            em.step(batch)
    share = em.prior.log_probs.exp()[1].item()  # type: ignore[union-attr]
    # The memory of 50 batches holds 2500 values, each seen 2.5 times: the whole set, nearly.
    assert share == pytest.approx(truth.double().mean().item(), abs=0.01)


@pytest.mark.parametrize(
    "infer", [Enumeration(check=False), OneStepGradient(order=2)], ids=["exact", "gradient"]
)
def test_the_tasks_of_a_stream_are_found_without_labels(
    infer: Callable[..., TaskPosterior], generator: torch.Generator
) -> None:
    data = stream(3, generator, sequences=8, T=60)
    model = Mixture(torch.tensor([0.35, 0.5, 0.65], dtype=F64))
    em = GradientEM(model, infer, adam(model), prior=TaskChain.sticky(3, 0.05))
    train(em, 60, data.x)
    # 480 values in three tasks: five standard errors of the rarest task's mean.
    error = 5 * 0.1 / data.z.flatten().bincount().min().sqrt()
    assert (model.means.detach() - torch.tensor(MEANS[3], dtype=F64)).abs().max() < error
    assert not em.collapse(data.x).collapsed


def test_a_recurrent_network_learns_through_time_or_cut(generator: torch.Generator) -> None:
    x = stream(2, generator).x
    for m_step in ("expected", "relaxed", "hard"):
        network = SequenceLSTM(2, 8, generator=torch.Generator().manual_seed(0)).double()
        em = GradientEM(
            network,
            Enumeration(),
            adam(network),
            m_step=m_step,  # type: ignore[arg-type]
            cut=stepwise,
            prior=TaskChain.sticky(2, 0.05),
        )
        before = em.step(x)
        for _ in range(10):
            after = em.step(x)
        assert after > before


def test_a_callable_cuts_as_well(generator: torch.Generator) -> None:
    x = stream(2, generator).x
    chain = TaskChain.sticky(2, 0.05)

    def e_step(model: Any, x: Tensor) -> TaskPosterior:
        inner = BayesFilter(OneStepGradient(), chain)
        return inner(stepwise(model, x))

    network = SequenceLSTM(2, 8, generator=generator).double()
    em = GradientEM(network, e_step, adam(network), m_step="relaxed")
    assert math.isfinite(em.step(x))
    assert em.history[0].log_evidence is None


def test_an_expected_update_of_an_uncut_recurrent_network_is_refused(
    generator: torch.Generator,
) -> None:
    network = SequenceLSTM(2, 8, generator=generator).double()
    em = GradientEM(network, OneStepGradient(), adam(network))
    with pytest.raises(TaskSiteError, match=r"influence each other.*stepwise"):
        em.step(stream(2, generator).x)


def test_what_is_logged_adds_up(generator: torch.Generator) -> None:
    x = stream(3, generator).x
    model = Mixture(spread_means(3, generator))
    chain = TaskChain.sticky(3, 0.1, learn_transition="hazard", stay=9.0, switch=1.0)
    em = GradientEM(model, Enumeration(check=False), adam(model), prior=chain)
    q = em.infer(x)
    value = em.step(x)
    (step,) = em.history
    assert step.log_evidence == pytest.approx(q.log_evidence.sum().item())  # type: ignore[union-attr]
    assert step.log_density == pytest.approx(9 * math.log(0.9) + math.log(0.1), rel=1e-6)
    assert step.objective == step.log_evidence + step.log_density
    assert step.num_observations == x.numel()
    assert value == step.objective / x.numel()
    assert step.accepted == 1
    assert (step.passes.forward, step.passes.backward) == (3 + 3, 1)


def test_masked_values_and_padding_count_for_nothing(generator: torch.Generator) -> None:
    x, means = stream(2, generator).x.flatten(), spread_means(2, generator)
    keep = torch.rand(len(x), generator=generator) < 0.7
    results = []
    for masked in (True, False):
        model = Mixture(means)
        data = x.masked_fill(~keep, math.nan) if masked else x[keep]
        wrapped = pyro.poutine.mask(model, mask=keep) if masked else model
        em = GradientEM(wrapped, Enumeration(), sgd(model))
        em.step(data)
        results.append([p.detach() for p in model.parameters()])
    torch.testing.assert_close(results[0], results[1])


def test_collapse_is_warned_of_once_in_words(generator: torch.Generator) -> None:
    x = stream(2, generator).x.flatten()
    model = Mixture(torch.tensor([0.5, 0.5], dtype=F64))  # a saddle that EM never leaves
    em = GradientEM(model, Enumeration(check=False), adam(model), check_every=5)
    with pytest.warns(CollapseWarning, match="after 5 EM steps: the output does not depend"):
        train(em, 5, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(em, 10, x)


@pytest.mark.parametrize("m_step", ["relaxed", "hard"])
def test_collapse_is_looked_for_whatever_the_m_step(
    m_step: str, generator: torch.Generator
) -> None:
    x = stream(2, generator).x.flatten()
    model = Mixture(torch.tensor([0.5, 5.0], dtype=F64))
    em = GradientEM(model, Enumeration(), sgd(model), m_step=m_step, check_every=2)  # type: ignore[arg-type]
    with pytest.warns(CollapseWarning, match="1 of 2 tasks are used"):
        train(em, 2, x)


def test_the_history_trap_is_named(generator: torch.Generator) -> None:
    """A recurrent network whose input weights of z are zero follows the data by its history."""
    network = SequenceLSTM(2, 8, generator=generator).double()
    with torch.no_grad():
        network.embed.weight[:, 1:] = 0
    chain = TaskChain.sticky(2, 0.05)
    em = GradientEM(
        network, Enumeration(), adam(network), m_step="relaxed", cut=stepwise, prior=chain
    )
    report = em.collapse(stream(2, generator).x)
    assert report.collapsed
    assert report.spread == 0
    assert "does not depend on the task" in str(report)
    assert "follows them by its own history" in str(report)


@pytest.mark.parametrize(
    "prior", [TaskPrior.uniform(3, learn=True), TaskChain.sticky(3, 0.1)], ids=["prior", "chain"]
)
def test_unused_and_redundant_tasks_are_pruned(
    prior: TaskPrior | TaskChain, generator: torch.Generator
) -> None:
    x = stream(2, generator).x
    model = Mixture(torch.tensor([0.2, 0.2, 0.8], dtype=F64), sigma=0.1)
    em = GradientEM(model, Enumeration(), adam(model, 0.001), prior=prior)
    report = em.prune(x)
    assert report.same == [[0, 1]]
    (gone,) = report.redundant
    train(em, 3, x)
    assert em.infer(x).probs()[..., gone].max() == 0
    assert not em.collapse(x).collapsed
    assert em.prune(x).redundant == []


def two_sites(x: Tensor, means: Tensor) -> None:
    with pyro.plate("trial", len(x)):
        a = pyro.sample("a", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
        b = pyro.sample("b", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
        pyro.sample("x", dist.Normal(a @ means + b @ means, 0.1), obs=x)


@pytest.mark.parametrize("e_step", [Enumeration(), OneStepGradient()])
def test_several_task_sites_are_an_error(e_step: Callable[..., TaskPosterior]) -> None:
    means = nn.Parameter(torch.tensor([0.1, 0.9]))
    em = GradientEM(two_sites, e_step, torch.optim.SGD([means], lr=0.1))
    with pytest.raises(TaskSiteError, match=r"2 task sites, \['a', 'b'\]; expected one"):
        em.step(torch.zeros(3), means)


def test_options_that_do_not_fit_are_errors(generator: torch.Generator) -> None:
    model, x = Mixture(spread_means(2, generator)), stream(2, generator).x
    make = partial(GradientEM, model, optim=sgd(model))
    for options, message in (
        ({"m_step": "soft"}, "m_step must be 'expected', 'relaxed' or 'hard'"),
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
        ({"chunk_size": 2, "m_step": "hard"}, "belongs to m_step='expected'"),
        ({"prior_rate": 0.0}, "prior_rate must lie in"),
        ({"prior_rate": 0.5}, "needs a prior"),
        ({"check_every": 0}, "check_every must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make(e_step=Enumeration(), **options)
    with pytest.raises(ValueError, match="log evidences, which this E-step does not know"):
        make(e_step=OneStepGradient(), monotone=True).step(x)
    chain = TaskChain.sticky(2, 0.1)
    filtered = BayesFilter(Enumeration(), chain)
    with pytest.raises(ValueError, match="BayesFilter already"):
        make(e_step=filtered, prior=chain).step(x)
    with pytest.raises(ValueError, match="prior has 3 tasks, task site 'z' has 2"):
        make(e_step=Enumeration(), prior=TaskPrior.uniform(3)).step(x)
    with pytest.raises(ValueError, match="no task can be pruned"):
        make(e_step=Enumeration()).prune(x)
    with pytest.raises(ValueError, match="integer task ids"):
        make(e_step=Enumeration()).step(x, labels=torch.zeros(x.shape))


def test_a_chain_over_a_single_task_is_an_error() -> None:
    means = nn.Parameter(torch.tensor([0.1, 0.9]))

    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
        pyro.sample("x", dist.Normal(z @ means, 0.1), obs=x)

    chain = TaskChain.sticky(2, 0.1)
    em = GradientEM(model, Enumeration(), torch.optim.SGD([means], lr=0.1), prior=chain)
    with pytest.raises(TaskSiteError, match="declare a plate over time"):
        em.step(torch.tensor(0.3))


def test_a_task_that_the_learned_prior_gave_up_is_a_collapse() -> None:
    """Its probability falls to exactly zero; it is not one that was forbidden by hand."""
    x = torch.tensor([0.0, 0.1, -0.1, 0.05])
    means = torch.tensor([0.0, 50.0], requires_grad=True)

    def model(x: Tensor) -> None:
        with pyro.plate("trial", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer={"task": True})
            pyro.sample("x", dist.Normal(z @ means, 0.2), obs=x)

    prior = TaskPrior.uniform(2, learn=True)
    em = GradientEM(model, Enumeration(), torch.optim.SGD([means], lr=0.01), prior=prior)
    for _ in range(3):
        em.step(x)
    assert isinstance(em.prior, TaskPrior)
    assert em.prior.log_probs[1].isneginf()
    assert em.collapse(x).unused == [1]
    assert em.prune(x).collapsed
    assert not em.collapse(x).collapsed


def test_with_a_chain_it_infers_what_its_marginal_does(generator: torch.Generator) -> None:
    model, chain = Mixture(torch.tensor([0.2, 0.8], dtype=F64)), TaskChain.sticky(2, 0.1)
    x = torch.randn(2, 20, dtype=F64, generator=generator)
    em = GradientEM(model, Enumeration(), sgd(model), prior=chain)
    found, exact = em.infer(x), marginalize(model, chain).infer(x)
    assert isinstance(found, ChainPosterior)
    assert isinstance(exact, ChainPosterior)
    for one in ("log_smoothed", "log_filtered", "step_log_evidence", "log_evidence", "viterbi"):
        torch.testing.assert_close(getattr(found, one), getattr(exact, one))
