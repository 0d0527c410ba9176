"""Models of Pyro's examples and tests with discrete latents, against its TraceEnum_ELBO.

Each is written twice from its definition: as a user of this library writes it, with marked one-hot
sites, and as a user of Pyro does, with enumerated ones and an empty guide.

Under ``poutine.mask`` a latent site keeps its prior in both. Of ``Categorical(...).mask(m)`` Pyro
sums K ones, log K for each masked element, where a task keeps its prior, too: a test takes it off.
"""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

from gbi_pyro import BayesFilter, Enumeration, TaskChain
from gbi_pyro.posterior import TaskPosterior

TASK = {"task": True}
PARALLEL = {"enumerate": "parallel"}


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def simplex(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator).softmax(-1)


def rates(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator).sigmoid()


def drawn(generator: torch.Generator, *shape: int) -> Tensor:
    """Zeros and ones."""
    return torch.bernoulli(torch.full(shape, 0.5, dtype=torch.float64), generator=generator)


def one_hot(probs: Tensor) -> dist.OneHotCategorical:
    return dist.OneHotCategorical(probs)


def agree(
    ours: TaskPosterior,
    theirs: Callable[..., Any],
    *args: Any,
    nesting: int,
    marginals: dict[str, Tensor] | None = None,
) -> None:
    """Compare evidence and marginals.

    Args:
        ours: the posterior of this library.
        theirs: the same model for Pyro, called with ``args``.
        nesting: how many dimensions its plates take.
        marginals: our probabilities by Pyro's names, where the sites are not the same.
    """
    elbo = TraceEnum_ELBO(max_plate_nesting=nesting)
    evidence = -elbo.loss(theirs, lambda *_: None, *args)
    assert ours.total_log_evidence == pytest.approx(evidence, rel=1e-4)
    found = elbo.compute_marginals(theirs, lambda *_: None, *args)
    if marginals is None:
        marginals = {name: ours.probs(name) for name in ours.log_probs}
    assert set(marginals) == set(found)
    for name, expected in found.items():
        probs = expected.probs
        if isinstance(expected, dist.Bernoulli):
            probs = torch.stack([1 - probs, probs], -1)
        torch.testing.assert_close(
            marginals[name].reshape(probs.shape), probs, rtol=1e-4, atol=1e-12
        )


# Hidden Markov models of tones (examples/hmm.py)

N, T, D, K = 3, 4, 5, 3
FULL, PADDED = torch.tensor([T, T, T]), torch.tensor([4, 2, 3])


@pytest.fixture
def y(generator: torch.Generator) -> Tensor:
    """Sequences of tones, (N, T, D) zeros and ones."""
    return drawn(generator, N, T, D)


@pytest.fixture(name="A")
def transitions(generator: torch.Generator) -> Tensor:
    """Transitions; a sequence starts from state 0, before its first step."""
    return simplex(generator.manual_seed(1), K, K)


@pytest.fixture(name="P")
def tone_rates(generator: torch.Generator) -> Tensor:
    """The rate of each tone in each state."""
    return rates(generator.manual_seed(2), K, D)


def smoother(A: Tensor) -> BayesFilter:
    chain = TaskChain(A[0].log(), A.log())
    return BayesFilter(Enumeration(), chain, output="smoothed", time="time")


def pyro_tones(y: Tensor, A: Tensor, P: Tensor, lengths: Tensor) -> None:
    with pyro.plate("sequence", len(y), dim=-2):
        x = torch.tensor(0)
        for t in pyro.markov(range(y.shape[1])):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                x = pyro.sample(f"x_{t}", dist.Categorical(A[x]), infer=PARALLEL)
                with pyro.plate(f"tone_{t}", y.shape[2], dim=-1):
                    pyro.sample(f"y_{t}", dist.Bernoulli(P[x.squeeze(-1)]), obs=y[:, t])


