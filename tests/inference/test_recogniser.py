"""The recogniser: both divergences lead to the exact posterior where it is within reach."""

from collections.abc import Callable
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro_models import TASK, gaussian, gaussian_scores, normal
from scipy.stats import chi2
from torch import Tensor, nn

from gbi_pyro import (
    AutoTaskGuide,
    BayesFilter,
    Enumeration,
    TaskChain,
    TaskPosterior,
    TaskSiteError,
)
from gbi_pyro.inference import Recogniser, dream, forward_kl_loss, reverse_kl_loss
from gbi_pyro.logjoint import Passes
from gbi_pyro.metrics import kl
from gbi_pyro.sites import TaskSite

F64 = torch.float64
SIGMA = 0.7
MEANS = torch.tensor([[0.0, 0.0], [1.5, 0.0], [0.5, 1.2]], dtype=F64)
LOG_PRIOR = torch.tensor([0.5, 0.3, 0.2], dtype=F64).log()
mixture = partial(gaussian, means=MEANS, sigma=SIGMA, log_prior=LOG_PRIOR)


def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    z = torch.multinomial(LOG_PRIOR.exp(), n, replacement=True, generator=generator)
    return MEANS[z] + SIGMA * normal(generator, n, 2), z


def linear(generator: torch.Generator) -> nn.Linear:
    with torch.random.fork_rng():
        network = nn.Linear(2, 3, dtype=F64)
    with torch.no_grad():
        network.weight.copy_(normal(generator, 3, 2))
        network.bias.zero_()
    return network


def descend(network: nn.Module, loss: Callable[[], Tensor]) -> None:
    """Go to the minimum of a loss that has one up to a shift of all tasks."""
    optimiser = torch.optim.LBFGS(
        network.parameters(),
        max_iter=500,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)


def divergence(network: nn.Module, generator: torch.Generator) -> float:
    """KL(exact || recogniser) on new data, in nats."""
    x, _ = draw(4000, generator)
    exact = gaussian_scores(x, MEANS, SIGMA, LOG_PRIOR).log_softmax(-1)
    return kl(exact, Recogniser(network)(mixture, x).logits()).mean().item()


@pytest.mark.parametrize("n", [500, 5000, 50_000])
def test_forward_kl_with_labels_comes_to_the_exact_posterior(
    n: int, generator: torch.Generator
) -> None:
    """2 n KL is chi-squared with as many degrees of freedom as there are weights (Wilks 1938)."""
    x, z = draw(n, generator)
    network = linear(generator)
    descend(network, lambda: forward_kl_loss(Recogniser(network), mixture, z, x))
    weights = (3 - 1) * (2 + 1)
    assert divergence(network, generator) <= chi2.isf(1e-6, weights) / (2 * n)


def test_forward_kl_with_dreams_needs_no_data(generator: torch.Generator) -> None:
    n, network = 20_000, linear(generator)
    tasks, values = dream(mixture, torch.zeros(n, 2, dtype=F64), generator=generator)
    descend(network, lambda: forward_kl_loss(Recogniser(network), mixture, tasks["z"], values["x"]))
    assert divergence(network, generator) <= chi2.isf(1e-6, 6) / (2 * n)


def test_reverse_kl_comes_to_the_exact_posterior_without_labels(
    generator: torch.Generator,
) -> None:
    """The target is the exact posterior itself, so a few data suffice and no noise remains."""
    x, _ = draw(200, generator)
    network, exact = linear(generator), Enumeration()(mixture, x)
    descend(network, lambda: reverse_kl_loss(Recogniser(network), exact, x))
    assert divergence(network, generator) <= 1e-8


def test_the_gradient_of_the_forward_kl_is_the_cross_entropys(generator: torch.Generator) -> None:
    """d loss / d a = (q - one_hot) / N."""
    x, z = draw(40, generator)
    scores = normal(generator, 40, 3).requires_grad_()
    loss = forward_kl_loss(Recogniser(lambda x: scores), mixture, z, x)
    (gradient,) = torch.autograd.grad(loss, scores)
    q = (scores + LOG_PRIOR).detach().softmax(-1)
    torch.testing.assert_close(gradient, (q - nn.functional.one_hot(z, 3)) / 40)


