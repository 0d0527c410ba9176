"""The marginal as a model: its value, its sites, its gradient, its use by Pyro."""

import itertools
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from torch import Tensor

from gbi_pyro import BayesFilter, Enumeration, TaskChain, TaskPrior, TaskSiteError
from gbi_pyro.inference import LearnedChain, marginalize

F64 = torch.float64
TASK = {"task": True}


def even(K: int) -> dist.OneHotCategorical:
    return dist.OneHotCategorical(torch.ones(K, dtype=F64))


def sessions(x: Tensor) -> None:
    means = pyro.param("means", torch.tensor([-1.0, 0.5], dtype=F64))
    pyro.factor("penalty", -0.1 * (means**2).sum())
    with pyro.plate("session", len(x), dim=-2), pyro.plate("time", x.shape[1], dim=-1):
        z = pyro.sample("z", even(2), infer=TASK)
        pyro.sample("x", dist.Normal(z @ means, 1.0), obs=x)


def log_joint(model: object, *args: Tensor) -> Tensor:
    return poutine.trace(model).get_trace(*args).log_prob_sum()


CHAIN = TaskChain.sticky(2, hazard=0.2)


def test_its_log_density_is_the_evidence_of_everything(generator: torch.Generator) -> None:
    x = torch.randn(3, 6, dtype=F64, generator=generator)
    alone = Enumeration()(sessions, x).total_log_evidence
    assert log_joint(marginalize(sessions), x).item() == pytest.approx(alone)
    chain = BayesFilter(Enumeration(), CHAIN)(sessions, x)
    found = log_joint(marginalize(sessions, CHAIN), x)
    assert found.item() == pytest.approx(chain.total_log_evidence)
    prior = TaskPrior(torch.tensor([0.3, 0.7]).log())
    means = torch.tensor([-1.0, 0.5], dtype=F64)
    each = dist.Normal(means, 1.0).log_prob(x.unsqueeze(-1)) + prior.log_probs
    expected = each.logsumexp(-1).sum() - 0.1 * (means**2).sum()
    torch.testing.assert_close(log_joint(marginalize(sessions, prior), x).detach(), expected)


@pytest.mark.parametrize("chunk_size", [None, 1, 5])
def test_its_gradient_agrees_with_every_path(
    chunk_size: int | None, generator: torch.Generator
) -> None:
    x = torch.randn(2, 4, dtype=F64, generator=generator)
    value = log_joint(marginalize(sessions, CHAIN, chunk_size=chunk_size), x)
    means = pyro.param("means")
    (mine,) = torch.autograd.grad(value, means)
    total = -0.1 * (means**2).sum()
    for row in x:
        paths = []
        for z in itertools.product(range(2), repeat=4):
            ids = torch.tensor(z)
            prior = CHAIN.log_initial[ids[0]] + CHAIN.log_transition[ids[:-1], ids[1:]].sum()
            paths.append(prior + dist.Normal(means[ids], 1.0).log_prob(row).sum())
        total = total + torch.stack(paths).logsumexp(0)
    (expected,) = torch.autograd.grad(total, means)
    torch.testing.assert_close(value, total)
    torch.testing.assert_close(mine, expected)


def test_its_sites_are_those_of_the_model_but_the_task_and_its_data(
    generator: torch.Generator,
) -> None:
    def model(x: Tensor) -> None:
        shift = pyro.sample("shift", dist.Normal(torch.zeros((), dtype=F64), 1.0))
        with pyro.plate("subject", 3, dim=-2):
            scale = pyro.sample("scale", dist.LogNormal(torch.zeros((), dtype=F64), 0.1))
            with pyro.plate("time", 5, dim=-1):
                z = pyro.sample("z", even(2), infer=TASK)
                mean = shift + z @ torch.tensor([0.0, 1.0], dtype=F64)
                pyro.sample("x", dist.Normal(mean, scale), obs=x)

    x = torch.randn(3, 5, dtype=F64, generator=generator)
    trace = poutine.trace(marginalize(model, CHAIN)).get_trace(x)
    assert trace.stochastic_nodes == ["shift", "subject", "scale", "time"]
    factor = trace.nodes["z_log_evidence"]
    assert factor["fn"].log_prob(factor["value"]).shape == (3, 1)
    assert [f.name for f in factor["cond_indep_stack"]] == ["subject"]
    latents = {n: trace.nodes[n]["value"] for n in trace.stochastic_nodes}
    given = poutine.condition(model, data=latents)
    by_hand = BayesFilter(Enumeration(), CHAIN)(given, x)
    trace.compute_log_prob()
    torch.testing.assert_close(
        trace.nodes["z_log_evidence"]["log_prob"].squeeze(-1), by_hand.log_evidence
    )


