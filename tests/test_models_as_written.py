"""What the model says is what is scored: small models with the right answer worked out by hand."""

import warnings
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import gbi_pyro as gbi
from gbi_pyro import (
    BayesFilter,
    Enumeration,
    GradientEM,
    OneStepGradient,
    TaskChain,
    TaskSiteError,
    calibrate,
    check_model,
    hmm_posterior,
)
from gbi_pyro.inference.hmm import log_pairwise
from gbi_pyro.learning import CollapseWarning

TASK = {"task": True}
F64 = torch.float64


# Axes are found by the plate's name


TONES = torch.tensor([[0.1, 0.2, 0.3], [0.7, 0.6, 0.5]], dtype=F64)
STICKY = torch.tensor([[0.95, 0.05], [0.05, 0.95]], dtype=F64).log()
HALF = torch.tensor([0.5, 0.5], dtype=F64).log()
CHAIN = TaskChain(HALF, STICKY)


def tones(y):
    with pyro.plate("time", y.shape[0], dim=-2):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
        with pyro.plate("tones", 3, dim=-1):
            pyro.sample("y", dist.Bernoulli((z @ TONES).squeeze(-2)), obs=y)


def test_a_chain_runs_over_the_plate_of_time_wherever_it_is(generator):
    y = torch.bernoulli(torch.full((6, 3), 0.4, dtype=F64), generator=generator)
    log_likelihood = (y[:, None] * TONES.log() + (1 - y[:, None]) * (1 - TONES).log()).sum(-1)
    expected = hmm_posterior(HALF, STICKY, log_likelihood)
    found = BayesFilter(Enumeration(), CHAIN, output="smoothed")(tones, y)
    torch.testing.assert_close(found.logits().squeeze(-2), expected.log_smoothed)
    torch.testing.assert_close(found.log_evidence.sum(), expected.log_evidence.sum())


@pytest.mark.parametrize("order", ["time first", "time last"])
def test_time_and_sequences_may_change_places(order, generator):
    x = torch.randn(4, 5, dtype=F64, generator=generator)  # sequences, time
    dims = {"sequence": -2, "time": -1} if order == "time last" else {"sequence": -1, "time": -2}

    def model(x):
        sequences = pyro.plate("sequence", 4, dim=dims["sequence"])
        with sequences, pyro.plate("time", 5, dim=dims["time"]):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
            pyro.sample("x", dist.Normal(z @ torch.tensor([-1.0, 1.0], dtype=F64), 1.0), obs=x)

    data = x if order == "time last" else x.T
    expected = hmm_posterior(
        HALF,
        STICKY,
        dist.Normal(torch.tensor([-1.0, 1.0], dtype=F64), 1.0).log_prob(x.unsqueeze(-1)),
    )
    found = BayesFilter(Enumeration(), CHAIN)(model, data).logits()
    found = found if order == "time last" else found.transpose(0, 1)
    torch.testing.assert_close(found, expected.log_filtered)


def test_several_candidates_for_time_are_listed(generator):
    def model(x):
        with pyro.plate("row", 3, dim=-2), pyro.plate("column", 4, dim=-1):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
            pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0]), 1.0), obs=x)

    x = torch.randn(3, 4, generator=generator)
    with pytest.raises(TaskSiteError, match=r"row.*column.*time="):
        BayesFilter(Enumeration(), CHAIN)(model, x)
    found = BayesFilter(Enumeration(), CHAIN, time="row")(model, x)
    assert found.logits().shape == (3, 4, 2)
    with pytest.raises(TaskSiteError, match="hours"):
        BayesFilter(Enumeration(), CHAIN, time="hours")(model, x)


