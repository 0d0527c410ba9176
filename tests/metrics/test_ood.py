"""AUROC against pair counts and closed forms; every score is larger out of distribution."""

import math
from collections.abc import Callable
from importlib import import_module

import numpy as np
import pytest
import torch
from pyro_models import random_log_probs
from torch import Tensor

from gbi_pyro.metrics import AUROC, auroc, ood
from gbi_pyro.metrics.ood import (
    combined_score,
    cosine_score,
    energy_score,
    ensemble_score,
    entropy_score,
    gradient_norm_score,
    likelihood_regret,
    log_likelihood_score,
    mahalanobis_score,
    max_logit_score,
    maximum_score,
    pca_residual_score,
    softmax_score,
)

NUM_TASKS, CODE = 4, 6


def detect(inside: object, outside: object, seed: int = 0, **options: object) -> AUROC:
    generator = torch.Generator().manual_seed(seed)
    return auroc(inside, outside, generator=generator, **options)  # type: ignore[arg-type]


def random_basis(generator: torch.Generator, rows: int, columns: int) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator).double()).Q


# Each case returns scores in and out of distribution. What makes an element an outlier is the
# definition of the field: no task is favoured, disagreement, an unlikely or unexplained datum.


def favouring(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Logits in favour of one task, by 6 to 8 nats, and by at most .5."""
    tasks = torch.randint(NUM_TASKS, (50,), generator=generator)
    one_hot = torch.nn.functional.one_hot(tasks, NUM_TASKS).double()
    strength = torch.rand(2, 50, 1, generator=generator).double()
    return one_hot * (6 + 2 * strength[0]), one_hot * 0.5 * strength[1]


def distances(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Near one task of four, and near none."""
    far = 20 + torch.rand(2, 50, NUM_TASKS, generator=generator)
    far[0, :, 2] = torch.rand(50, generator=generator)
    return mahalanobis_score(far[0]), mahalanobis_score(far[1])


def relative_distances(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """All far from everything, for a reason that has nothing to do with tasks."""
    shared = 100 * torch.rand(2, 50, generator=generator)
    d = shared.unsqueeze(-1) + torch.tensor([5.0, 1.0]).reshape(2, 1, 1).expand(2, 50, NUM_TASKS)
    return mahalanobis_score(d[1], shared[1]), mahalanobis_score(d[0], shared[0])


def combined(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Outliers of both kinds, and elements of neither."""
    known = torch.rand(2, 80, generator=generator)
    some = torch.rand(2, 50, generator=generator)
    return combined_score([*some / 2], [*known]), combined_score([*some + 1], [*known])


def by_logits(score: Callable[[Tensor], Tensor]) -> Callable:
    return lambda generator: tuple(map(score, favouring(generator)))


def by_log_probs(score: Callable[[Tensor], Tensor]) -> Callable:
    return by_logits(lambda logits: score(logits.log_softmax(-1)))


def ensembles(kind: str) -> Callable:
    def case(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        surely = favouring(generator)[0].log_softmax(-1)
        agreeing = surely.expand(NUM_TASKS, -1, -1)
        # Each member is as sure as before, of another task.
        differing = torch.stack([surely.roll(m, -1) for m in range(NUM_TASKS)])
        return ensemble_score(agreeing, kind), ensemble_score(differing, kind)  # type: ignore[arg-type]

    return case


def cosines(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    directions = random_basis(generator, CODE, NUM_TASKS).T.expand(50, -1, -1)
    size = 0.1 + torch.rand(50, 1, generator=generator).double()
    along = size * directions[:, 1]
    across = size * random_basis(generator, CODE, CODE)[0]
    across = across - torch.einsum(
        "nkr,nk->nr", directions, (directions @ across[..., None])[..., 0]
    )
    against = -size * directions.sum(1)
    return cosine_score(along, directions), cosine_score(
        torch.cat([across, against]), torch.cat([directions] * 2)
    )


def residuals(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    basis = random_basis(generator, 10, 10)
    mean, inside, outside = torch.ones(10).double(), basis[:, :3], basis[:, 3:]
    # Those in distribution are the longer vectors: only what is outside the space counts.
    x = mean + 10 * torch.randn(50, 3, generator=generator).double() @ inside.T
    y = mean + (1 + torch.rand(50, 7, generator=generator).double()) @ outside.T
    return pca_residual_score(x, mean, inside), pca_residual_score(y, mean, inside)


def likelihoods(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    log_p = -torch.rand(2, 50, generator=generator)
    return log_likelihood_score(log_p[0]), log_likelihood_score(log_p[1] - 2)


def regrets(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    # What the trained model explains already leaves little to gain, be it likely or not.
    before, gain = (
        -100 * torch.rand(2, 50, generator=generator),
        torch.rand(2, 50, generator=generator),
    )
    gain[1] += 2
    return likelihood_regret(before[0], before[0] + gain[0]), likelihood_regret(
        before[1], before[1] + gain[1]
    )


CASES: dict[str, Callable[[torch.Generator], tuple[Tensor, Tensor]]] = {
    "maximum_score": by_log_probs(maximum_score),
    "entropy_score": by_log_probs(entropy_score),
    "gradient_norm_score": by_logits(gradient_norm_score),
    "cosine_score": cosines,
    "log_likelihood_score": likelihoods,
    "likelihood_regret": regrets,
    "mahalanobis_score": distances,
    "mahalanobis_score (relative)": relative_distances,
    "combined_score": combined,
    "softmax_score": by_logits(softmax_score),
    "max_logit_score": by_logits(max_logit_score),
    "energy_score": by_logits(energy_score),
    "energy_score at T = 3": by_logits(lambda logits: energy_score(logits, 3.0)),
    "ensemble_score": ensembles("entropy"),
    "ensemble_score of disagreement": ensembles("mutual information"),
    "pca_residual_score": residuals,
}


def test_every_score_has_a_case() -> None:
    scores = {n for n in vars(ood) if n.endswith(("_score", "_regret")) and not n.startswith("_")}
    assert {name.split()[0] for name in CASES} == scores


@pytest.mark.parametrize("name", CASES)
def test_a_score_is_larger_out_of_distribution(name: str, generator: torch.Generator) -> None:
    inside, outside = CASES[name](generator)
    assert inside.dtype == torch.float64
    assert inside.max() < outside.min()
    assert detect(inside, outside, bootstrap=10) == (1.0, 1.0, 1.0, 0.0, 50, len(outside))


def test_maximum_and_entropy_tell_sure_elements_apart_in_single_precision() -> None:
    logits = torch.tensor([[0.0, -20.0], [0.0, -40.0], [0.0, -300.0]]).double()
    single = logits.log_softmax(-1).float()
    assert (single[:, 0].exp() == 1).all()  # equally sure, by the look of it
    for score in (maximum_score, entropy_score):
        assert (score(single).diff() < 0).all()
    torch.testing.assert_close(maximum_score(single), torch.exp(logits[:, 1]), rtol=1e-6, atol=0)


def test_scores_of_one_posterior_agree_with_their_definitions(generator: torch.Generator) -> None:
    logits = 3 * torch.randn(200, NUM_TASKS, generator=generator, dtype=torch.float64)
    log_q = logits.log_softmax(-1)
    torch.testing.assert_close(maximum_score(log_q), -log_q.amax(-1))
    torch.testing.assert_close(softmax_score(logits), -log_q.amax(-1))
    torch.testing.assert_close(entropy_score(log_q), -(log_q.exp() * log_q).sum(-1))
    assert (entropy_score(log_q) <= math.log(NUM_TASKS)).all()
    # -log max q = energy - (largest logit), with signs: the three classifier scores are one family.
    torch.testing.assert_close(
        softmax_score(logits), max_logit_score(logits) - energy_score(logits)
    )
    # For low temperature the energy is the largest logit.
    torch.testing.assert_close(
        energy_score(logits, 1e-3), max_logit_score(logits), atol=1e-3 * math.log(4), rtol=0
    )
    # Scores of classifiers other than the softmax see a constant; the posterior's do not.
    torch.testing.assert_close(energy_score(logits + 5.0), energy_score(logits) - 5.0)
    torch.testing.assert_close(softmax_score(logits + 5.0), softmax_score(logits))


def test_gradient_norm_sees_the_likelihood_alone(generator: torch.Generator) -> None:
    log_likelihood = torch.randn(100, NUM_TASKS, generator=generator, dtype=torch.float64)
    log_prior = random_log_probs(generator, NUM_TASKS)
    expected = gradient_norm_score(log_likelihood)
    joint = log_likelihood + log_prior
    torch.testing.assert_close(gradient_norm_score(joint, log_prior), expected)
    torch.testing.assert_close(gradient_norm_score(joint, log_prior.expand(100, -1)), expected)
    # The one-step posterior holds the same.
    torch.testing.assert_close(gradient_norm_score(joint.log_softmax(-1), log_prior), expected)
    torch.testing.assert_close(
        -expected, (log_likelihood - log_likelihood.mean(-1, keepdim=True)).square().sum(-1).sqrt()
    )
    # Only the tangent space of the simplex counts: half of the squared differences of all pairs.
    pairs = (log_likelihood[:, :, None] - log_likelihood[:, None]).square().sum((-1, -2))
    torch.testing.assert_close(expected.square(), pairs / (2 * NUM_TASKS))


def test_cosine_knows_direction_but_no_length(generator: torch.Generator) -> None:
    residual = torch.randn(30, CODE, generator=generator, dtype=torch.float64)
    directions = torch.randn(30, NUM_TASKS, CODE, generator=generator, dtype=torch.float64)
    found = cosine_score(residual, directions)
    expected = torch.stack(
        [torch.cosine_similarity(residual, directions[:, k], -1) for k in range(NUM_TASKS)]
    )
    torch.testing.assert_close(found, -expected.amax(0))
    torch.testing.assert_close(cosine_score(1e-200 * residual, 1e9 * directions), found)
    rotation = random_basis(generator, CODE, CODE)
    torch.testing.assert_close(cosine_score(residual @ rotation, directions @ rotation), found)
    shared = directions[0]
    torch.testing.assert_close(
        cosine_score(residual, shared), cosine_score(residual, shared.expand(30, -1, -1))
    )
    assert cosine_score(torch.zeros(1, CODE), shared).item() == 0  # no direction at all
    assert found.abs().max() <= 1


def test_entropy_of_an_ensemble_is_disagreement_and_the_members_own(
    generator: torch.Generator,
) -> None:
    members = random_log_probs(generator, 5, 40, NUM_TASKS)
    total, between = ensemble_score(members), ensemble_score(members, "mutual information")
    within = entropy_score(members).mean(0)
    torch.testing.assert_close(total, between + within)
    assert (between >= 0).all()
    assert (between <= math.log(5)).all()  # what one of five members can tell of the task
    torch.testing.assert_close(ensemble_score(members[:1]), entropy_score(members[0]))
    same = members[:1].expand(5, -1, -1)
    torch.testing.assert_close(ensemble_score(same, "mutual information"), torch.zeros(40).double())


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_pca_residual_is_what_the_projection_leaves(generator: torch.Generator, rank: int) -> None:
    x = 3 * torch.randn(50, 12, generator=generator, dtype=torch.float64)
    mean, basis = x.mean(0), random_basis(generator, 12, 12)[:, :rank]
    found = pca_residual_score(x, mean, basis)
    centred = x - mean
    expected = centred.square().sum(-1) - (centred @ basis).square().sum(-1)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert (found >= 0).all()
    # Another basis of the same space, and a step within it, change nothing.
    turned = basis @ random_basis(generator, rank, rank)
    torch.testing.assert_close(pca_residual_score(x, mean, turned), found, atol=1e-10, rtol=0)
    torch.testing.assert_close(
        pca_residual_score(x + basis[:, 0], mean, basis), found, atol=1e-10, rtol=0
    )


def test_pca_residual_sums_to_the_discarded_variance(generator: torch.Generator) -> None:
    scales = torch.arange(1.0, 9.0).double()
    x = torch.randn(100, 8, generator=generator, dtype=torch.float64) * scales
    mean = x.mean(0)
    _, singular, right = torch.linalg.svd(x - mean, full_matrices=False)
    found = pca_residual_score(x, mean, right[:3].T)
    torch.testing.assert_close(found.sum(), singular[3:].square().sum())


# AUROC


@pytest.mark.parametrize("levels", [3, 10, 10_000])
def test_auroc_counts_pairs_with_ties_as_half(generator: torch.Generator, levels: int) -> None:
    inside = torch.randint(levels, (83,), generator=generator)
    outside = torch.randint(levels, (57,), generator=generator) + levels // 3
    found = detect(inside, outside)
    difference = outside[:, None] - inside
    expected = (difference > 0).double().mean() + 0.5 * (difference == 0).double().mean()
    assert found.value == pytest.approx(expected.item(), abs=1e-12)
    assert found.low < found.value < found.high
    # The highest threshold that finds 95 % of the others; scores equal to it are found.
    reaching = [t for t in outside.unique() if (outside >= t).double().mean() >= 0.95]
    expected = (inside >= max(reaching)).double().mean()
    assert found.fpr_at_95 == pytest.approx(expected.item(), abs=1e-12)
    assert (found.num_in, found.num_ood) == (83, 57)


def test_nineteen_of_twenty_are_95_percent() -> None:
    outside = torch.arange(20.0)  # the threshold is 1: the lowest one may be missed, 0
    assert detect(torch.tensor([0.5, 0.9, 1.0, 3.0]), outside).fpr_at_95 == 0.5


@pytest.mark.parametrize(
    "transform",
    [torch.exp, lambda x: 1e9 * x - 7, lambda x: x**3, lambda x: torch.where(x > 2, math.inf, x)],
)
def test_only_the_order_of_scores_matters(
    generator: torch.Generator, transform: Callable[[Tensor], Tensor]
) -> None:
    inside = torch.randn(60, generator=generator, dtype=torch.float64).clamp(max=2.0)
    outside = torch.randn(40, generator=generator, dtype=torch.float64) + 1
    outside[outside > 2] = 3.0  # one value beyond 2, so that the last transform keeps the order
    assert detect(transform(inside), transform(outside)) == detect(inside, outside)


def test_a_flipped_sign_detects_the_complement(generator: torch.Generator) -> None:
    inside = torch.randint(6, (60,), generator=generator)
    outside = torch.randint(6, (40,), generator=generator) + 1
    found, flipped, swapped = (
        detect(inside, outside),
        detect(-inside, -outside),
        detect(outside, inside),
    )
    assert flipped.value == pytest.approx(1 - found.value, abs=1e-12)
    assert swapped.value == pytest.approx(1 - found.value, abs=1e-12)
    # The same seed draws the same elements, so that the interval is mirrored too.
    assert flipped.low == pytest.approx(1 - found.high, abs=1e-12)
    assert flipped.high == pytest.approx(1 - found.low, abs=1e-12)


def test_a_constant_score_is_chance() -> None:
    assert detect(torch.zeros(10), torch.zeros(7)) == (0.5, 0.5, 0.5, 1.0, 10, 7)
    assert detect([1.0], [2.0]) == (1.0, 1.0, 1.0, 0.0, 1, 1)


@pytest.mark.parametrize("distance", [0.0, 1.0, 2.5])
def test_the_interval_covers_the_truth(generator: torch.Generator, distance: float) -> None:
    # Two unit normal distributions `distance` apart: AUROC = Phi(distance / sqrt 2).
    truth = torch.special.ndtr(torch.tensor(distance / math.sqrt(2))).item()
    covered = 0
    for seed in range(100):
        inside = torch.randn(150, generator=generator)
        outside = torch.randn(200, generator=generator) + distance
        found = detect(inside, outside, seed=seed, bootstrap=300)
        covered += found.low <= truth <= found.high
    assert covered >= 90


def test_the_interval_has_the_width_of_the_asymptotic_one(generator: torch.Generator) -> None:
    inside = torch.randn(900, generator=generator).mul(4).round()  # with ties
    outside = torch.randn(600, generator=generator).mul(4).round() + 3
    wins = (outside[:, None] > inside).double() + 0.5 * (outside[:, None] == inside)
    # DeLong et al. 1988: the variance of the mean of both one-sided means.
    error = math.sqrt(wins.mean(1).var().item() / 600 + wins.mean(0).var().item() / 900)
    for level, quantile in ((0.95, 1.960), (0.68, 0.994)):
        found = detect(inside, outside, bootstrap=4000, level=level)
        # The two ends' own errors at 4000 resamples: about 3 % of the width.
        assert found.high - found.low == pytest.approx(2 * quantile * error, rel=0.1)


def test_resampling_in_pieces_draws_from_all(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = torch.randn(50, generator=generator), torch.randn(70, generator=generator)
    whole = detect(inside, outside, bootstrap=2001)
    monkeypatch.setattr(import_module("gbi_pyro.metrics.auroc"), "CHUNK", 120 * 100)
    pieces = detect(inside, outside, bootstrap=2001)
    assert (pieces.value, pieces.fpr_at_95) == (whole.value, whole.fpr_at_95)
    width = whole.high - whole.low
    # Each end of 2001 resamples has an error of about 1.5 % of the width.
    assert pieces.low == pytest.approx(whole.low, abs=0.1 * width)
    assert pieces.high == pytest.approx(whole.high, abs=0.1 * width)


def test_auroc_is_reproducible_and_takes_arrays(generator: torch.Generator) -> None:
    inside, outside = torch.randn(50, generator=generator), torch.randn(70, generator=generator)
    found = detect(inside, outside)
    assert found == detect(inside.numpy(), outside.numpy().astype(np.float64))
    assert found == detect(inside.clone().requires_grad_(), outside)
    other = detect(inside, outside, seed=1)
    assert other.value == found.value
    assert other.low != found.low


# Errors


@pytest.mark.parametrize(
    ("inside", "outside", "options", "message"),
    [
        ([0.0, math.nan], [1.0], {"name": "cosine"}, "'cosine' is NaN for 1 of 2 in-distribution"),
        ([0.0], [math.nan, math.nan], {"name": "regret"}, "'regret' is NaN for 2 of 2 ood"),
        ([[0.0], [1.0]], [1.0], {}, r"'score' should give one number per element.*\(2, 1\)"),
        ([0.0], [], {"name": "energy"}, "'energy' should give .* at least one ood"),
        ([0.0], [1.0], {"bootstrap": 0}, "bootstrap should be 1 or more resamples; got 0"),
        ([0.0], [1.0], {"level": 95}, "level should be between 0 and 1; got 95"),
    ],
)
def test_invalid_scores_are_named(inside: list, outside: list, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detect(inside, outside, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: maximum_score([0.5, 0.5]), "log_probs should hold log probabilities normalised"),
        (lambda: entropy_score(torch.zeros(2, 0)), r"log_probs should be \(\.\.\., K\)"),
        (lambda: gradient_norm_score([0.0, math.inf]), "should be finite"),
        (
            lambda: gradient_norm_score(torch.zeros(5, 3), torch.zeros(2)),
            r"log_prior should be \(3,\) or \(5, 3\).*got \(2,\)",
        ),
        (
            lambda: cosine_score(torch.zeros(5, 3), torch.zeros(4, 2, 3)),
            r"directions should be \(5, K, 3\) or \(K, 3\).*got \(4, 2, 3\)",
        ),
        (
            lambda: cosine_score(torch.zeros(5, 3), torch.zeros(3, 2)),
            r"directions should be \(5, K, 3\) or \(K, 3\).*got \(3, 2\)",
        ),
        (lambda: cosine_score(torch.zeros(5, 3), torch.zeros(3)), r"directions should be"),
        (
            lambda: mahalanobis_score(torch.ones(3, 2), torch.ones(2)),
            r"background should be \(3,\), one distance per element; got \(2,\)",
        ),
        (lambda: combined_score([], []), "as many, one or more; got 0 and 0"),
        (lambda: combined_score([[1.0]], [[1.0], [2.0]]), "as many, one or more; got 1 and 2"),
        (lambda: combined_score([[1.0]], [[[1.0]]]), r"reference scores should be \(n,\)"),
        (lambda: combined_score([[math.nan]], [[1.0]]), "no score NaN"),
        (
            lambda: likelihood_regret(torch.zeros(3), torch.zeros(1)),
            r"after should have the shape of before, \(3,\); got \(1,\)",
        ),
        (lambda: softmax_score(3.0), "logits should have a last dimension"),
        (
            lambda: energy_score([0.0, 1.0], 0.0),
            "temperature should be positive and finite; got 0.0",
        ),
        (lambda: ensemble_score([0.5, 0.5]), "log_probs should hold log probabilities"),
        (lambda: ensemble_score(torch.zeros(1)), r"log_probs should be \(M, \.\.\., K\)"),
        (
            lambda: ensemble_score(torch.zeros(2, 3, 1), "variance"),  # type: ignore[arg-type]
            "kind should be 'entropy' or 'mutual information'; got 'variance'",
        ),
        (
            lambda: pca_residual_score(torch.zeros(5, 4), torch.zeros(4), torch.eye(4)[:2]),
            r"basis \(4, r\).*got \(4,\) and \(2, 4\).*components as columns",
        ),
        (
            lambda: pca_residual_score(torch.zeros(5, 4), torch.zeros(4), 2 * torch.eye(4)),
            "orthonormal columns; basis' basis is off the identity by 3",
        ),
    ],
)
def test_invalid_arguments_are_named(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_p_values_of_the_reference_itself_are_uniform(generator: torch.Generator) -> None:
    reference = torch.randn(99, generator=generator)
    p = combined_score([reference], [reference]).neg().exp()
    torch.testing.assert_close(p.sort().values, torch.arange(2, 101).double() / 100)


def test_the_combination_sees_only_the_order_of_scores(generator: torch.Generator) -> None:
    scores, known = (torch.randn(2, n, generator=generator).double() for n in (50, 200))
    before = combined_score([*scores], [*known])
    changed = combined_score([scores[1].exp(), 3 * scores[0]], [known[1].exp(), 3 * known[0]])
    torch.testing.assert_close(before, changed)


def test_the_relative_distance_ignores_what_tasks_share(generator: torch.Generator) -> None:
    d, shared = torch.rand(8, 3, generator=generator), torch.rand(8, generator=generator)
    background = torch.rand(8, generator=generator)
    moved = mahalanobis_score(d + shared.unsqueeze(-1), background + shared)
    torch.testing.assert_close(moved, mahalanobis_score(d, background), atol=1e-6, rtol=1e-6)
