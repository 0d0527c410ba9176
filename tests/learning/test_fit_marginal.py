"""Fits of marginals: closed forms, starts, standard errors, errors."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor

from gbi_pyro.inference import ChainPosterior, LearnedChain, hmm_posterior, marginalize
from gbi_pyro.learning import fit_marginal

F64 = torch.float64


def rates(x: Tensor) -> None:
    rate = pyro.param("rate", torch.tensor(2.0, dtype=F64), constraint=constraints.positive)
    with pyro.plate("trial", len(x)):
        pyro.sample("x", dist.Poisson(rate), obs=x)


def test_a_rate_has_its_closed_form_and_its_standard_error(generator: torch.Generator) -> None:
    x = torch.poisson(torch.full((200,), 7.0, dtype=F64), generator=generator)
    fit = fit_marginal(rates, x, starts=3)
    torch.testing.assert_close(fit.estimates["rate"], x.mean(), atol=1e-5, rtol=0)
    expected = (x.mean() / 200).sqrt()  # of a Poisson mean, by the delta rule through its log
    torch.testing.assert_close(fit.standard_errors()["rate"], expected, rtol=1e-4, atol=0)
    log_evidence = dist.Poisson(x.mean()).log_prob(x).sum().item()
    assert fit.log_evidence == pytest.approx(log_evidence, abs=1e-6)
    assert (fit.num_agree, fit.converged, fit.num_parameters) == (3, True, 1)
    assert fit.aic == pytest.approx(-2 * log_evidence + 2, abs=1e-5)
    assert fit.bic == pytest.approx(-2 * log_evidence + math.log(200), abs=1e-5)
    torch.testing.assert_close(pyro.param("rate").detach(), fit.estimates["rate"])


def test_a_row_of_probabilities_has_one_parameter_less(generator: torch.Generator) -> None:
    x = torch.multinomial(torch.tensor([0.2, 0.3, 0.5]), 500, True, generator=generator)

    def model(x: Tensor) -> None:
        p = pyro.param("p", torch.full((3,), 1 / 3, dtype=F64), constraint=constraints.simplex)
        with pyro.plate("trial", len(x)):
            pyro.sample("x", dist.Categorical(p), obs=x)

    fit = fit_marginal(model, x, starts=1)
    share = torch.bincount(x, minlength=3).double() / 500
    torch.testing.assert_close(fit.estimates["p"], share, atol=1e-4, rtol=0)
    expected = (share * (1 - share) / 500).sqrt()
    torch.testing.assert_close(fit.standard_errors()["p"], expected, rtol=1e-2, atol=0)
    assert fit.num_parameters == 2


def test_a_latent_site_is_maximised_with_its_density(generator: torch.Generator) -> None:
    x = torch.randn(20, dtype=F64, generator=generator) + 2

    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros((), dtype=F64), 0.5))
        with pyro.plate("trial", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    fit = fit_marginal(model, x, starts=2)
    precision = 20 + 1 / 0.5**2
    torch.testing.assert_close(fit.estimates["mean"], x.sum() / precision, atol=1e-5, rtol=0)
    expected = torch.tensor(precision, dtype=F64) ** -0.5
    torch.testing.assert_close(fit.standard_errors()["mean"], expected, rtol=1e-5, atol=0)


def test_starts_are_drawn_as_asked_and_the_best_is_kept(generator: torch.Generator) -> None:
    x = torch.randn(60, dtype=F64, generator=generator)
    x[::2] += 8

    def model(x: Tensor) -> None:
        means = pyro.param("means", torch.zeros(2, dtype=F64))
        with pyro.plate("time", len(x)):
            prior = dist.OneHotCategorical(torch.ones(2, dtype=F64))
            z = pyro.sample("z", prior, infer={"task": True})
            pyro.sample("x", dist.Normal(z @ means, 1.0), obs=x)

    def draw(generator: torch.Generator) -> dict[str, Tensor]:
        return {"means": 8 * torch.rand(2, generator=generator, dtype=F64)}

    fit = fit_marginal(marginalize(model, LearnedChain(2)), x, starts=4, draw_start=draw)
    assert fit.objectives.shape == (4,)
    assert fit.log_evidence == pytest.approx(fit.objectives.max().item())
    assert fit.objectives[0] < fit.log_evidence - 50  # from equal means none can leave
    low, high = fit.estimates["means"].sort().values
    assert abs(low) < 5 / 30**0.5
    assert abs(high - 8) < 5 / 30**0.5
    again = fit_marginal(marginalize(model, LearnedChain(2)), x, starts=1)
    assert again.log_evidence == pytest.approx(fit.log_evidence, abs=1e-4)  # where it was left


def test_a_parameter_without_constraint_stays_inside_the_support() -> None:
    u = torch.linspace(-1, 1, 21, dtype=F64)

    def model(y: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor([0.1, 0.2], dtype=F64))  # at most 1 / 2
        with pyro.plate("time", len(y)):
            prior = dist.OneHotCategorical(torch.ones(2, dtype=F64))
            z = pyro.sample("z", prior, infer={"task": True})
            pyro.sample("y", dist.Bernoulli(0.5 + (z @ slope) * u), obs=y)

    # Without checks torch cuts probabilities above 1 off, and the steepest slope wins.
    fit = fit_marginal(marginalize(model), (u > 0).to(F64), starts=2, max_iter=30)
    assert fit.estimates["slope"].max() <= 0.5
    steepest = dist.Bernoulli(0.5 + 0.5 * u).log_prob((u > 0).to(F64)).sum().item()
    assert fit.log_evidence <= steepest + 1e-9


def test_what_cannot_be_fitted_is_refused() -> None:
    x = torch.ones(3, dtype=F64)
    with pytest.raises(ValueError, match="starts should be at least 1"):
        fit_marginal(rates, x, starts=0)
    with pytest.raises(ValueError, match="no parameter to fit"):
        fit_marginal(lambda x: None, x)
    with pytest.raises(ValueError, match=r"draw_start should name parameters.*'rte'"):
        fit_marginal(rates, x, starts=2, draw_start=lambda g: {"rte": torch.ones(())})
    for start in (torch.ones(2), torch.tensor(-1.0)):  # another shape; outside
        with pytest.raises(ValueError, match=r"draw_start\['rate'\] should be of shape \(\)"):
            fit_marginal(rates, x, starts=2, draw_start=lambda g, start=start: {"rate": start})
    with pytest.raises(ValueError, match="finite log evidence"):
        fit_marginal(rates, torch.full((3,), 1e308, dtype=F64), starts=1)


def alone(x: Tensor) -> None:
    """One task, so that the marginal is a plain likelihood with a closed form."""
    rate = pyro.param("rate", torch.tensor(2.0, dtype=F64), constraint=constraints.positive)
    with pyro.plate("trial", len(x)):
        pyro.sample("z", dist.OneHotCategorical(torch.ones(1, dtype=F64)), infer={"task": True})
        pyro.sample("x", dist.Poisson(rate), obs=x)


def test_the_sandwich_is_right_where_the_model_is_wrong(generator: torch.Generator) -> None:
    mixed = torch.where(torch.rand(400, generator=generator) < 0.5, 2.0, 12.0).double()
    x = torch.poisson(mixed, generator=generator)  # much wider than a Poisson of its mean
    fit = fit_marginal(marginalize(alone), x, starts=1)
    n, variance = len(x), x.var(correction=0)
    torch.testing.assert_close(
        fit.standard_errors()["rate"], (x.mean() / n).sqrt(), rtol=1e-4, atol=0
    )
    robust = fit.standard_errors(robust=True)["rate"]  # of a mean, whatever the law
    torch.testing.assert_close(robust, (variance / n).sqrt(), rtol=1e-4, atol=0)


def test_the_sandwich_takes_sequences_as_they_come(generator: torch.Generator) -> None:
    """Steps that repeat within a sequence say less than their number: the cluster's variance."""
    level = 5 * torch.rand((60, 1), generator=generator, dtype=F64)
    x = torch.poisson((3 + level).expand(60, 20), generator=generator)

    def model(x: Tensor) -> None:
        rate = pyro.param("rate", torch.tensor(2.0, dtype=F64), constraint=constraints.positive)
        with pyro.plate("session", 60, dim=-2), pyro.plate("time", 20, dim=-1):
            one = dist.OneHotCategorical(torch.ones(1, dtype=F64))
            pyro.sample("z", one, infer={"task": True})
            pyro.sample("x", dist.Poisson(rate), obs=x)

    fit = fit_marginal(marginalize(model, LearnedChain(1)), x, starts=1)
    by_session = x.mean(-1).var(correction=0) / 60
    robust = fit.standard_errors(robust=True)["rate"]
    torch.testing.assert_close(robust, by_session.sqrt(), rtol=1e-4, atol=0)