def test_a_transition_for_each_step_is_not_taken_for_one_of_each_sequence():
    A = torch.tensor([[[0.9, 0.1], [0.1, 0.9]], [[0.1, 0.9], [0.9, 0.1]], [[0.5, 0.5], [0.5, 0.5]]])
    with pytest.raises(ValueError, match="log_transition"):
        hmm_posterior(HALF.float(), A.log(), torch.zeros(3, 3, 2))
    with pytest.raises(ValueError, match="log_transition"):
        hmm_posterior(HALF.float(), A.log(), torch.zeros(5, 3, 2))


# The shape of each log probability


MEANS = torch.tensor([0.0, 1.0])


def mixture(x):
    with pyro.plate("trial", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(torch.tensor([0.3, 0.7])), infer=TASK)
        pyro.sample("x", dist.Normal(z @ MEANS, 1.0), obs=x)


def test_a_column_of_data_is_refused_and_a_row_is_right():
    x = torch.randn(4, generator=torch.Generator().manual_seed(0))
    x = torch.tensor([1.5410, -0.2934, -2.1788, 0.5684])  # torch.randn(4) under seed 0
    right = torch.tensor([0.8686, 0.5135, 0.1381, 0.7142])
    torch.testing.assert_close(Enumeration()(mixture, x).probs()[:, 1], right, atol=1e-3, rtol=0)
    for infer in (Enumeration(), OneStepGradient()):
        with pytest.raises(TaskSiteError, match=r"site 'x'.*\(4, 4\).*\(4,\)"):
            infer(mixture, x[:, None])
    assert not check_model(mixture, x[:, None]).ok


def forgotten_plate(x):
    z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)).expand([len(x)]), infer=TASK)
    pyro.sample("x", dist.Normal(z @ MEANS, 1.0), obs=x)


def plate_on_another_dimension(x):
    with pyro.plate("trial", len(x), dim=-2):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
        pyro.sample("x", dist.Normal(z @ MEANS, 1.0), obs=x)


def forgotten_to_event(x):
    with pyro.plate("trial", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
        pyro.sample("x", dist.Normal((z @ MEANS).unsqueeze(-1).expand(3, 3), 1.0), obs=x)


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (forgotten_plate, torch.randn(3)),
        (plate_on_another_dimension, torch.randn(3)),
        (forgotten_to_event, torch.randn(3, 3)),
    ],
)
def test_a_dimension_without_a_plate_is_refused(model, x):
    for infer in (Enumeration(), OneStepGradient()):
        with pytest.raises(TaskSiteError, match="plate"):
            infer(model, x)
    assert not check_model(model, x).ok


@pytest.mark.parametrize("what", ["data", "task"])
def test_two_sites_of_one_name_are_refused(what):
    def model(x):
        for t in range(len(x)):
            name = f"z{t}" if what == "data" else "z"
            z = pyro.sample(name, dist.OneHotCategorical(torch.ones(2)), infer=TASK)
            y = "x" if what == "data" else f"x{t}"
            pyro.sample(y, dist.Normal(z @ torch.tensor([-1.0, 1.0]), 1.0), obs=x[t])

    x = torch.tensor([0.3, 0.5, 0.9, 0.2])
    for infer in (Enumeration(), OneStepGradient()):
        with pytest.raises(TaskSiteError, match=r"two sites.*(\['x'\]|'x'|'z')"):
            infer(model, x)


# One account of the evidence