def chain_of_tones(y: Tensor, P: Tensor, lengths: Tensor) -> None:
    """All steps in a plate over time; the chain is the filter's."""
    seen = torch.arange(y.shape[1])[:, None] < lengths[:, None, None]
    with pyro.plate("sequence", y.shape[0], dim=-3), pyro.plate("time", y.shape[1], dim=-2):
        z = pyro.sample("z", one_hot(torch.ones_like(P[:, 0])), infer=TASK)
        with pyro.plate("tone", y.shape[2], dim=-1), poutine.mask(mask=seen):
            pyro.sample("y", dist.Bernoulli((z @ P).squeeze(-2)), obs=y)


def unrolled_tones(y: Tensor, A: Tensor, P: Tensor, lengths: Tensor) -> None:
    """A site for each step, whose prior is the transition from the one before."""
    with pyro.plate("sequence", len(y), dim=-2):
        prior = A[0]
        for t in range(y.shape[1]):
            z = pyro.sample(f"x_{t}", one_hot(prior), infer=TASK)
            prior = z @ A
            seen = poutine.mask(mask=(t < lengths).unsqueeze(-1))
            with pyro.plate(f"tone_{t}", y.shape[2], dim=-1), seen:
                pyro.sample(f"y_{t}", dist.Bernoulli((z @ P).squeeze(-2)), obs=y[:, t])


def by_step(probs: Tensor) -> dict[str, Tensor]:
    """Return (N, T, 1, K) as Pyro names its sites."""
    return {f"x_{t}": probs[:, t] for t in range(probs.shape[1])}


@pytest.mark.parametrize("lengths", [FULL, PADDED], ids=["full", "padded"])
def test_hmm_model_1_by_a_chain(y: Tensor, A: Tensor, P: Tensor, lengths: Tensor) -> None:
    ours = smoother(A)(chain_of_tones, y, P, lengths)
    agree(ours, pyro_tones, y, A, P, lengths, nesting=2, marginals=by_step(ours.probs()))


@pytest.mark.parametrize("lengths", [FULL, PADDED], ids=["full", "padded"])
def test_hmm_model_1_unrolled(y: Tensor, A: Tensor, P: Tensor, lengths: Tensor) -> None:
    agree(Enumeration()(unrolled_tones, y, A, P, lengths), pyro_tones, y, A, P, lengths, nesting=2)


def test_hmm_model_0_one_sequence_after_the_other(generator: torch.Generator) -> None:
    """Sequences in a Python loop, each with its own length."""
    y, A, P = drawn(generator, 2, 3, D), simplex(generator, 2, 2), rates(generator, 2, D)
    lengths = [2, 3]

    def model(draw: Callable[..., Tensor], rate: Callable[[Tensor], Tensor], x: Tensor) -> None:
        start = x
        for i in range(2):
            x = start
            for t in pyro.markov(range(lengths[i])):
                x = draw(f"x_{i}_{t}", x)
                with pyro.plate(f"tone_{i}_{t}", D):
                    pyro.sample(f"y_{i}_{t}", dist.Bernoulli(rate(x)), obs=y[i, t])

    def task(name: str, before: Tensor) -> Tensor:
        return pyro.sample(name, one_hot(before @ A), infer=TASK)

    def state(name: str, before: Tensor) -> Tensor:
        return pyro.sample(name, dist.Categorical(A[before]), infer=PARALLEL)

    ours = Enumeration()(model, task, lambda z: z @ P, one_hot_of(0, P))
    agree(ours, model, state, lambda x: P[x.squeeze(-1)], torch.tensor(0), nesting=1)


def pyro_factorial(y: Tensor, A: Tensor, B: Tensor, P: Tensor) -> None:
    with pyro.plate("sequence", len(y), dim=-2):
        w = x = torch.tensor(0)
        for t in pyro.markov(range(y.shape[1])):
            w = pyro.sample(f"w_{t}", dist.Categorical(A[w]), infer=PARALLEL)
            x = pyro.sample(f"x_{t}", dist.Categorical(B[x]), infer=PARALLEL)
            with pyro.plate(f"tone_{t}", y.shape[2], dim=-1) as tone:
                pyro.sample(f"y_{t}", dist.Bernoulli(Vindex(P)[w, x, tone]), obs=y[:, t])


