"""Importance correction against enumeration, and what its verdict lets pass."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro_models import TASK, brute_force
from torch import Tensor

from gbi_pyro import (
    AutoTaskGuide,
    BayesFilter,
    Enumeration,
    OneStepGradient,
    TaskChain,
    TaskPosterior,
    TaskSiteError,
    find_task_sites,
)
from gbi_pyro.metrics import effective_share, importance_correction, kl
from gbi_pyro.models import SequenceLSTM

F64 = torch.float64


def even(K: int, sigma: float, dtype: torch.dtype = F64) -> Any:
    """K tasks of evenly spaced means, for which one step is off by a constant per task."""

    def model(x: Tensor) -> None:
        with pyro.plate("trial", len(x)):
            prior = dist.OneHotCategorical(torch.full((K,), 1 / K, dtype=dtype))
            z = pyro.sample("z", prior, infer=TASK)
            means = torch.linspace(0, 1, K, dtype=dtype)
            pyro.sample("x", dist.Normal(z @ means, sigma), obs=x)

    return model


def given(model: Any, log_probs: Tensor, *args: Any) -> AutoTaskGuide:
    """A guide whose posterior is known."""
    sites = find_task_sites(model, *args)
    posterior = TaskPosterior({next(iter(sites)): log_probs}, sites, "given")
    return AutoTaskGuide(model, lambda *_: posterior)


def points(generator: torch.Generator, n: int) -> Tensor:
    return torch.rand(n, generator=generator, dtype=F64)


@pytest.mark.parametrize("each", [(), ("trial",)])
def test_of_the_exact_posterior_every_weight_is_the_evidence(
    generator: torch.Generator, each: tuple[str, ...]
) -> None:
    model, x = even(4, 0.3), points(generator, 12)
    exact = Enumeration()(model, x)
    found = importance_correction(
        AutoTaskGuide(model, Enumeration()), (x,), num_draws=200, generator=generator, each=each
    )
    expected = exact.log_evidence if each else exact.log_evidence.sum()
    torch.testing.assert_close(found.log_evidence, expected)
    torch.testing.assert_close(found.log_weights, expected.expand(found.log_weights.shape))
    torch.testing.assert_close(found.effective_size, torch.full_like(expected, 200.0))
    assert found.k_hat.eq(-math.inf).all()
    assert found.trusted.all()
    assert found.verdict.startswith("enumeration: close enough to the exact posterior")


def test_evidence_and_probabilities_are_corrected_within_their_standard_error(
    generator: torch.Generator,
) -> None:
    model, x, S = even(4, 0.5), points(generator, 12), 1000
    exact = Enumeration()(model, x)
    p, q = exact.probs(), OneStepGradient()(model, x).probs()
    found = importance_correction(
        AutoTaskGuide(model), (x,), num_draws=S, generator=generator, each=["trial"]
    )
    assert found.trusted.all()
    assert found.log_weights.shape == (S, 12)
    # Finite sums give the variances: of weights / p(x), and of the self-normalised mean.
    share = effective_share(exact, q.log())
    ratio = (found.log_evidence - exact.log_evidence).exp()
    assert ((ratio - 1).abs() <= 5 * ((1 / share - 1) / S).sqrt()).all()
    miss = torch.eye(4, dtype=F64) - p.unsqueeze(-2)  # (trial, drawn, judged)
    error = ((p.square() / q).unsqueeze(-1) * miss.square()).sum(-2).div(S).sqrt()
    assert ((found.probs("z") - p).abs() <= 5 * error).all()
    assert ((q - p).abs() > 5 * error).any()  # there was something to correct


def test_the_effective_size_is_the_effective_share_of_the_draws(
    generator: torch.Generator,
) -> None:
    # Two tasks have two weights, which are not smoothed; the mean of their squares has a standard
    # error by the fourth moment.
    model, x, S = even(2, 0.3), points(generator, 10), 1500
    p = Enumeration()(model, x).probs()
    q = Enumeration(temperature=2.0)(model, x).probs()
    found = importance_correction(
        AutoTaskGuide(model, Enumeration(temperature=2.0)),
        (x,),
        num_draws=S,
        generator=generator,
        each=["trial"],
    )
    second, fourth = ((p / q) ** 2 * q).sum(-1), ((p / q) ** 4 * q).sum(-1)
    error = ((fourth - second**2).sqrt() / second + 2 * (second - 1).sqrt()) / math.sqrt(S)
    share = effective_share(p.log(), q.log())
    torch.testing.assert_close(share, 1 / second)
    assert ((found.effective_size / S / share - 1).abs() <= 5 * error).all()


def test_steps_that_influence_each_other_are_corrected_where_enumeration_refuses(
    generator: torch.Generator,
) -> None:
    network = SequenceLSTM(2, 6, generator=generator).double().eval()
    x = torch.randn(2, 3, generator=generator, dtype=F64)
    with pytest.raises(TaskSiteError, match="influence each other"):
        Enumeration()(network, x)
    found = importance_correction(
        AutoTaskGuide(network), (x,), num_draws=400, generator=generator, each=["sequence"]
    )
    assert found.trusted.all()
    for b in range(2):
        marginals, evidence = brute_force(network, {"z": (1, 3, 2)}, x[b : b + 1])
        # A mean of that many exact draws; the evidence has relative variance 1 / size - 1 / S.
        size = found.effective_size[b].item()
        error = 5 * math.sqrt(0.25 / size)
        assert ((found.probs("z")[b] - marginals["z"][0]).abs() <= error).all()
        relative = 5 * math.sqrt(max(1 / size - 1 / 400, 0)) + 1e-9
        assert math.exp(found.log_evidence[b].item() - evidence.item()) == pytest.approx(
            1, abs=relative
        )


def test_two_sites_and_units_in_the_middle(generator: torch.Generator) -> None:
    def model(x: Tensor) -> None:
        prior = dist.OneHotCategorical(torch.tensor([0.3, 0.7], dtype=F64))
        with pyro.plate("sequence", x.shape[0], dim=-2):
            context = pyro.sample("context", prior, infer=TASK)
            with pyro.plate("time", x.shape[1], dim=-1):
                z = pyro.sample("z", prior, infer=TASK)
                mean = z @ torch.tensor([0.0, 1.0], dtype=F64)
                mean = mean + context @ torch.tensor([0.0, 0.5], dtype=F64)
                pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def steps(x: Tensor) -> None:
        prior = dist.OneHotCategorical(torch.tensor([0.3, 0.7], dtype=F64))
        with pyro.plate("sequence", x.shape[0], dim=-2), pyro.plate("time", x.shape[1], dim=-1):
            z = pyro.sample("z", prior, infer=TASK)
            pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0], dtype=F64), 1.0), obs=x)

    x = torch.randn(3, 2, generator=generator, dtype=F64)
    exact = Enumeration()(model, x)
    found = importance_correction(
        AutoTaskGuide(model), (x,), num_draws=1000, generator=generator, each=["sequence"]
    )
    assert found.k_hat.shape == (3,)
    for name in ("context", "z"):
        error = 5 * (0.25 / found.effective_size).sqrt().reshape(3, 1, 1)
        assert ((found.probs(name) - exact.probs(name)).abs() <= error).all()
    exact = Enumeration()(steps, x)
    by_time = importance_correction(
        AutoTaskGuide(steps), (x,), num_draws=200, generator=generator, each=["time"]
    )
    torch.testing.assert_close(by_time.log_evidence, exact.log_evidence.sum(0))
    error = 5 * math.sqrt(0.25 / 200)
    assert ((by_time.probs("z") - exact.probs("z")).abs() <= error).all()
    with pytest.raises(TaskSiteError, match="'context' does not lie in plate 'time'"):
        importance_correction(AutoTaskGuide(model), (x,), generator=generator, each=["time"])


def test_k_hat_does_not_depend_on_how_weights_were_rounded(generator: torch.Generator) -> None:
    # The bias of one step is a constant per task, so weights of a whole data set lie on a lattice.
    # Ties that single precision breaks would be taken for a tail, of k-hat 5 and more.
    x = points(generator, 20)
    found = []
    for dtype in (torch.float32, F64):
        model = even(4, 0.8, dtype)
        q = OneStepGradient()(even(4, 0.8), x).logits().to(dtype)
        own = torch.Generator().manual_seed(1)
        ids = torch.stack(
            [torch.multinomial(r, 1000, True, generator=own) for r in q.double().exp()]
        )

        class Same(TaskPosterior):
            def sample(self, n: int = 1, **_: Any) -> dict[str, Tensor]:
                return {"z": ids.T}  # noqa: B023

        sites = find_task_sites(model, x.to(dtype))
        same = Same({"z": q}, sites, "given")
        guide = AutoTaskGuide(model, lambda *_, same=same: same)
        found.append(importance_correction(guide, (x.to(dtype),), generator=own))
    single, double = found
    assert double.k_hat.item() < 0.5
    assert single.k_hat.item() == pytest.approx(double.k_hat.item(), abs=1e-3)
    torch.testing.assert_close(single.effective_size, double.effective_size, rtol=1e-4, atol=0)


def test_what_is_too_far_off_is_not_trusted(generator: torch.Generator) -> None:
    x = points(generator, 20)
    # Twenty times a small error is a large one: 1000 draws of this are worth one or two exact ones,
    # though they look like more, and k-hat alone does not tell.
    for sigma in (0.3, 0.15):
        model = even(4, sigma)
        exact, q = Enumeration()(model, x), OneStepGradient()(model, x)
        assert effective_share(exact, q).prod() * 1000 < 10
        found = importance_correction(AutoTaskGuide(model), (x,), generator=generator)
        assert not found.trusted
        assert "too far from the exact posterior to be corrected: k-hat" in found.verdict
        corrected = OneStepGradient(order=2)
        assert importance_correction(
            AutoTaskGuide(model, corrected), (x,), num_draws=200, generator=generator
        ).trusted
    single = importance_correction(
        AutoTaskGuide(model), (x,), num_draws=300, generator=generator, each=["trial"]
    )
    bad = int((~single.trusted).sum())
    assert bad > 0
    assert f"to be corrected for {bad} of 20 units" in single.verdict


def test_impossible_draws_weigh_nothing(generator: torch.Generator) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("trial", len(x)):
            prior = dist.OneHotCategorical(torch.tensor([0.0, 0.5, 0.5], dtype=F64))
            z = pyro.sample("z", prior, infer=TASK)
            means = torch.tensor([0.0, 0.0, 1.0], dtype=F64)
            pyro.sample("x", dist.Normal(z @ means, 1.0), obs=x)

    x, S = points(generator, 3), 500
    exact = Enumeration()(model, x)
    flat = torch.full((3, 3), 1 / 3, dtype=F64).log()
    found = importance_correction(
        given(model, flat, x), (x,), num_draws=S, generator=generator, each=["trial"]
    )
    assert (found.probs("z")[:, 0] == 0).all()
    share = effective_share(exact, flat)
    ratio = (found.log_evidence - exact.log_evidence).exp()
    assert ((ratio - 1).abs() <= 5 * ((1 / share - 1) / S).sqrt()).all()
    never = torch.tensor([[1.0, 0.0, 0.0]], dtype=F64).log().expand(3, 3)
    with pytest.raises(TaskSiteError, match="every draw from 'given' is impossible"):
        importance_correction(given(model, never, x), (x,), generator=generator)
    assert effective_share(exact, never).eq(0).all()


def test_effective_share_is_bounded_by_the_divergence(generator: torch.Generator) -> None:
    p, q = (torch.randn(200, 5, generator=generator, dtype=F64).log_softmax(-1) for _ in range(2))
    share = effective_share(p, q)
    torch.testing.assert_close(share, 1 / (p.exp().square() / q.exp()).sum(-1))
    assert (share <= (-kl(p, q)).exp()).all()
    torch.testing.assert_close(effective_share(p, p), torch.ones(200, dtype=F64))
    # Of independent elements together it is the product: outer products are their joint law.
    both = [(a[:100, :, None] + a[100:, None, :]).flatten(1) for a in (p, q)]
    torch.testing.assert_close(effective_share(*both), share[:100] * share[100:])
    sure, half = np.log([0.5, 0.5]), torch.tensor([1.0, 0.0]).log()
    assert effective_share(sure, half) == 0
    assert effective_share(half, sure) == 0.5


def test_it_is_seeded_and_leaves_nothing_behind(generator: torch.Generator) -> None:
    model, x = even(3, 0.5), points(generator, 3)
    before = torch.get_rng_state()
    found = [
        importance_correction(
            AutoTaskGuide(model), (x,), num_draws=100, generator=torch.Generator().manual_seed(s)
        )
        for s in (0, 0, 1)
    ]
    assert torch.equal(found[0].log_weights, found[1].log_weights)
    assert not torch.equal(found[0].log_weights, found[2].log_weights)
    assert torch.equal(torch.get_rng_state(), before)


def test_invalid_arguments_are_named(generator: torch.Generator) -> None:
    def shared(x: Tensor) -> None:
        even(3, 0.5)(x)
        pyro.sample("total", dist.Normal(0.0, 1.0), obs=x.sum())

    x = points(generator, 3)
    guide = AutoTaskGuide(even(3, 0.5))
    with pytest.raises(ValueError, match="num_draws should be 100 or more; got 99"):
        importance_correction(guide, (x,), num_draws=99, generator=generator)
    with pytest.raises(TaskSiteError, match=r"'z' does not lie in plate 'time'.*\['trial'\]"):
        importance_correction(guide, (x,), generator=generator, each=["time"])
    with pytest.raises(TaskSiteError, match=r"'total' does not lie in all plates of each="):
        importance_correction(AutoTaskGuide(shared), (x,), generator=generator, each=["trial"])
    with pytest.raises(ValueError, match="estimate should have the shape of exact"):
        effective_share(torch.zeros(1), torch.tensor([0.5, 0.5]).log())


@pytest.mark.parametrize("how", ["a smoothed chain", "coupled sites"])
def test_draws_are_those_whose_probability_the_weights_take(
    how: str, generator: torch.Generator
) -> None:
    """Of a joint posterior too: the guide draws each element by itself, and so do the weights."""
    if how == "a smoothed chain":
        model, x = even(3, 0.4), points(generator, 6)
        chain = TaskChain.sticky(3, 0.3, time="trial")
        infer: Any = BayesFilter(Enumeration(), chain, output="smoothed")
    else:

        def model(x: Tensor) -> None:
            half = torch.full((2,), 0.5, dtype=F64)
            with pyro.plate("trial", len(x)):
                a = pyro.sample("a", dist.OneHotCategorical(half), infer=TASK)
                b = pyro.sample("b", dist.OneHotCategorical(half), infer=TASK)
                pyro.sample("x", dist.Normal(a[..., 1] + b[..., 1], 0.5), obs=x)

        x, infer = 2 * points(generator, 4), Enumeration()
    exact = Enumeration()(model, x).total_log_evidence
    assert exact is not None
    guide = AutoTaskGuide(model, infer)
    found = importance_correction(guide, (x,), num_draws=1500, generator=generator)
    weights = (found.log_weights - exact).exp()
    error = weights.std() / len(weights) ** 0.5
    assert abs(weights.mean() - 1) <= 4 * error
