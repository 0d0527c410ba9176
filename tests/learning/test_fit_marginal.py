"""Fits of marginals: closed forms, starts, standard errors, errors."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor

from gbi_pyro.inference import LearnedChain, marginalize
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


def test_what_cannot_be_fitted_is_refused() -> None:
    x = torch.ones(3, dtype=F64)
    with pytest.raises(ValueError, match="starts should be at least 1"):
        fit_marginal(rates, x, starts=0)
    with pytest.raises(ValueError, match="no parameter to fit"):
        fit_marginal(lambda x: None, x)
    with pytest.raises(ValueError, match=r"draw_start should name parameters.*'rte'"):
        fit_marginal(rates, x, starts=2, draw_start=lambda g: {"rte": torch.ones(())})
    with pytest.raises(ValueError, match="finite log evidence"):
        fit_marginal(rates, torch.full((3,), 1e308, dtype=F64), starts=1)
