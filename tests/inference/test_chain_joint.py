"""The joint posterior of a chain in a guide, and as a distribution of paths."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from torch import Tensor
from torch.nn.functional import one_hot

from gbi_pyro import AutoTaskGuide, BayesFilter, Enumeration, TaskChain
from gbi_pyro.inference.hmm import _in_log_space, hmm_posterior

F64 = torch.float64
CHAINS = {
    "hidden Markov": TaskChain.sticky(2, hazard=0.2),
    "explicit block lengths": TaskChain(
        torch.tensor([0.5, 0.5], dtype=F64).log(),
        torch.tensor([[0.2, 0.8], [1.0, 0.0]], dtype=F64).log(),
        log_duration=torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.0, 0.5]], dtype=F64).log(),
    ),
}


def stream(x: Tensor) -> None:
    """Two sequences side by side, time first."""
    with pyro.plate("time", x.shape[0], dim=-2), pyro.plate("sequence", x.shape[1], dim=-1):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer={"task": True})
        pyro.sample("x", dist.Normal(z[..., 1], 0.7), obs=x)


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return torch.randn((4, 2), generator=generator, dtype=F64)


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
def test_probabilities_of_all_paths_sum_to_one_and_make_the_smoother(
    chain: TaskChain, x: Tensor
) -> None:
    found = BayesFilter(Enumeration(), chain, output="smoothed")(stream, x)
    paths = torch.tensor(list(itertools.product(range(2), repeat=4)))
    ids = paths[:, :, None].expand(-1, -1, 2)
    log_prob = found.log_prob({"z": ids})
    assert log_prob.shape == (16, 2)
    torch.testing.assert_close(log_prob.logsumexp(0), torch.zeros(2, dtype=F64))
    smoothed = torch.einsum("ns,nts->ts", log_prob.exp(), ids.double())
    torch.testing.assert_close(smoothed, found.probs()[..., 1])


def test_the_recursion_in_log_space_gives_the_same(generator: torch.Generator) -> None:
    initial, transition, emission, durations = (
        torch.randn(shape, generator=generator, dtype=F64).log_softmax(-1)
        for shape in ((3,), (3, 3), (5, 3), (3, 2))
    )
    paths = torch.tensor(list(itertools.product(range(3), repeat=5)))
    ordinary = hmm_posterior(initial, transition, emission).paths.log_prob(paths)
    args = [initial, transition.unsqueeze(0), emission]
    in_log_space = _in_log_space([*args, initial.new_zeros((3, 1))], viterbi=False).paths
    torch.testing.assert_close(in_log_space.log_prob(paths), ordinary)
    blocks = _in_log_space([*args, durations], viterbi=False).paths.log_prob(paths).sum(-1)
    torch.testing.assert_close(blocks.logsumexp(0), torch.zeros((), dtype=F64))


def test_an_impossible_path_has_no_probability() -> None:
    stay, half = torch.eye(2, dtype=F64).log(), torch.full((2,), 0.5, dtype=F64).log()
    found = hmm_posterior(half, stay, torch.zeros((3, 2), dtype=F64))
    total = found.paths.log_prob(torch.tensor([[0, 0, 0], [0, 1, 1], [1, 1, 0]])).sum(-1)
    assert total.exp().tolist() == pytest.approx([0.5, 0, 0])


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_guide_draws_whole_paths(order: list[int], x: Tensor) -> None:
    """Their log probability in the trace is that of the path; drawn steps hang together."""
    bayes = BayesFilter(Enumeration(), TaskChain.sticky(2, hazard=0.05), output="smoothed")

    def infer(*args: Tensor) -> object:
        return bayes(*args).reordered(order)

    guide = AutoTaskGuide(stream, infer)  # type: ignore[arg-type]
    flat = torch.full_like(x, 0.5)  # says nothing: each path has the probability of the chain
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trace = poutine.trace(guide).get_trace(flat)
        drawn = Predictive(guide, num_samples=3000, parallel=True)(flat)["z"].argmax(-1)
    ids = trace.nodes["z"]["value"].argmax(-1)
    switches = (ids.diff(dim=0) != 0).sum().item()
    expected = 2 * torch.tensor(0.5).log() + switches * torch.tensor(0.05).log()
    expected = expected + (6 - switches) * torch.tensor(0.95).log()
    assert float(trace.log_prob_sum()) == pytest.approx(float(expected), rel=1e-6)
    assert drawn.shape == (3000, 4, 2)
    share = (drawn.diff(dim=1) != 0).double().mean().item()
    assert abs(share - 0.05) <= 4 * (0.05 * 0.95 / drawn[:, 1:].numel()) ** 0.5


def test_a_distribution_of_paths_scores_its_own_draws(x: Tensor) -> None:
    found = BayesFilter(Enumeration(), CHAINS["hidden Markov"], output="smoothed")(stream, x)
    assert found.joint is not None
    paths = found.joint.conditional("z", {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        values = paths.expand((5, 4, 2)).sample((3,))
    assert values.shape == (3, 5, 4, 2, 2)
    assert torch.equal(values, one_hot(values.argmax(-1), 2).to(values))
    steps = paths.log_prob(values)
    assert steps.shape == (3, 5, 4, 2)
    torch.testing.assert_close(steps.sum(-2), found.log_prob({"z": values.argmax(-1)}).float())