def test_it_is_trained_by_svi_and_sampled_by_nuts(generator: torch.Generator) -> None:
    x = torch.cat([torch.randn(30, generator=generator) - 3, torch.randn(30, generator=generator)])

    def model(x: Tensor) -> None:
        low = pyro.sample("low", dist.Normal(0.0, 5.0))
        with pyro.plate("time", len(x)):
            prior = dist.OneHotCategorical(torch.ones(2))
            z = pyro.sample("z", prior, infer=TASK)
            pyro.sample("x", dist.Normal(z[..., 0] * low, 1.0), obs=x)

    def prior(x: Tensor) -> TaskChain:
        leave = pyro.sample("leave", dist.Beta(torch.tensor(2.0), 8.0))
        rows = torch.stack([torch.stack([1 - leave, leave]), torch.stack([leave, 1 - leave])])
        return TaskChain("uniform", rows.log())

    marginal = marginalize(model, prior)
    pyro.set_rng_seed(0)
    mcmc = MCMC(
        NUTS(marginal, jit_compile=False), num_samples=40, warmup_steps=30, disable_progbar=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mcmc.run(x)
    draws = mcmc.get_samples()
    assert set(draws) == {"low", "leave"}
    assert abs(draws["low"].mean().item() + 3) < 5 / 30**0.5
    svi = SVI(
        marginalize(sessions, CHAIN), lambda *_: None, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO()
    )
    data = torch.stack([x, x.flip(0)]).double()
    losses = [svi.step(data) for _ in range(30)]
    assert losses[-1] < losses[0] - 50


def test_steps_beyond_the_length_of_a_session_do_not_count(generator: torch.Generator) -> None:
    x = torch.randn(2, 7, dtype=F64, generator=generator)
    lengths = torch.tensor([7, 4])

    by_lengths = log_joint(marginalize(sessions, CHAIN, lengths), x)
    short = log_joint(marginalize(sessions, CHAIN), x[:1]) + log_joint(
        marginalize(sessions, CHAIN), x[1:, :4]
    )
    torch.testing.assert_close(by_lengths, short + 0.1 * (pyro.param("means") ** 2).sum())
    found = marginalize(sessions, CHAIN, lambda x: lengths).infer(x)
    assert torch.equal(found.padding(), torch.arange(7) >= lengths.unsqueeze(-1))


def test_one_task_is_no_switching_at_all(generator: torch.Generator) -> None:
    def model(x: Tensor) -> None:
        mean = pyro.param("mean", torch.tensor([0.3], dtype=F64))
        with pyro.plate("time", len(x)):
            z = pyro.sample("z", even(1), infer=TASK)
            pyro.sample("x", dist.Normal(z @ mean, 1.0), obs=x)

    x = torch.randn(9, dtype=F64, generator=generator)
    found = log_joint(marginalize(model, LearnedChain(1)), x)
    expected = dist.Normal(torch.tensor(0.3, dtype=F64), 1.0).log_prob(x).sum()
    torch.testing.assert_close(found.detach(), expected)


@pytest.mark.parametrize("of", ["left", "entered"])
def test_inputs_drive_transitions_by_the_step_left_or_entered(
    of: str, generator: torch.Generator
) -> None:
    T, u = 4, torch.randn(4, 2, dtype=F64, generator=generator)
    slopes = torch.randn(2, 2, 2, dtype=F64, generator=generator)
    A = torch.randn(2, 2, dtype=F64, generator=generator).log_softmax(-1)
    chain = TaskChain("uniform", A, slopes=slopes, inputs=u, of=of)  # type: ignore[arg-type]
    x = torch.randn(T, 2, dtype=F64, generator=generator)
    paths = []
    for z in itertools.product(range(2), repeat=T):
        total = torch.tensor(0.5, dtype=F64).log() + sum(x[t, z[t]] for t in range(T))
        for t in range(T - 1):
            row = A[z[t]] + u[t if of == "left" else t + 1] @ slopes[:, z[t]]
            total = total + row.log_softmax(-1)[z[t + 1]]
        paths.append(total)
    torch.testing.assert_close(chain.posterior(x).log_evidence, torch.stack(paths).logsumexp(0))


def test_a_stationary_start_stays_as_it_is(generator: torch.Generator) -> None:
    A = torch.randn(4, 4, dtype=F64, generator=generator).softmax(-1)
    pi = TaskChain("stationary", A.log()).log_initial.exp()
    torch.testing.assert_close(pi @ A, pi)
    assert pi.sum().item() == pytest.approx(1)


def test_what_does_not_fit_is_refused() -> None:
    x = torch.zeros(2, 3, dtype=F64)
    with pytest.raises(ValueError, match="prior has 3 tasks"):
        marginalize(sessions, TaskChain.sticky(3, 0.1))(x)
    with pytest.raises(TypeError, match="model should be a Pyro model"):
        marginalize(3)  # type: ignore[arg-type]
    for lengths in (torch.tensor([3, 3, 3]), torch.tensor(3), torch.tensor([3, 4])):
        with pytest.raises(
            ValueError, match=r"lengths should be \(2,\) numbers of steps from 0 to 3"
        ):
            marginalize(sessions, CHAIN, lengths)(x)
    with pytest.raises(ValueError, match="lengths are those of sequences"):
        marginalize(sessions, lengths=torch.tensor([3, 3]))(x)

    def two(x: Tensor) -> None:
        pyro.sample("a", even(2), infer=TASK)
        pyro.sample("b", even(2), infer=TASK)

    with pytest.raises(TaskSiteError, match="2 task sites"):
        marginalize(two)(x)
    with pytest.raises(TaskSiteError, match="no task site"):
        marginalize(lambda x: None)(x)

    def carries(x: Tensor) -> None:
        with pyro.plate("time", 3):
            z = pyro.sample("z", even(2), infer=TASK)
            pyro.sample("x", dist.Normal(z[..., 0] + torch.roll(z[..., 1], 1, -1), 1.0), obs=x[0])

    with pytest.raises(TaskSiteError, match="influence each other"):
        marginalize(carries)(x)
    for options, message in (
        ({"initial": "middle"}, "initial should be"),
        ({"initial": "stationary", "learn_initial": True}, "learn_initial"),
        ({"initial": "uniform", "slopes": torch.zeros(1, 2, 2)}, "belong together"),
        ({"initial": "uniform", "of": "both"}, "of should be"),
    ):
        with pytest.raises(ValueError, match=message):
            TaskChain(log_transition=torch.eye(2).log(), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_tasks >= 1"):
        LearnedChain(0)


def test_data_given_from_outside_are_refused() -> None:
    """They would count under the first task alone."""

    def model(x: Tensor | None = None) -> None:
        with pyro.plate("time", 4):
            z = pyro.sample("z", even(2), infer=TASK)
            pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0], dtype=F64), 1.0), obs=x)

    x = torch.tensor([0.1, 0.9, 1.2, -0.3], dtype=F64)
    with pytest.raises(TaskSiteError, match=r"'x' is latent and depends on the task.*before"):
        poutine.condition(marginalize(model), data={"x": x})()
    before = log_joint(marginalize(poutine.condition(model, data={"x": x})))
    torch.testing.assert_close(before, log_joint(marginalize(model), x))