class Regularised(nn.Module):
    """Means with a Gaussian prior, by a factor outside of the plate."""

    def __init__(self):
        super().__init__()
        self.means = nn.Parameter(torch.tensor([-0.5, 0.5], dtype=F64))

    def forward(self, x):
        pyro.factor("prior", -50 * (self.means**2).sum())
        with pyro.plate("trial", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
            pyro.sample("x", dist.Normal(z @ self.means, 1.0), obs=x)


def test_a_prior_on_the_weights_counts_in_the_objective_of_em(generator):
    x = torch.randn(50, dtype=F64, generator=generator) * 0.5 + 0.2
    model = Regularised()
    em = GradientEM(model, Enumeration(), torch.optim.SGD(model.parameters(), 0.1), monotone=True)
    with warnings.catch_warnings():  # the optimum is a collapse: both means agree
        warnings.simplefilter("ignore", CollapseWarning)
        objectives = [em.step(x) for _ in range(100)]
    assert all(b >= a - 1e-12 for a, b in pairwise(objectives))
    assert em.history[-1].bound <= em.history[-1].log_evidence + 1e-9
    # The optimum is where both means meet: sum of x / (2 * 100 + n) for each half of the weight.
    assert model.means.detach().diff().abs().item() < 0.01
    expected = 0.5 * x.sum() / (100 + 0.5 * len(x))
    torch.testing.assert_close(model.means.detach().mean(), expected, atol=1e-3, rtol=0)


def test_a_datum_outside_the_plate_is_in_the_evidence():
    def model(x, y):
        pyro.sample("y", dist.Normal(torch.tensor(0.0), 1.0), obs=y)
        mixture(x)

    x, y = torch.randn(3), torch.tensor(2.0)
    without, found = Enumeration()(mixture, x), Enumeration()(model, x, y)
    torch.testing.assert_close(found.log_evidence, without.log_evidence)
    more = dist.Normal(0.0, 1.0).log_prob(y).item()
    assert found.total_log_evidence == pytest.approx(without.total_log_evidence + more)


def test_a_likelihood_by_factors_alone_counts_its_elements(generator):
    means = torch.tensor([0.0, 0.25, 1.0], dtype=F64)

    def model(x):
        with pyro.plate("trial", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3, dtype=F64)), infer=TASK)
            pyro.factor("x", -((x - z @ means) ** 2) / 0.02)

    x = torch.rand(100, dtype=F64, generator=generator)
    one_step, exact = OneStepGradient()(model, x), Enumeration()(model, x)
    calibrated = OneStepGradient(calibration=calibrate(one_step, exact))(model, x)
    assert (calibrated.probs() - exact.probs()).abs().max() < 1e-5


def test_em_of_a_likelihood_by_factors_moves_and_stays_finite(generator):
    class Factors(nn.Module):
        def __init__(self):
            super().__init__()
            self.means = nn.Parameter(torch.tensor([-0.5, 0.5]))

        def forward(self, x):
            with pyro.plate("trial", len(x)):
                z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
                pyro.factor("x", -((x - z @ self.means) ** 2) / 2)

    model, x = Factors(), torch.tensor([-2.0, -1.9, 1.9, 2.0])
    em = GradientEM(model, Enumeration(), torch.optim.SGD(model.parameters(), 0.5))
    for _ in range(200):
        em.step(x)
    torch.testing.assert_close(model.means.data, torch.tensor([-1.95, 1.95]), atol=0.05, rtol=0)


@pytest.mark.parametrize("sigma", [0.03, 0.003, 0.001])
def test_enumeration_is_normalised_where_log_likelihoods_are_large(sigma, generator):
    x = torch.rand(20, 784, generator=generator)
    means = torch.rand(784, generator=generator).expand(10, 784)

    def model(x):
        with pyro.plate("image", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(10)), infer=TASK)
            pyro.sample("x", dist.Normal(z @ means, sigma).to_event(1), obs=x)

    q = Enumeration()(model, x)
    torch.testing.assert_close(q.probs().sum(-1), torch.ones(20), atol=1e-6, rtol=0)
    gbi.metrics.agreement(q, q)


def test_integers_in_a_stream_are_observations():
    from gbi_pyro.metrics.prequential import SwitchingMeans, prequential_code

    found = prequential_code(
        SwitchingMeans(2, sigma=0.3, grid=(0.0, 1.0)), torch.tensor([[0, 1, 0]])
    )
    expected = torch.tensor([[0.4043, 2.6369, 1.6853]], dtype=found.dtype)
    torch.testing.assert_close(found.reshape(1, 3), expected, atol=1e-4, rtol=0)


