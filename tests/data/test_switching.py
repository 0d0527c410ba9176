import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gbi_pyro.data import (
    BlockLaw,
    BoundedBlocks,
    FixedBlocks,
    GeometricBlocks,
    Stream,
    SwitchingStream,
)
from gbi_pyro.inference import HMMPosterior, hmm_posterior, hsmm_posterior

LAWS = [GeometricBlocks(0.1), FixedBlocks(7), BoundedBlocks(3, 12, 0.2)]
SIGMAS = 5.0  # a sound test fails once in two million


def exact(stream: SwitchingStream, x: Tensor) -> HMMPosterior:
    return hsmm_posterior(
        stream.log_initial, stream.log_transition, stream.log_emission(x), stream.log_duration
    )


def block_law(law: BlockLaw, longest: int) -> Tensor:
    """p(d) of whole blocks for d = 1..longest, written out from the definition of each law."""
    d = torch.arange(1, longest + 1, dtype=torch.float64)
    if isinstance(law, GeometricBlocks):
        return law.hazard * (1 - law.hazard) ** (d - 1)
    if isinstance(law, FixedBlocks):
        return (d == law.length).double()
    assert isinstance(law, BoundedBlocks)
    weight = torch.where(
        (d >= law.minimum) & (d <= law.maximum), (1 - law.hazard) ** (d - law.minimum), 0.0
    )
    return weight / weight.sum()


def first_two_blocks(z: Tensor) -> tuple[Tensor, Tensor]:
    """Steps of the first and second block of each sequence; T must hold them."""
    change = (z[:, 1:] != z[:, :-1]).int()
    assert (change.sum(-1) >= 2).all()
    ends = change.cumsum(-1)
    first = (ends == 0).sum(-1) + 1
    return first, (ends == 1).sum(-1)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("K", [2, 4])
def test_block_lengths_follow_their_law(law: BlockLaw, K: int, generator: torch.Generator) -> None:
    """Chi-square; the sequences are long enough that no block counted here is cut off."""
    stream = SwitchingStream(means=tuple(range(K)), blocks=law)
    z = stream.sample(4000, 400, generator).z
    p = block_law(law, 400)
    for length in first_two_blocks(z):
        counts = torch.bincount(length - 1, minlength=400).double()
        assert not counts[p == 0].any()
        # Cells with few expected blocks are merged, as the statistic's law is asymptotic.
        common = 4000 * p >= 10
        observed = torch.cat([counts[common], counts[~common].sum().view(1)])
        expected = 4000 * torch.cat([p[common], 1 - p[common].sum().view(1)])
        cells = expected > 1e-9
        chi2 = ((observed - expected) ** 2 / expected)[cells].sum()
        df = int(cells.sum()) - 1
        assert chi2 <= df + SIGMAS * math.sqrt(2 * df)


def test_geometric_blocks_end_at_their_hazard(generator: torch.Generator) -> None:
    z = SwitchingStream(means=(0.0, 1.0, 2.0)).sample(500, 200, generator).z
    rate = (z[:, 1:] != z[:, :-1]).double().mean()
    assert abs(rate - 0.03) < SIGMAS * math.sqrt(0.03 * 0.97 / (500 * 199))


@pytest.mark.parametrize("law", LAWS)
def test_a_block_hands_over_to_each_other_task_alike(
    law: BlockLaw, generator: torch.Generator
) -> None:
    K = 4
    z = SwitchingStream(means=tuple(range(K)), blocks=law).sample(300, 200, generator).z
    shift = (z[:, 1:] - z[:, :-1]) % K
    counts = torch.bincount(shift[shift > 0], minlength=K)[1:].double()
    p, n = 1 / (K - 1), counts.sum()
    assert ((counts / n - p).abs() < SIGMAS * (p * (1 - p) / n).sqrt()).all()


@pytest.mark.parametrize("law", LAWS)
def test_tasks_have_the_chains_marginals_at_every_step(
    law: BlockLaw, generator: torch.Generator
) -> None:
    """The prior p(z_t) of the exact chain: its prediction when nothing is observed."""
    stream = SwitchingStream(means=(0.0, 1.0, 2.0), blocks=law, prior=(0.8, 0.2, 0.0))
    B, T = 4000, 30
    z = stream.sample(B, T, generator).z
    nothing = torch.zeros(T, 3, dtype=torch.float64)
    p = hsmm_posterior(
        stream.log_initial, stream.log_transition, nothing, stream.log_duration
    ).log_predicted.exp()
    torch.testing.assert_close(p[0], torch.tensor([0.8, 0.2, 0.0], dtype=torch.float64))
    frequency = torch.nn.functional.one_hot(z, 3).double().mean(0)
    assert ((frequency - p).abs() <= SIGMAS * (p * (1 - p) / B).clamp_min(0).sqrt() + 1e-12).all()