def unrolled_factorial(y: Tensor, A: Tensor, B: Tensor, P: Tensor) -> None:
    with pyro.plate("sequence", len(y), dim=-2):
        prior_w, prior_x = A[0], B[0]
        for t in range(y.shape[1]):
            w = pyro.sample(f"w_{t}", one_hot(prior_w), infer=TASK)
            x = pyro.sample(f"x_{t}", one_hot(prior_x), infer=TASK)
            prior_w, prior_x = w @ A, x @ B
            rate = torch.einsum("...sw,...sx,wxd->...d", w, x, P)
            with pyro.plate(f"tone_{t}", y.shape[2], dim=-1):
                pyro.sample(f"y_{t}", dist.Bernoulli(rate), obs=y[:, t])


def test_hmm_model_3_two_chains_unrolled(generator: torch.Generator) -> None:
    y, A, B = drawn(generator, N, 3, D), simplex(generator, 2, 2), simplex(generator, 2, 2)
    P = rates(generator, 2, 2, D)
    agree(Enumeration()(unrolled_factorial, y, A, B, P), pyro_factorial, y, A, B, P, nesting=2)


def test_hmm_model_3_two_chains_as_one_of_pairs(y: Tensor, generator: torch.Generator) -> None:
    A, B, P = simplex(generator, 2, 2), simplex(generator, 3, 3), rates(generator, 2, 3, D)
    pairs = torch.kron(A, B)
    ours = smoother(pairs)(chain_of_tones, y, P.flatten(0, 1), FULL)
    both = ours.probs().unflatten(-1, (2, 3))
    marginals = {
        name.replace("x", site): value
        for site, dim in (("w", -1), ("x", -2))
        for name, value in by_step(both.sum(dim)).items()
    }
    agree(ours, pyro_factorial, y, A, B, P, nesting=2, marginals=marginals)


def pyro_second_order(y: Tensor, A: Tensor, P: Tensor) -> None:
    with pyro.plate("sequence", len(y), dim=-2):
        before = x = torch.tensor(0)
        for t in pyro.markov(range(y.shape[1]), history=2):
            prior = Vindex(A)[before, x]
            before, x = x, pyro.sample(f"x_{t}", dist.Categorical(prior), infer=PARALLEL)
            with pyro.plate(f"tone_{t}", y.shape[2], dim=-1):
                pyro.sample(f"y_{t}", dist.Bernoulli(P[x.squeeze(-1)]), obs=y[:, t])


def unrolled_second_order(y: Tensor, A: Tensor, P: Tensor) -> None:
    start = one_hot_of(0, P)
    with pyro.plate("sequence", len(y), dim=-2):
        before = z = start
        for t in range(y.shape[1]):
            prior = torch.einsum("...i,...j,ijk->...k", before, z, A)
            before, z = z, pyro.sample(f"x_{t}", one_hot(prior), infer=TASK)
            with pyro.plate(f"tone_{t}", y.shape[2], dim=-1):
                pyro.sample(f"y_{t}", dist.Bernoulli((z @ P).squeeze(-2)), obs=y[:, t])


def one_hot_of(state: int, P: Tensor) -> Tensor:
    return torch.eye(len(P), dtype=P.dtype)[state]


def test_hmm_model_6_second_order_unrolled(
    y: Tensor, P: Tensor, generator: torch.Generator
) -> None:
    A = simplex(generator, K, K, K)
    agree(Enumeration()(unrolled_second_order, y, A, P), pyro_second_order, y, A, P, nesting=2)


def test_hmm_model_6_second_order_as_a_chain_of_pairs(
    y: Tensor, P: Tensor, generator: torch.Generator
) -> None:
    A = simplex(generator, K, K, K)  # p(z_t | z_t-2, z_t-1)
    eye = torch.eye(K, dtype=A.dtype)
    pairs = torch.einsum("ijk,jl->ijlk", A, eye).reshape(K * K, K * K)  # (i, j) to (j, k)
    rate = P.repeat(K, 1)
    ours = smoother(pairs)(chain_of_tones, y, rate, FULL)
    marginals = by_step(ours.probs().unflatten(-1, (K, K)).sum(-2))
    agree(ours, pyro_second_order, y, A, P, nesting=2, marginals=marginals)


