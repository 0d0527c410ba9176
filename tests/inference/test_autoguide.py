import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Importance, Predictive, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor

from gbi_pyro import AutoTaskGuide, Enumeration, OneStepGradient
from gbi_pyro.models import SequenceLSTM

F64 = torch.float64
Model = Callable[..., Any]


def mixture(means: Tensor, sigma: float, log_prior: Tensor | None = None) -> Model:
    logits = torch.zeros_like(means) if log_prior is None else log_prior

    def model(x: Tensor | None, size: int = 0) -> Tensor:
        with pyro.plate("sequence", size if x is None else len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(logits=logits), infer={"task": True})
            return pyro.sample("x", dist.Normal(z @ means, sigma), obs=x)

    return model


def subsampled(x: Tensor, indices: Tensor) -> None:
    """Data come whole and the plate says which of them: x[elements]."""
    with pyro.plate("sequence", len(x), subsample=indices) as elements:
        prior = dist.OneHotCategorical(torch.tensor([0.3, 0.7], dtype=x.dtype))
        z = pyro.sample("z", prior, infer={"task": True})
        means = torch.tensor([0.2, 0.8], dtype=x.dtype)
        pyro.sample("x", dist.Normal(z @ means, 0.2), obs=x[elements])


def log_evidence(x: Tensor, means: Tensor, sigma: float, log_prior: Tensor) -> Tensor:
    """log p(x_i), written out, (N,)."""
    log_lik = dist.Normal(means, sigma).log_prob(x.unsqueeze(-1))
    return (log_lik + log_prior.log_softmax(-1)).logsumexp(-1)


TWO = torch.tensor([0.2, 0.8], dtype=F64)
UNIFORM = torch.zeros(2, dtype=F64)


# SVI


@pytest.mark.parametrize("infer", [OneStepGradient(), Enumeration()])
@pytest.mark.parametrize("enumerated", [True, False])
def test_svi_reaches_the_maximum_likelihood(
    infer: OneStepGradient | Enumeration, enumerated: bool, generator: torch.Generator
) -> None:
    """With the exact E-step of two tasks this is EM; the maximum is found apart, by LBFGS."""
    sigma = 0.15
    z = torch.randint(2, (200,), generator=generator)
    x = torch.tensor([0.1, 0.7], dtype=F64)[z]
    x = x + sigma * torch.randn(200, generator=generator, dtype=F64)
    start = torch.tensor([0.3, 0.5], dtype=F64)

    best = start.clone().requires_grad_()
    lbfgs = torch.optim.LBFGS([best], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        lbfgs.zero_grad()
        loss = -log_evidence(x, best, sigma, UNIFORM).sum()
        loss.backward()
        return loss

    lbfgs.step(closure)

    def model(x: Tensor) -> None:
        means = pyro.param("means", start)
        mixture(means, sigma)(x)

    guide: Model = AutoTaskGuide(model, infer)
    if enumerated:
        guide = config_enumerate(guide)
    elbo = TraceEnum_ELBO(max_plate_nesting=1) if enumerated else Trace_ELBO()
    optim = pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.95})
    svi = SVI(model, guide, optim, elbo)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        losses = [svi.step(x) for _ in range(120)]
    # Enumerated, only the optimiser's last rate, .05 * .95^120 = 1e-4, is left; drawn tasks add
    # the standard error of a mean, sigma / sqrt(N / K) = .015.
    tolerance = 1e-3 if enumerated else 0.02
    assert set(pyro.get_param_store().keys()) == {"means"}
    torch.testing.assert_close(pyro.param("means").detach(), best.detach(), rtol=0, atol=tolerance)
    if enumerated:  # the bound is tight
        expected = -log_evidence(x, best.detach(), sigma, UNIFORM).sum()
        assert losses[-1] == pytest.approx(float(expected), rel=1e-4)