def test_observations_scatter_around_the_mean_of_their_task(generator: torch.Generator) -> None:
    stream = SwitchingStream(means=(-1.0, 0.5, 2.0), sigma=0.3)
    x, z = stream.sample(200, 200, generator, dtype=torch.float64)
    for k, mean in enumerate(stream.means):
        of_task = x[z == k]
        n = len(of_task)
        assert abs(of_task.mean() - mean) < SIGMAS * 0.3 / math.sqrt(n)
        # The variance of a Gaussian sample has standard error sigma^2 sqrt(2 / n).
        assert abs(of_task.var() - 0.3**2) < SIGMAS * 0.3**2 * math.sqrt(2 / n)


def calibration_gap(q: Tensor, z: Tensor) -> tuple[float, float]:
    """Mean of q(true task) - sum_k q_k^2, which a calibrated q makes zero, and its standard error.

    Steps of a sequence depend on each other, sequences do not.
    """
    gap = (q.gather(-1, z.unsqueeze(-1)).squeeze(-1) - q.square().sum(-1)).mean(-1)
    return float(gap.mean()), float(gap.std() / math.sqrt(len(gap)))


@pytest.mark.parametrize("law", LAWS)
def test_the_exact_posterior_of_a_stream_is_calibrated(
    law: BlockLaw, generator: torch.Generator
) -> None:
    """E[q(z_true)] = E[sum_k q_k^2] for the posterior q under the law that generated z."""
    stream = SwitchingStream(means=(0.2, 0.5, 0.8), sigma=0.4, blocks=law, prior=(0.5, 0.3, 0.2))
    x, z = stream.sample(500, 60, generator, dtype=torch.float64)
    posterior = exact(stream, x)
    for log_q in (posterior.log_predicted, posterior.log_filtered, posterior.log_smoothed):
        gap, error = calibration_gap(log_q.exp(), z)
        assert abs(gap) < SIGMAS * error


@pytest.mark.parametrize("law", LAWS)
def test_the_calibration_test_can_fail(law: BlockLaw, generator: torch.Generator) -> None:
    """The same statistic tells a posterior whose chain changes tasks too rarely."""
    stream = SwitchingStream(means=(0.2, 0.5, 0.8), sigma=0.4, blocks=law)
    wrong = SwitchingStream(means=stream.means, sigma=0.4, blocks=GeometricBlocks(0.03))
    x, z = stream.sample(500, 60, generator, dtype=torch.float64)
    gap, error = calibration_gap(exact(wrong, x).log_filtered.exp(), z)
    assert abs(gap) > SIGMAS * error


def test_the_true_law_explains_a_stream_best(generator: torch.Generator) -> None:
    """Gibbs' inequality: the mean evidence is highest under the law that generated the data."""
    streams = [SwitchingStream(sigma=0.3, blocks=law) for law in LAWS]
    for truth in streams:
        x = truth.sample(200, 60, generator, dtype=torch.float64).x
        own = exact(truth, x).log_evidence
        for other in streams:
            if other is not truth:
                excess = own - exact(other, x).log_evidence
                assert excess.mean() > SIGMAS * excess.std() / math.sqrt(len(excess))


def test_geometric_chain_is_the_hidden_markov_chain(generator: torch.Generator) -> None:
    stream = SwitchingStream(means=(0.0, 1.0, 2.0), blocks=GeometricBlocks(0.2))
    expected = torch.full((3, 3), 0.1, dtype=torch.float64).fill_diagonal_(0.8)
    torch.testing.assert_close(stream.log_transition.exp(), expected)
    emission = stream.log_emission(stream.sample(3, 20, generator).x)
    chain = hmm_posterior(stream.log_initial, stream.log_transition, emission)
    blocks = hsmm_posterior(
        stream.log_initial, stream.log_transition, emission, stream.log_duration
    )
    for name, want in chain._asdict().items():
        if name != "paths":
            torch.testing.assert_close(getattr(blocks, name), want, atol=1e-12, rtol=1e-12)