# Broadcasting and independence


@pytest.mark.parametrize("chunk_size", [None, 2, 3, "auto"])
def test_a_model_that_does_not_broadcast_is_right_or_refused(chunk_size):
    def model(x):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3)), infer=TASK)
        with pyro.plate("obs", len(x)):
            mean = (z * torch.tensor([-1.0, 0.0, 2.0])).sum()
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    x = torch.tensor([1.8, 2.2, 1.9])
    if chunk_size in (None, "auto"):
        found = Enumeration(chunk_size=chunk_size)(model, x).probs()
        torch.testing.assert_close(found, torch.tensor([0.0, 0.003, 0.997]), atol=5e-4, rtol=0)
    else:
        with pytest.raises(TaskSiteError, match="broadcast"):
            Enumeration(chunk_size=chunk_size)(model, x)


def test_influence_after_one_task_only_is_found():
    def model(x):
        with pyro.plate("time", 3):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3)), infer=TASK)
            carried = torch.nn.functional.pad(z[..., :-1, 1], (1, 0))
            mean = z @ torch.tensor([0.0, 0.5, 1.0]) + carried
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    x = torch.tensor([0.3, 1.2, 0.4])
    with pytest.raises(TaskSiteError, match="influence each other"):
        Enumeration()(model, x)
    messages = [str(f) for f in check_model(model, x).findings]
    assert not any("none" in m and "influence" in m for m in messages)


def test_a_leak_between_long_documents_is_found(generator):
    x = torch.randn(4, 1000, generator=generator)

    def model(x):
        with pyro.plate("document", 4):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
            own = z @ torch.tensor([0.0, 0.01])
            leak = 0.01 * torch.roll(z[..., 1], 1, -1)
            pyro.sample(
                "x",
                dist.Normal((own + leak).unsqueeze(-1), 1.0).expand([4, 1000]).to_event(1),
                obs=x,
            )

    with pytest.raises(TaskSiteError, match="influence each other"):
        Enumeration()(model, x)


def test_a_coupling_beside_a_large_constant_is_found(generator):
    x = torch.randn(4, dtype=F64, generator=generator)

    def model(x):
        with pyro.plate("element", 4):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
            pyro.factor("constant", torch.full((4,), -1e6, dtype=F64))
            coupling = 300 * z[..., 1] * torch.roll(z[..., 1], 1, -1)
            pyro.factor("coupling", coupling)
            pyro.sample("x", dist.Normal(z @ MEANS.double(), 1.0), obs=x)

    with pytest.raises(TaskSiteError, match="influence each other"):
        Enumeration()(model, x)