# Topics of words, given each document's shares of topics (examples/lda.py)


def test_lda(generator: torch.Generator) -> None:
    W, M, V, topics = 6, 4, 8, 3
    words = torch.randint(V, (W, M), generator=generator)
    share, topic_words = simplex(generator, M, topics), simplex(generator, topics, V)

    def model(draw: Callable[[], tuple[Tensor, str]]) -> None:
        with pyro.plate("document", M), pyro.plate("word", W):
            probs = draw()
            pyro.sample("words", dist.Categorical(probs), obs=words)

    def task() -> Tensor:
        return pyro.sample("topic", one_hot(share), infer=TASK) @ topic_words

    def state() -> Tensor:
        return topic_words[pyro.sample("topic", dist.Categorical(share), infer=PARALLEL)]

    agree(Enumeration()(model, task), model, state, nesting=2)


# Capture and recapture (examples/capture_recapture/cjs.py)

CAUGHT = tensor([[1, 0, 1, 0], [0, 1, 1, 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]])


@pytest.mark.parametrize("hidden", [True, False], ids=["both masked", "data masked"])
def test_capture_recapture(hidden: bool) -> None:
    """Alive until its first capture; then z_t ~ Bernoulli(phi z_t-1), y_t ~ Bernoulli(rho z_t)."""
    phi, rho = tensor([0.8, 0.6, 0.7]), tensor([0.5, 0.4, 0.6, 0.3])

    def model(draw: Callable[[str, Tensor], Tensor]) -> None:
        with pyro.plate("animal", len(CAUGHT)):
            z, known = tensor(1.0), torch.zeros(len(CAUGHT), dtype=torch.bool)
            for t in pyro.markov(range(CAUGHT.shape[1])):
                survives = torch.where(known, phi[t - 1] * z, 1.0)
                with poutine.mask(mask=known if hidden else torch.tensor(True)):
                    z = draw(f"z_{t}", survives)
                with poutine.mask(mask=known):
                    pyro.sample(f"y_{t}", dist.Bernoulli(rho[t] * z), obs=CAUGHT[:, t])
                known = known | CAUGHT[:, t].bool()

    def task(name: str, p: Tensor) -> Tensor:
        return pyro.sample(name, one_hot(torch.stack([1 - p, p], -1)), infer=TASK)[..., 1]

    def state(name: str, p: Tensor) -> Tensor:
        return pyro.sample(name, dist.Bernoulli(p), infer=PARALLEL)

    agree(Enumeration()(model, task), model, state, nesting=1)


# Plates side by side (tests/infer/test_enum.py)

PROBS_B = tensor([[0.6, 0.4], [0.4, 0.6]])


def enumerate_plates_1(draw: Callable[[str, Tensor], Callable[[Tensor], Tensor]]) -> None:
    with pyro.plate("a_axis", 2):
        given = draw("a", tensor([0.45, 0.55]))
        pyro.sample("b", dist.Categorical(given(PROBS_B)), obs=torch.tensor([0, 1]))
    with pyro.plate("c_axis", 3):
        given = draw("c", tensor([0.75, 0.25]))
        probs_d = tensor([[0.4, 0.6], [0.3, 0.7]])
        pyro.sample("d", dist.Categorical(given(probs_d)), obs=torch.tensor([0, 0, 1]))


def enumerate_plates_2(draw: Callable[[str, Tensor], Callable[[Tensor], Tensor]]) -> None:
    given = draw("a", tensor([0.45, 0.55]))
    with pyro.plate("b_axis", 2):
        pyro.sample("b", dist.Categorical(given(PROBS_B)), obs=torch.tensor([0, 1]))
    with pyro.plate("c_axis", 3):
        probs_c = tensor([[0.75, 0.25], [0.55, 0.45]])
        pyro.sample("c", dist.Categorical(given(probs_c)), obs=torch.tensor([0, 0, 1]))