def test_log_emission_is_the_density_of_each_task(generator: torch.Generator) -> None:
    stream = SwitchingStream(means=(0.0, 1.0, 3.0), sigma=0.7)
    x = torch.randn(4, 5, generator=generator)
    want = torch.distributions.Normal(torch.tensor(stream.means), 0.7).log_prob(x[..., None])
    torch.testing.assert_close(stream.log_emission(x), want)
    assert stream.log_emission(x.double()).dtype == torch.float64


def test_only_the_given_generator_is_used() -> None:
    stream = SwitchingStream(blocks=BoundedBlocks(2, 9, 0.1))
    before = torch.get_rng_state()
    first = stream.sample(3, 50, torch.Generator().manual_seed(1))
    again = stream.sample(3, 50, torch.Generator().manual_seed(1))
    other = stream.sample(3, 50, torch.Generator().manual_seed(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)


def test_precision_changes_rounding_alone() -> None:
    stream = SwitchingStream()
    single = stream.sample(4, 30, torch.Generator().manual_seed(1))
    double = stream.sample(4, 30, torch.Generator().manual_seed(1), dtype=torch.float64)
    assert single.x.dtype == torch.float32
    assert torch.equal(single.x, double.x.float())
    assert torch.equal(single.z, double.z)


def test_one_hot_points_at_the_true_task(generator: torch.Generator) -> None:
    stream = SwitchingStream(means=(0.0, 1.0, 2.0), blocks=FixedBlocks(2))
    drawn = stream.sample(2, 12, generator, dtype=torch.float64)
    corners = drawn.one_hot(stream.num_tasks)
    assert corners.dtype == torch.float64
    assert torch.equal(corners.sum(-1), torch.ones_like(drawn.x))
    assert torch.equal(corners.argmax(-1), drawn.z)


def test_lists_make_the_same_stream_as_tuples() -> None:
    listed = SwitchingStream(means=[0, 1], prior=[0.5, 0.5])  # type: ignore[arg-type]
    assert listed == SwitchingStream(means=(0.0, 1.0), prior=(0.5, 0.5))
    assert hash(listed) == hash(SwitchingStream(means=(0.0, 1.0), prior=(0.5, 0.5)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GeometricBlocks(0.0), r"hazard.*got 0.0: use 1 / \(mean block length\)"),
        (lambda: GeometricBlocks(1.0), "hazard.*got 1.0"),
        (lambda: GeometricBlocks(math.nan), "hazard.*got nan"),
        (lambda: FixedBlocks(0), "length should be an integer of at least 1; got 0"),
        (lambda: FixedBlocks(2.5), "length.*got 2.5"),
        (lambda: BoundedBlocks(0, 3, 0.1), "minimum.*got 0"),
        (lambda: BoundedBlocks(2, 3.0, 0.1), "maximum.*got 3.0"),
        (lambda: BoundedBlocks(4, 3, 0.1), "maximum should be at least minimum = 4; got 3"),
        (lambda: BoundedBlocks(2, 3, 1.5), "hazard.*got 1.5"),
        (lambda: SwitchingStream(means=(0.5,)), r"means should hold at least two.*\(0.5,\)"),
        (lambda: SwitchingStream(means=(0.5, math.inf)), "means.*finite.*inf"),
        (lambda: SwitchingStream(sigma=0.0), "sigma should be positive.*got 0.0"),
        (lambda: SwitchingStream(sigma=math.nan), "sigma.*got nan"),
        (lambda: SwitchingStream(blocks=0.03), "blocks should be a law.*got 0.03"),
        (lambda: SwitchingStream(prior=(1.0,)), "prior should hold 2 probabilities"),
        (lambda: SwitchingStream(prior=(0.5, 0.6)), "prior.*sum 1.1: divide by the sum"),
        (lambda: SwitchingStream(prior=(1.5, -0.5)), "prior.*-0.5"),
        (lambda: SwitchingStream(prior=(math.nan, 1.0)), "prior.*nan"),
        (lambda: SwitchingStream().sample(0, 5, torch.Generator()), "num_sequences.*got 0"),
        (lambda: SwitchingStream().sample(5, 0, torch.Generator()), "length.*got 0"),
        (
            lambda: SwitchingStream().sample(1, 1, torch.Generator(), dtype=torch.int64),
            "dtype should be a floating one.*int64",
        ),
        (
            lambda: Stream(torch.zeros(1, 2), torch.tensor([[0, 2]])).one_hot(2),
            "num_tasks should exceed the largest task id, 2; got 2",
        ),
    ],
)
def test_invalid_fields_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