def test_the_reverse_kl_is_what_the_evidence_bound_lacks(generator: torch.Generator) -> None:
    """E_q[log p(x, z)] + H(q) = log p(x) - KL(q || p(z | x)), the joint in closed form."""
    x, _ = draw(40, generator)
    network = linear(generator)
    joint = gaussian_scores(x, MEANS, SIGMA, LOG_PRIOR)
    posterior = Recogniser(network)(mixture, x)
    bound = (posterior.probs() * joint).sum(-1) + posterior.entropy()
    loss = reverse_kl_loss(Recogniser(network), Enumeration()(mixture, x), x)
    torch.testing.assert_close(loss, (joint.logsumexp(-1) - bound).mean())


def test_both_divergences_are_least_at_the_exact_posterior(generator: torch.Generator) -> None:
    x, _ = draw(60, generator)
    evidence = gaussian_scores(x, MEANS, SIGMA, LOG_PRIOR) - LOG_PRIOR
    exact = Enumeration()(mixture, x)
    at_best = reverse_kl_loss(Recogniser(lambda x: evidence), exact, x)
    assert float(at_best) == pytest.approx(0, abs=1e-12)
    for _ in range(10):
        other = Recogniser(lambda x: evidence + 0.1 * normal(generator, 60, 3))
        assert float(reverse_kl_loss(other, exact, x)) > 0


def test_the_model_is_frozen_and_its_labels_are_not_asked(generator: torch.Generator) -> None:
    with torch.random.fork_rng():
        decoder = nn.Linear(3, 2, dtype=F64)
    before = [p.clone() for p in decoder.parameters()]

    def model(x: Tensor) -> None:
        with pyro.plate("sequence", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(logits=LOG_PRIOR), infer=TASK)
            pyro.sample("x", dist.Normal(decoder(z), SIGMA).to_event(1), obs=x)

    x, z = draw(50, generator)
    network = linear(generator)
    recogniser = Recogniser(network)
    descend(network, lambda: reverse_kl_loss(recogniser, Enumeration()(model, x), x))
    descend(network, lambda: forward_kl_loss(recogniser, model, z, x))
    recogniser(model, x)
    for p, old in zip(decoder.parameters(), before, strict=True):
        assert torch.equal(p, old)
        assert p.grad is None
        assert p.requires_grad


def test_at_use_it_spends_one_forward_pass_and_leaves_nothing_behind(
    generator: torch.Generator,
) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).double()
    before = {n: t.clone() for n, t in network.state_dict().items()}
    x, _ = draw(50, generator)
    state = torch.get_rng_state()
    posterior = Recogniser(network)(mixture, x)
    assert posterior.passes == Passes(forward=1, backward=0, check=1)
    assert not posterior.logits().requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_it_serves_wherever_an_inference_does(generator: torch.Generator) -> None:
    """In the Bayes filter, where it is the exact filter if its evidence is; and as a guide."""
    means = torch.tensor([0.2, 0.8], dtype=F64)

    def model(x: Tensor) -> None:
        with pyro.plate("sequence", x.shape[0], dim=-2), pyro.plate("time", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.OneHotCategorical(means.new_tensor([0.7, 0.3])), infer=TASK)
            pyro.sample("x", dist.Normal(z @ means, 0.3), obs=x)

    x = normal(generator, 3, 20)
    recogniser = Recogniser(lambda x: dist.Normal(means, 0.3).log_prob(x.unsqueeze(-1)))
    chain = TaskChain.sticky(2, hazard=0.1)
    found, exact = (BayesFilter(infer, chain)(model, x) for infer in (recogniser, Enumeration()))
    torch.testing.assert_close(found.logits(), exact.logits(), rtol=0, atol=1e-10)
    with torch.random.fork_rng():
        assert AutoTaskGuide(model, recogniser)(x)["z"].shape == (3, 20, 2)


def test_a_forbidden_task_stays_forbidden_and_has_no_gradient(generator: torch.Generator) -> None:
    log_prior = torch.tensor([0.5, 0.5, 0.0], dtype=F64).log()
    model = partial(gaussian, means=MEANS, sigma=SIGMA, log_prior=log_prior)
    x, _ = draw(30, generator)
    scores = normal(generator, 30, 3).requires_grad_()
    recogniser = Recogniser(lambda x: scores)
    assert not recogniser(model, x).probs()[:, 2].any()
    loss = reverse_kl_loss(recogniser, Enumeration()(model, x), x)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert bool(gradient.isfinite().all())
    assert not gradient[:, 2].any()
    with pytest.raises(ValueError, match="labels name a task that the prior of 'z' forbids"):
        forward_kl_loss(recogniser, model, torch.full((30,), 2), x)