def test_the_enumerated_bound_of_an_exact_posterior_is_the_log_evidence() -> None:
    x = torch.tensor([0.1, 0.45, 0.9], dtype=F64)
    prior = torch.tensor([0.3, 0.7], dtype=F64).log()
    model = mixture(TWO, 0.2, prior)
    guide = config_enumerate(AutoTaskGuide(model))
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, x)
    assert loss == pytest.approx(-float(log_evidence(x, TWO, 0.2, prior).sum()), abs=1e-10)


def test_the_bound_of_a_biased_posterior_is_lower_by_its_kl() -> None:
    """log p(x) - ELBO = KL(q || exact), with one step of five tasks."""
    means, x = torch.linspace(0, 1, 5, dtype=F64), torch.tensor([0.1, 0.45, 0.9], dtype=F64)
    model = mixture(means, 0.3)
    guide = config_enumerate(AutoTaskGuide(model))
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, x)
    q, p = OneStepGradient()(model, x).logits(), Enumeration()(model, x).logits()
    kl = float((q.exp() * (q - p)).sum())
    evidence = float(log_evidence(x, means, 0.3, torch.zeros(5, dtype=F64)).sum())
    assert kl > 0.01
    assert evidence + loss == pytest.approx(kl, abs=1e-10)


# Importance sampling


def test_with_the_exact_posterior_every_importance_weight_is_the_evidence() -> None:
    x = torch.tensor([0.1, 0.45, 0.9, 0.5], dtype=F64)
    prior = torch.tensor([0.3, 0.7], dtype=F64).log()
    model = mixture(TWO, 0.3, prior)
    for infer in (Enumeration(), OneStepGradient()):
        sampler = Importance(model, AutoTaskGuide(model, infer), num_samples=20).run(x)
        weights = torch.stack([torch.as_tensor(w) for w in sampler.log_weights])
        expected = log_evidence(x, TWO, 0.3, prior).sum().expand(20)
        torch.testing.assert_close(weights, expected, rtol=0, atol=1e-10)


def test_importance_corrects_the_evidence_of_a_biased_one_step() -> None:
    """E_q[p(x, z) / q(z)] = p(x). Its variance is a finite sum, so the standard error is exact."""
    means, x = torch.linspace(0, 1, 5, dtype=F64), torch.tensor([0.3], dtype=F64)
    model, draws = mixture(means, 0.2), 400
    q, p = OneStepGradient()(model, x).logits()[0], Enumeration()(model, x).logits()[0]
    assert float((p.exp() * (p - q)).sum()) > 0.1  # biased indeed
    variance = float((2 * p - q).exp().sum() - 1)  # of weights / p(x)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sampler = Importance(model, AutoTaskGuide(model), num_samples=draws).run(x)
    truth = log_evidence(x, means, 0.2, torch.zeros(5, dtype=F64))
    ratio = torch.exp(sampler.get_log_normalizer() - truth)
    assert abs(float(ratio) - 1) <= 5 * math.sqrt(variance / draws)