def one_hot_row(name: str, probs: Tensor) -> Callable[[Tensor], Tensor]:
    z = pyro.sample(name, one_hot(probs), infer=TASK)
    return lambda table: z @ table


def indexed_row(name: str, probs: Tensor) -> Callable[[Tensor], Tensor]:
    z = pyro.sample(name, dist.Categorical(probs), infer=PARALLEL)
    return lambda table: table[z]


@pytest.mark.parametrize(
    ("model", "evidence"),
    [
        (enumerate_plates_1, 0.49 * 0.51 * 0.375**2 * 0.625),
        (enumerate_plates_2, 0.45 * 0.24 * 0.75**2 * 0.25 + 0.55 * 0.24 * 0.55**2 * 0.45),
    ],
)
def test_enumerate_plates(model: Callable[..., None], evidence: float) -> None:
    ours = Enumeration()(model, one_hot_row)
    agree(ours, model, indexed_row, nesting=1)
    assert ours.total_log_evidence == pytest.approx(math.log(evidence))


# Labels of images, given their codes (examples/vae/ss_vae_M2.py)


def test_ss_vae_labels(generator: torch.Generator) -> None:
    images, code = drawn(generator, 5, 12), torch.randn(5, 3, generator=generator).double()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = nn.Sequential(nn.Linear(7, 16), nn.Tanh(), nn.Linear(16, 12)).double()
    decoder.requires_grad_(False)

    def model(infer: dict[str, Any]) -> None:
        with pyro.plate("image", 5):
            label = pyro.sample("label", one_hot(tensor([0.1, 0.2, 0.3, 0.4])), infer=infer)
            batch = torch.broadcast_shapes(label.shape[:-1], (5,))
            both = torch.cat([code.expand(*batch, 3), label.expand(*batch, 4)], -1)
            logits = decoder(both)
            pyro.sample("image_pixels", dist.Bernoulli(logits=logits).to_event(1), obs=images)

    agree(Enumeration()(model, TASK), model, PARALLEL, nesting=1)


# Mixtures of Gaussians

LOCS, SEEN = tensor([-1.0, 0.0, 0.5, 2.0]), torch.tensor([True, False, True, True, False, True])


def mixture(x: Tensor, draw: Callable[[], Tensor], seen: Tensor) -> None:
    with pyro.plate("datum", len(x)), poutine.mask(mask=seen):
        pyro.sample("x", dist.Normal(draw(), 0.6), obs=x)


@pytest.mark.parametrize("seen", [torch.ones(6).bool(), SEEN], ids=["", "masked"])
def test_gaussian_mixture(seen: Tensor, generator: torch.Generator) -> None:
    x, weights = (
        torch.randn(6, dtype=torch.float64, generator=generator),
        tensor([0.1, 0.2, 0.3, 0.4]),
    )

    def task() -> Tensor:
        return pyro.sample("z", one_hot(weights), infer=TASK) @ LOCS

    def state() -> Tensor:
        return LOCS[pyro.sample("z", dist.Categorical(weights), infer=PARALLEL)]

    agree(Enumeration()(mixture, x, task, seen), mixture, x, state, seen, nesting=1)


def test_a_masked_distribution_counts_log_k_in_pyro_alone(generator: torch.Generator) -> None:
    x, weights = torch.randn(6, dtype=torch.float64, generator=generator), tensor([0.25] * 4)

    def task() -> Tensor:
        return pyro.sample("z", one_hot(weights).mask(SEEN), infer=TASK) @ LOCS

    def state() -> Tensor:
        return LOCS[pyro.sample("z", dist.Categorical(weights).mask(SEEN), infer=PARALLEL)]

    ours = Enumeration()(mixture, x, task, SEEN)
    theirs = -TraceEnum_ELBO(max_plate_nesting=1).loss(mixture, lambda *_: None, x, state, SEEN)
    assert ours.total_log_evidence == pytest.approx(theirs - 2 * math.log(4), rel=1e-4)
    torch.testing.assert_close(ours.probs()[~SEEN], weights.expand(2, 4))