def test_unknown_labels_do_not_count(generator: torch.Generator) -> None:
    x, z = draw(30, generator)
    network = linear(generator)
    hidden = torch.where(torch.arange(30) < 12, z, -1)
    some = forward_kl_loss(Recogniser(network), mixture, hidden, x)
    alone = forward_kl_loss(Recogniser(network), mixture, z[:12], x[:12])
    torch.testing.assert_close(some, alone)


def test_a_dream_is_drawn_from_the_model(generator: torch.Generator) -> None:
    """Frequencies of the tasks, and mean and variance of the data, within five standard errors."""
    n, state = 20_000, torch.get_rng_state()
    tasks, values = dream(mixture, torch.full((n, 2), 99.0, dtype=F64), generator=generator)
    labels = tasks["z"]
    assert torch.equal(torch.get_rng_state(), state)
    assert not pyro.get_param_store()
    pi = LOG_PRIOR.exp()
    frequencies = torch.bincount(labels, minlength=3) / n
    assert bool(((frequencies - pi).abs() <= 5 * (pi * (1 - pi) / n).sqrt()).all())
    error = (values["x"] - MEANS[labels]) / SIGMA
    assert bool((error.mean(0).abs() <= 5 / n**0.5).all())
    assert bool(((error.square().mean(0) - 1).abs() <= 5 * (2 / n) ** 0.5).all())
    again = dream(mixture, torch.zeros(n, 2, dtype=F64), generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.values["x"], values["x"])  # by the seed alone, not by the data


def test_a_dream_of_several_sites_draws_them_together(generator: torch.Generator) -> None:
    """b copies a with probability .9: joint frequencies within five standard errors."""
    n, copies = 20_000, torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=F64)

    def model(x: torch.Tensor) -> None:
        with pyro.plate("case", len(x)):
            prior = dist.OneHotCategorical(torch.tensor([0.3, 0.7], dtype=F64))
            a = pyro.sample("a", prior, infer={"task": True})
            b = pyro.sample("b", dist.OneHotCategorical(a @ copies), infer={"task": True})
            mean = (a + 10 * b) @ torch.tensor([0.0, 1.0], dtype=F64)
            pyro.sample("x", dist.Normal(mean, 0.01), obs=x)

    tasks, values = dream(model, torch.zeros(n, dtype=F64), generator=generator)
    assert torch.equal(values["x"].round().long(), tasks["a"] + 10 * tasks["b"])
    found = torch.bincount(2 * tasks["a"] + tasks["b"], minlength=4) / n
    p = (torch.tensor([[0.3], [0.7]], dtype=F64) * copies).flatten()
    assert bool(((found - p).abs() <= 5 * (p * (1 - p) / n).sqrt()).all())


def test_what_does_not_fit_is_refused(generator: torch.Generator) -> None:
    x, z = draw(30, generator)
    exact = Enumeration()(mixture, x)

    def without_task(x: torch.Tensor) -> None:
        pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0).to_event(2), obs=x)

    wide = Recogniser(nn.Linear(2, 4, dtype=F64))
    with pytest.raises(ValueError, match=r"recogniser has shape \(30, 4\), expected \(30, 3\)"):
        wide(mixture, x)
    with pytest.raises(ValueError, match="recogniser has shape"):
        forward_kl_loss(wide, mixture, z, x)
    with pytest.raises(ValueError, match="recogniser has shape"):
        reverse_kl_loss(wide, exact, x)
    with pytest.raises(ValueError, match="recogniser has NaN"):
        Recogniser(lambda x: torch.full((30, 3), torch.nan))(mixture, x)
    with pytest.raises(ValueError, match="labels are all unknown"):
        forward_kl_loss(Recogniser(linear(generator)), mixture, torch.full((30,), -1), x)
    with pytest.raises(ValueError, match="labels must be task ids 0"):
        forward_kl_loss(Recogniser(linear(generator)), mixture, z + 1, x)
    with pytest.raises(TaskSiteError, match="no task site"):
        dream(without_task, x, generator=generator)

    def with_factor(x: torch.Tensor) -> None:
        mixture(x)
        pyro.factor("weight", torch.zeros(()))

    with pytest.raises(TaskSiteError, match=r"pyro\.factor sites, \['weight'\]"):
        dream(with_factor, x, generator=generator)

    site = TaskSite("z", torch.tensor([[0.5, 0.5]]).log(), (None,))
    certain = TaskPosterior({"z": torch.tensor([[0.0, -torch.inf]])}, {"z": site}, "by hand")
    with pytest.raises(ValueError, match="tasks of probability zero that the prior allows"):
        reverse_kl_loss(Recogniser(lambda: torch.zeros(1, 2)), certain)