# Predictive


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_draws_tasks_and_observations_from_the_posterior(parallel: bool) -> None:
    """Tasks are drawn with their posterior probability, and x given them: five standard errors."""
    x, draws = torch.tensor([0.35, 0.5, 0.62], dtype=F64), 400
    model = mixture(TWO, 0.2)
    guide = AutoTaskGuide(model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tasks = Predictive(model, guide=guide, num_samples=draws, parallel=parallel)(x)["x"]
        assert torch.equal(tasks.expand(draws, 3), x.expand(draws, 3))  # observed stays observed
        found = Predictive(
            model,
            guide=guide,
            num_samples=draws,
            parallel=parallel,
            return_sites=["z", "x"],
        )(x)["z"]
    assert found.shape == (draws, 3, 2)
    p = Enumeration()(model, x).probs()
    error = (p * (1 - p) / draws).sqrt()
    assert ((found.mean(0) - p).abs() <= 5 * error).all()


def test_predictive_through_a_network(generator: torch.Generator) -> None:
    network = SequenceLSTM(2, 8, generator=generator)
    x = torch.randn(3, 5, generator=generator)
    for parallel in (False, True):
        found = Predictive(
            network,
            guide=AutoTaskGuide(network),
            num_samples=4,
            parallel=parallel,
            return_sites=("z", "_RETURN"),
        )(x)
        assert found["z"].shape == (4, 3, 5, 2)
        means = torch.stack([network.mean(x, z) for z in found["z"]])
        torch.testing.assert_close(found["_RETURN"], means)


# Plates


def test_a_subsample_keeps_its_scale_and_its_elements() -> None:
    """With the exact posterior every draw gives the bound N / B * sum of the chosen evidences."""
    x = torch.tensor([0.1, 0.45, 0.9, 0.5, 0.3, 0.7], dtype=F64)
    indices = torch.tensor([4, 1])
    prior = torch.tensor([0.3, 0.7], dtype=F64).log()
    expected = 6 / 2 * float(log_evidence(x[indices], TWO, 0.2, prior).sum())
    guide = AutoTaskGuide(subsampled, Enumeration())
    for elbo, proposal in (
        (Trace_ELBO(), guide),
        (TraceEnum_ELBO(max_plate_nesting=1), config_enumerate(guide)),
    ):
        assert -elbo.loss(subsampled, proposal, x, indices) == pytest.approx(expected, abs=1e-10)


def test_tasks_of_sequences_and_of_steps_share_their_plates(generator: torch.Generator) -> None:
    def model(x: Tensor) -> None:
        prior = dist.OneHotCategorical(torch.tensor([0.3, 0.7], dtype=F64))
        with pyro.plate("sequence", x.shape[0], dim=-2):
            context = pyro.sample("context", prior, infer={"task": True})
            with pyro.plate("time", x.shape[1], dim=-1):
                z = pyro.sample("z", prior, infer={"task": True})
                mean = z @ TWO + context @ torch.tensor([0.0, 3.0], dtype=F64)
                pyro.sample("x", dist.Normal(mean, 0.3), obs=x)

    x = torch.randn(2, 3, generator=generator, dtype=F64)
    guide = AutoTaskGuide(model)
    trace = poutine.trace(guide).get_trace(x)
    posterior = guide.infer(model, x)
    for name, shape in (("context", (2, 1)), ("z", (2, 3))):
        site = trace.nodes[name]
        assert site["fn"].batch_shape == shape
        torch.testing.assert_close(site["fn"].logits, posterior.logits(name))
        frames = {f.name: f.dim for f in site["cond_indep_stack"]}
        assert frames == ({"sequence": -2} if name == "context" else {"sequence": -2, "time": -1})
    assert math.isfinite(Trace_ELBO().loss(model, guide, x))


# Purity


def test_the_guide_owns_nothing_and_leaves_the_store_alone(generator: torch.Generator) -> None:
    network = SequenceLSTM(2, 8, generator=generator)

    def model(x: Tensor) -> Tensor:
        pyro.module("network", network)
        pyro.param("extra", torch.zeros(1))
        return network(x)

    x = torch.randn(3, 5, generator=generator)
    guide = AutoTaskGuide(model)
    assert not isinstance(AutoTaskGuide(network), torch.nn.Module)
    assert not any(isinstance(v, torch.nn.Module) for v in vars(AutoTaskGuide(network)).values())
    trace = poutine.trace(guide).get_trace(x)
    assert [n for n, site in trace.nodes.items() if site["type"] == "param"] == []
    assert not pyro.get_param_store().keys()
    model(x)
    store = {n: p.detach().clone() for n, p in pyro.get_param_store().items()}
    guide(x)
    assert set(pyro.get_param_store().keys()) == set(store)
    assert all(torch.equal(pyro.param(n), p) for n, p in store.items())
    assert all(p.grad is None for p in network.parameters())


def test_draws_carry_no_gradient_and_work_without_one() -> None:
    x = torch.tensor([0.35, 0.5], dtype=F64)
    with torch.no_grad():
        draw = AutoTaskGuide(mixture(TWO, 0.2))(x)["z"]
    assert not draw.requires_grad
    assert torch.equal(draw.sum(-1), torch.ones(2, dtype=F64))