class Stochastic(nn.Module):
    def __init__(self, layer):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Linear(2, 8), layer, nn.Linear(8, 2))

    def forward(self, x):
        with pyro.plate("trial", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
            pyro.sample("x", dist.Normal(self.network(z), 0.5).to_event(1), obs=x)


@pytest.mark.parametrize("layer", [lambda: nn.Dropout(0.5), lambda: nn.BatchNorm1d(8)])
@pytest.mark.parametrize("infer", [Enumeration(), OneStepGradient()])
def test_layers_in_training_mode_are_refused_and_in_eval_mode_taken(layer, infer, generator):
    model, x = Stochastic(layer()), torch.randn(5, 2, generator=generator)
    with pytest.raises(TaskSiteError, match=r"eval\(\)"):
        infer(model, x)
    assert infer(model.eval(), x).probs().shape == (5, 2)


def test_a_parameter_that_is_made_at_each_run_is_refused():
    def model(x):
        w = pyro.param("w", lambda: torch.randn(2))
        with pyro.plate("trial", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
            pyro.sample("x", dist.Normal(z @ w, 1.0), obs=x)

    x = torch.randn(3)
    with pytest.raises(TaskSiteError, match=r"'w'.*run the model once"):
        Enumeration()(model, x)
    pyro.param("w", torch.randn(2))
    Enumeration()(model, x)


# Chains: joint draws, and steps that are masked


class Sessions(nn.Module):
    """Sessions of one mean a task, padded to one length."""

    def __init__(self, means=(-0.5, 0.5)):
        super().__init__()
        self.means = nn.Parameter(torch.tensor(means, dtype=F64))

    def forward(self, x, real):
        n, T = x.shape
        with pyro.plate("session", n, dim=-2), pyro.plate("time", T, dim=-1):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
            with pyro.poutine.mask(mask=real):
                pyro.sample("x", dist.Normal(z @ self.means, 0.3), obs=x)


def padded(generator, T):
    """Two sessions, the first of 10 steps and the second of 7, with a missing step."""
    x = torch.randn(2, 10, dtype=F64, generator=generator) * 0.3 + 0.5
    x[0, 5:] -= 1.0
    real = torch.arange(10) < torch.tensor([[10], [7]])
    real[0, 4] = False
    pad = (0, T - 10)
    return nn.functional.pad(x, pad), nn.functional.pad(real, pad)


@pytest.mark.parametrize(
    "prior",
    [
        gbi.TaskChain.sticky(2, 0.2, learn_transition="full", learn_initial=True),
        gbi.TaskChain.sticky(2, 0.2, learn_transition="hazard", stay=3.0, switch=1.0),
        gbi.TaskPrior.uniform(2, learn=True),
    ],
)
@pytest.mark.parametrize("m_step", ["expected", "hard"])
def test_padding_changes_nothing_that_em_learns(prior, m_step, generator):
    x, real = padded(generator, 10)

    def learned(T):
        model = Sessions()
        optim = torch.optim.SGD(model.parameters(), 0.5)
        em = GradientEM(model, Enumeration(), optim, m_step, prior=prior)
        pad = (0, T - 10)
        args = nn.functional.pad(x, pad), nn.functional.pad(real, pad)
        objectives = torch.tensor([em.step(*args) for _ in range(5)], dtype=F64)
        report = em.collapse(*args)
        rows = em.prior.log_transition if hasattr(em.prior, "hazard") else em.prior.log_probs
        return objectives, model.means.detach(), rows, report.usage, report.gaps

    for short, long in zip(learned(10), learned(200), strict=True):
        torch.testing.assert_close(long, short)


def test_collapse_does_not_count_padding(generator):
    x, real = padded(generator, 200)
    with torch.no_grad():
        x = torch.where(real, x.abs() + 0.5, 0.0)
    em = GradientEM(
        model := Sessions((-5.0, 0.8)),
        Enumeration(),
        torch.optim.SGD(model.parameters(), 0.0),
        prior=gbi.TaskChain.sticky(2, 0.1),
    )
    report = em.collapse(x, real)
    assert report.usage[0] < 1e-3
    assert report.unused == [0]


def test_draws_of_a_smoothed_chain_are_paths_and_those_of_a_filter_are_not(generator):
    x, real = padded(generator, 12)
    smoothed = BayesFilter(Enumeration(), CHAIN, output="smoothed")(Sessions(), x, real)
    drawn = smoothed.sample(4000, generator=generator)["z"]
    assert drawn.shape == (4000, 2, 12)
    share = drawn.double().mean(0)
    tolerance = 5 * (0.25 / 4000) ** 0.5
    assert (share - smoothed.probs()[..., 1]).abs().max() < tolerance
    found = hmm_posterior(HALF, STICKY, gbi.log_likelihoods(Enumeration()(Sessions(), x, real)))
    pairs = log_pairwise(found, STICKY).exp()
    expected = 1 - pairs.diagonal(dim1=-2, dim2=-1).sum(-1)  # (2, 11)
    switches = (drawn.diff(dim=-1) != 0).double().mean(0)
    assert (switches - expected).abs().max() < tolerance
    assert BayesFilter(Enumeration(), CHAIN)(Sessions(), x, real).joint is None


def test_padding_is_what_comes_after_the_last_observed_step(generator):
    x, real = padded(generator, 12)
    found = BayesFilter(Enumeration(), CHAIN, output="smoothed")(Sessions(), x, real)
    expected = torch.arange(12) >= torch.tensor([[10], [7]])
    assert torch.equal(found.padding(), expected)
    assert len(found.to_dataframe()) == 17
    alone = Enumeration()(Sessions(), x, real)  # without a chain a missing step is none
    assert torch.equal(alone.padding(), ~real)
    nothing = Enumeration()(Sessions(), x, torch.zeros_like(real))
    assert not nothing.padding().any()


# Plates beside each other, under one task only, and in a loop


def test_plates_side_by_side_are_summed_by_name():
    """Two pairs and three of them, beside each other on one dimension: by hand, element by element.

    p(b) = .45 * p(b | a = 0) + .55 * p(b | a = 1) for each.
    """
    share = torch.tensor([0.45, 0.55], dtype=F64)
    table = torch.tensor([[0.6, 0.4], [0.4, 0.6]], dtype=F64)

    def model(b, d):
        for plate, task, data, x in (("first", "a", "b", b), ("second", "c", "d", d)):
            with pyro.plate(plate, len(x), dim=-1):
                z = pyro.sample(task, dist.OneHotCategorical(share), infer=TASK)
                pyro.sample(data, dist.Categorical(z @ table), obs=x)

    b, d = torch.tensor([0, 1]), torch.tensor([0, 0, 1])
    for infer in (Enumeration(), Enumeration(chunk_size=2)):
        found = infer(model, b, d)
        each = share @ table
        assert found.total_log_evidence == pytest.approx(
            each.log()[torch.cat([b, d])].sum().item(), abs=1e-12
        )
        expected = share * table[:, d].T
        torch.testing.assert_close(found.probs("c"), expected / expected.sum(-1, keepdim=True))


def test_a_plate_under_the_second_task_only():
    def model(x):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
        if z[..., 1].all():
            with pyro.plate("trial", len(x)):
                pyro.sample("x", dist.Normal(1.0, 1.0), obs=x)
        else:
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([len(x)]).to_event(1), obs=x)

    x = torch.tensor([0.2, 0.9, 1.4])
    log_odds = (dist.Normal(1.0, 1.0).log_prob(x) - dist.Normal(0.0, 1.0).log_prob(x)).sum()
    torch.testing.assert_close(Enumeration()(model, x).probs()[1], log_odds.sigmoid())


def test_a_task_under_another_task_only_is_refused():
    def model(x):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
        mean = 0.0
        if z[..., 1].all():
            mean = pyro.sample("w", dist.OneHotCategorical(torch.ones(2)), infer=TASK) @ MEANS
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    with pytest.raises(TaskSiteError, match=r"\['z'\] under the first tasks and \['z', 'w'\]"):
        Enumeration()(model, torch.tensor(0.3))


def test_a_loop_over_a_plate_is_advised_to_be_one():
    def model(x):
        for i in pyro.plate("trial", len(x)):
            z = pyro.sample(f"z{i}", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
            pyro.sample(f"x{i}", dist.Normal(z @ MEANS, 1.0), obs=x[i])

    x = torch.randn(5)
    expected = Enumeration()(mixture_with_even_prior, x).probs()
    found = Enumeration()(model, x)
    torch.testing.assert_close(torch.stack([found.probs(f"z{i}") for i in range(5)]), expected)
    with pytest.raises(TaskSiteError, match=r"\(20 sites\).*in place of a loop"):
        Enumeration()(model, torch.randn(20))


def mixture_with_even_prior(x):
    with pyro.plate("trial", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
        pyro.sample("x", dist.Normal(z @ MEANS, 1.0), obs=x)