def test_a_sandwich_of_another_model_is_refused() -> None:
    fit = fit_marginal(rates, torch.ones(3, dtype=F64), starts=1)
    with pytest.raises(TypeError, match="expected a fit of marginalize"):
        fit.standard_errors(robust=True)
    with pytest.raises(TypeError, match="expected a fit of marginalize"):
        fit.infer(torch.ones(3, dtype=F64))


def blocks(x: Tensor) -> None:
    means = pyro.param("means", torch.tensor([-1.0, 1.0], dtype=F64))
    with pyro.plate("time", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer={"task": True})
        pyro.sample("x", dist.Normal(z @ means, 1.0), obs=x)


def test_a_fit_infers_the_tasks_of_old_and_new_data(generator: torch.Generator) -> None:
    true = (torch.arange(300) // 25) % 2
    x = 4 * true + torch.randn(300, generator=generator, dtype=F64)
    fit = fit_marginal(marginalize(blocks, LearnedChain(2)), x[:200], starts=2)
    found = fit.infer(x[:200])
    assert found.total_log_evidence == pytest.approx(fit.log_evidence, abs=1e-8)
    fit_marginal(marginalize(blocks, LearnedChain(2)), -x, starts=1)  # moves the parameters
    torch.testing.assert_close(fit.infer(x[:200]).probs(), found.probs())
    pyro.clear_param_store()
    torch.testing.assert_close(fit.infer(x[:200]).probs(), found.probs())
    new = fit.infer(x[200:], output="filtered")
    expected = hmm_posterior(
        fit.estimates["chain_initial"].log(),
        fit.estimates["chain_transition"].log(),
        dist.Normal(fit.estimates["means"], 1.0).log_prob(x[200:, None]),
    )
    torch.testing.assert_close(new.logits(), expected.log_filtered)
    assert isinstance(new, ChainPosterior)
    torch.testing.assert_close(new.step_log_evidence, expected.step_log_evidence)
    assert len(pyro.get_param_store()) == 0


def test_a_network_is_inferred_with_the_weights_of_its_fit(generator: torch.Generator) -> None:
    network = torch.nn.Linear(2, 1, dtype=F64)

    def model(x: Tensor) -> None:
        pyro.module("network", network)
        with pyro.plate("time", len(x)):
            prior = dist.OneHotCategorical(torch.ones(2, dtype=F64))
            z = pyro.sample("z", prior, infer={"task": True})
            pyro.sample("x", dist.Normal(network(z)[:, 0], 1.0), obs=x)

    x = torch.randn(50, generator=generator, dtype=F64) + 3 * (torch.arange(50) // 10 % 2)
    fit = fit_marginal(marginalize(model, LearnedChain(2)), x, starts=2)
    found = fit.infer(x).probs()
    torch.nn.init.zeros_(network.weight)
    torch.testing.assert_close(fit.infer(x).probs(), found)
    assert not network.weight.any()  # left as it was
