import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gbi_pyro.data import BigramLanguages
from gbi_pyro.inference import hmm_posterior

SIGMAS = 5.0  # a sound test fails once in two million


def draw(seed: int = 0, **options: float) -> BigramLanguages:
    generator = torch.Generator().manual_seed(seed)
    return BigramLanguages.draw(**options, generator=generator)  # type: ignore[arg-type]


def all_texts(num_words: int, length: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(num_words), repeat=length)))


def explicit(languages: BigramLanguages, text: list[int]) -> list[float]:
    """p(x_1..T | k) for each k, multiplied out."""
    likelihood = []
    for initial, transition in zip(
        languages.initial.tolist(), languages.transition.tolist(), strict=True
    ):
        p = initial[text[0]]
        for previous, word in itertools.pairwise(text):
            p *= transition[previous][word]
        likelihood.append(p)
    return likelihood


# --- the exact posterior


@pytest.mark.parametrize("prior", [None, (0.7, 0.2, 0.1)])
def test_the_posterior_of_every_short_text_is_bayes_rule_multiplied_out(
    prior: tuple[float, ...] | None,
) -> None:
    languages = draw(num_languages=3, num_words=4, concentration=0.7)
    texts = all_texts(4, 4)
    log_prior = None if prior is None else torch.tensor(prior, dtype=torch.float64).log()
    posterior = languages.log_posterior(texts, log_prior).exp()
    for text, found in zip(texts.tolist(), posterior, strict=True):
        for t in range(4):
            joint = [
                p * w
                for p, w in zip(
                    explicit(languages, text[: t + 1]), prior or (1.0,) * 3, strict=True
                )
            ]
            want = torch.tensor(joint, dtype=torch.float64) / sum(joint)
            torch.testing.assert_close(found[t], want, rtol=1e-12, atol=0)


def test_each_text_can_have_a_prior_of_its_own() -> None:
    languages = draw(num_languages=3, num_words=4)
    tokens = languages.sample(5, 6, torch.Generator().manual_seed(1)).tokens
    log_prior = torch.rand(5, 3, generator=torch.Generator().manual_seed(2)).log_softmax(-1)
    together = languages.log_posterior(tokens, log_prior)
    for i in range(5):
        alone = languages.log_posterior(tokens[i : i + 1], log_prior[i])
        torch.testing.assert_close(together[i : i + 1], alone)


def test_the_probabilities_of_all_texts_sum_to_one_in_every_language() -> None:
    languages = draw(num_languages=3, num_words=4, concentration=0.3)
    total = languages.log_likelihood(all_texts(4, 5)).sum(1).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)


def test_the_posterior_stays_at_the_prior_on_average_and_comes_to_the_truth() -> None:
    """Over all texts: a martingale, whose probability of the true language can only rise."""
    languages = draw(num_languages=3, num_words=4)
    prior = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    texts = all_texts(4, 5)
    posterior = languages.log_posterior(texts, prior.log()).exp()
    p = languages.log_likelihood(texts).sum(1).exp()  # (N, K)
    mean = torch.einsum("n,ntk->tk", p @ prior, posterior)
    torch.testing.assert_close(mean, prior.expand(5, -1), rtol=1e-12, atol=0)
    of_truth = torch.einsum("nk,k,ntk->t", p, prior, posterior)
    assert (of_truth.diff() > 0).all()
    assert of_truth[0] > prior.square().sum()


def test_later_words_do_not_change_the_posterior_after_earlier_ones() -> None:
    languages = draw()
    tokens = languages.sample(20, 30, torch.Generator().manual_seed(1)).tokens
    torch.testing.assert_close(
        languages.log_posterior(tokens)[:, :9], languages.log_posterior(tokens[:, :9])
    )


# --- sampling


def frequencies_fit(counts: Tensor, p: Tensor) -> bool:
    """Whether each row of counts is within sampling error of its row of probabilities.

    Bernstein's inequality, which holds for rare words too: a sound count with variance v is farther
    off than t, t^2 = SIGMAS^2 (v + t / 3), once in a hundred thousand at most.
    """
    n = counts.sum(-1, keepdim=True)
    half = SIGMAS**2 / 6
    tolerance = half + (half**2 + SIGMAS**2 * n * p * (1 - p)).sqrt()
    return bool(((counts - n * p).abs() <= tolerance).all())


def pair_counts(previous: Tensor, word: Tensor, language: Tensor, L: BigramLanguages) -> Tensor:
    K, V = L.num_languages, L.num_words
    cell = (language * V + previous) * V + word
    return cell.flatten().bincount(minlength=K * V * V).view(K, V, V).double()


def test_words_follow_each_other_as_their_language_says(generator: torch.Generator) -> None:
    languages = draw(num_languages=3, num_words=5, concentration=0.8)
    tokens, drawn = languages.sample(6000, 30, generator)
    first = (drawn * 5 + tokens[:, 0]).bincount(minlength=15).view(3, 5)
    assert frequencies_fit(first.double(), languages.initial)
    each = drawn[:, None].expand(-1, 29)
    counts = pair_counts(tokens[:, :-1], tokens[:, 1:], each, languages)
    assert counts.sum() == 6000 * 29
    assert frequencies_fit(counts, languages.transition)
    # The languages are equally probable, and the check can fail.
    assert frequencies_fit(drawn.bincount(minlength=3).double(), torch.full((3,), 1 / 3))
    assert not frequencies_fit(counts, languages.transition.roll(1, 0))


def test_each_text_is_in_the_language_asked_for(generator: torch.Generator) -> None:
    languages = draw(num_languages=3, num_words=5, concentration=0.8)
    asked = torch.tensor([2, 0]).repeat(2000)
    tokens, given = languages.sample(4000, 20, generator, asked)
    assert torch.equal(given, asked)
    counts = pair_counts(tokens[:, :-1], tokens[:, 1:], asked[:, None].expand(-1, 19), languages)
    assert not counts[1].any()
    assert frequencies_fit(counts, languages.transition)


def test_a_word_after_a_change_comes_from_the_new_language(generator: torch.Generator) -> None:
    languages = draw(num_languages=3, num_words=5, concentration=0.8)
    tokens, each = languages.sample_switching(4000, 40, 0.2, generator)
    assert each.shape == tokens.shape == (4000, 40)
    changed = each[:, 1:] != each[:, :-1]
    n = changed.numel()
    assert abs(float(changed.double().mean()) - 0.2) < SIGMAS * math.sqrt(0.2 * 0.8 / n)
    shift = (each.diff() % 3)[changed]
    assert frequencies_fit(shift.bincount(minlength=3).double(), torch.tensor([0, 0.5, 0.5]))
    for where in (changed, ~changed):
        counts = pair_counts(
            tokens[:, :-1][where], tokens[:, 1:][where], each[:, 1:][where], languages
        )
        assert frequencies_fit(counts, languages.transition)
    first = (each[:, 0] * 5 + tokens[:, 0]).bincount(minlength=15).view(3, 5)
    assert frequencies_fit(first.double(), languages.initial)


def test_a_chain_without_chance_is_followed_to_the_letter(generator: torch.Generator) -> None:
    """One language counts up, the other down: words of probability zero never come."""
    up = torch.eye(4, dtype=torch.float64).roll(1, 1)
    start = torch.eye(4, dtype=torch.float64)[[0, 3]]
    languages = BigramLanguages(start, torch.stack([up, up.T]))
    tokens, drawn = languages.sample(50, 9, generator)
    for text, language in zip(tokens, drawn.tolist(), strict=True):
        t = torch.arange(9)
        assert torch.equal(text, t % 4 if language == 0 else (3 - t) % 4)
    posterior = languages.log_posterior(tokens).exp()
    assert torch.equal(posterior, torch.eye(2).double()[drawn][:, None].expand(-1, 9, -1))


def test_only_the_given_generator_is_used() -> None:
    before = torch.get_rng_state()
    languages, again, other = draw(0), draw(0), draw(1)
    assert torch.equal(languages.transition, again.transition)
    assert torch.equal(languages.initial, again.initial)
    assert not torch.equal(languages.transition, other.transition)
    for sample in (
        lambda seed: languages.sample(9, 20, torch.Generator().manual_seed(seed)),
        lambda seed: languages.sample_switching(9, 20, 0.1, torch.Generator().manual_seed(seed)),
    ):
        assert all(map(torch.equal, sample(1), sample(1)))
        assert not torch.equal(sample(1).tokens, sample(2).tokens)
    assert torch.equal(torch.get_rng_state(), before)


def test_texts_lie_where_their_generator_is(device: torch.device) -> None:
    generator = torch.Generator(device).manual_seed(0)
    languages = BigramLanguages.draw(generator=generator)
    for tokens, drawn in (
        languages.sample(4, 9, generator),
        languages.sample_switching(4, 9, 0.1, generator),
    ):
        posterior = languages.log_posterior(tokens)
        assert tokens.device.type == drawn.device.type == posterior.device.type == device.type
        torch.testing.assert_close(posterior.cpu(), languages.log_posterior(tokens.cpu()))


# --- calibration: the posterior of sampled texts is the exact one


def calibration_gap(q: Tensor, truth: Tensor) -> tuple[float, float]:
    """Mean of q(true language) - sum_k q_k^2, zero for a calibrated q, and its standard error.

    Words of a text depend on each other, texts do not.
    """
    gap = (q.gather(-1, truth.unsqueeze(-1)).squeeze(-1) - q.square().sum(-1)).mean(-1)
    return float(gap.mean()), float(gap.std() / math.sqrt(len(gap)))


def test_the_posterior_of_sampled_texts_is_calibrated(generator: torch.Generator) -> None:
    languages = draw()
    tokens, drawn = languages.sample(4000, 25, generator)
    truth, log_q = drawn[:, None].expand(-1, 25), languages.log_posterior(tokens)
    gap, error = calibration_gap(log_q.exp(), truth)
    assert abs(gap) < SIGMAS * error
    # And the statistic tells one that is too sure by a fifth.
    gap, error = calibration_gap((1.2 * log_q).softmax(-1), truth)
    assert gap < -SIGMAS * error


def test_the_chain_of_a_switching_text_is_calibrated(generator: torch.Generator) -> None:
    languages, K, hazard = draw(concentration=0.5), 5, 0.05
    tokens, each = languages.sample_switching(1500, 40, hazard, generator)

    def chain(hazard: float) -> tuple[Tensor, Tensor]:
        change = torch.full((K, K), hazard / (K - 1), dtype=torch.float64)
        posterior = hmm_posterior(
            torch.full((K,), 1 / K, dtype=torch.float64).log(),
            change.fill_diagonal_(1 - hazard).log(),
            languages.log_likelihood(tokens),
        )
        return posterior.log_filtered, posterior.log_smoothed

    for log_q in chain(hazard):
        gap, error = calibration_gap(log_q.exp(), each)
        assert abs(gap) < SIGMAS * error
    for log_q in chain(hazard / 5):
        gap, error = calibration_gap(log_q.exp(), each)
        assert gap < -SIGMAS * error


# --- drawing languages


@pytest.mark.parametrize("concentration", [0.1, 1.0, 3.0, 50.0])
def test_rows_have_the_moments_of_a_dirichlet(concentration: float) -> None:
    """Mean 1 / V, variance (1 / V)(1 - 1 / V) / (V a + 1) of each probability."""
    V = 20
    languages = draw(num_languages=40, num_words=V, concentration=concentration)
    assert (languages.num_languages, languages.num_words) == (40, V)
    rows = torch.cat([languages.initial, languages.transition.flatten(0, 1)])
    torch.testing.assert_close(rows.sum(-1), torch.ones(len(rows), dtype=torch.float64))
    assert len(rows.unique(dim=0)) == 40 * (V + 1)  # none is drawn once and used twice
    variance = (1 / V) * (1 - 1 / V) / (V * concentration + 1)
    error = math.sqrt(variance / len(rows))
    assert ((rows.mean(0) - 1 / V).abs() < SIGMAS * error).all()
    of_row = (rows - 1 / V).square().mean(-1)
    assert abs(of_row.mean() - variance) < SIGMAS * of_row.std() / math.sqrt(len(rows))


@pytest.mark.parametrize("concentration", [0.5, 3.0, 20.0])
def test_a_word_tells_two_languages_apart_by_one_over_the_concentration(
    concentration: float,
) -> None:
    """E KL(row || row') = (1 - 1 / V) / a for two independent rows of a symmetric Dirichlet."""
    V = 16
    one, other = draw(num_languages=400, num_words=V, concentration=concentration).transition.split(
        200
    )
    kl = (one * (one / other).log()).sum(-1).flatten()
    want = (1 - 1 / V) / concentration
    assert abs(kl.mean() - want) < SIGMAS * kl.std() / math.sqrt(len(kl))


def test_twenty_words_name_the_default_language_nine_times_in_ten_and_a_few_do_not() -> None:
    """What the defaults are for; the tolerance is the standard error over draws of languages."""
    right = []
    for seed in range(20):
        languages = draw(seed)
        tokens, drawn = languages.sample(500, 20, torch.Generator().manual_seed(seed))
        named = languages.log_posterior(tokens).argmax(-1) == drawn[:, None]
        right.append(named.double().mean(0))
    accuracy = torch.stack(right)
    error = accuracy.std(0) / math.sqrt(len(right))
    mean = accuracy.mean(0)
    assert mean[19] - SIGMAS * error[19] > 0.85
    assert mean[19] + SIGMAS * error[19] < 0.95
    assert mean[4] + SIGMAS * error[4] < 0.65
    assert mean[0] + SIGMAS * error[0] < 0.4
    assert mean[0] - SIGMAS * error[0] > 1 / 5


# --- errors

UNIFORM = torch.full((2, 3), 1 / 3, dtype=torch.float64)
CUBE = UNIFORM.unsqueeze(1).expand(2, 3, 3)
EVEN = BigramLanguages(UNIFORM, CUBE)


def alternating() -> BigramLanguages:
    """Languages in which no word follows itself."""
    half = (1 - torch.eye(3, dtype=torch.float64)) / 2
    return BigramLanguages(UNIFORM, half.expand(2, 3, 3))


def sample(*args: object, **options: object) -> Callable[[], object]:
    return lambda: EVEN.sample(*args, torch.Generator(), **options)  # type: ignore[arg-type]


def switch(*args: object) -> Callable[[], object]:
    return lambda: EVEN.sample_switching(*args, torch.Generator())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: draw(num_languages=0), "num_languages should be an integer.*got 0"),
        (lambda: draw(num_languages=1), r"initial should be \(K, V\).*got \(1, 32\): with a sin"),
        (lambda: draw(num_words=2.0), r"num_words should be an integer.*got 2\.0"),
        (lambda: draw(num_words=1), r"initial should be \(K, V\).*got \(5, 1\)"),
        (lambda: draw(concentration=0.0), r"concentration should be at least 0\.001.*got 0\.0"),
        (lambda: draw(concentration=math.inf), "concentration should be.*finite; got inf"),
        (lambda: draw(concentration=math.nan), "concentration.*got nan"),
        (lambda: BigramLanguages(UNIFORM[0], CUBE), r"initial should be.*got \(3,\)"),
        (
            lambda: BigramLanguages(UNIFORM, CUBE[:, :2]),
            r"transition should be \(K, V, V\) = \(2, 3, 3\).*got \(2, 2, 3\)",
        ),
        (lambda: BigramLanguages(UNIFORM.float(), CUBE), r"initial should be float64; got.*\.doub"),
        (lambda: BigramLanguages(UNIFORM, CUBE.float()), "transition should be float64"),
        (
            lambda: BigramLanguages(UNIFORM, CUBE * 0.9),
            r"transition should have rows of probabilities.*sums up to 0\.9: divide",
        ),
        (lambda: BigramLanguages(UNIFORM - 1 / 3, CUBE), "initial should have rows of probabilit"),
        (lambda: BigramLanguages(UNIFORM * math.nan, CUBE), "initial should have rows.*nan"),
        (
            lambda: BigramLanguages(
                torch.tensor([[1.5, -0.5, 0.0]] * 2, dtype=torch.float64), CUBE
            ),
            r"initial.*entries from -0\.5",
        ),
        (sample(0, 5), "num_sequences should be.*got 0"),
        (sample(5, 0), "length should be.*got 0"),
        (
            sample(2, 5, languages=torch.tensor([0, 2])),
            r"languages should be in 0\.\.1; got ids from 0 to 2",
        ),
        (sample(2, 5, languages=torch.tensor([0.0, 1.0])), "languages should be ids.*float32"),
        (
            sample(2, 5, languages=torch.zeros(2, 5, dtype=torch.int64)),
            r"languages should be \(2,\), one per text; got \(2, 5\): sample_switching",
        ),
        (switch(0, 5, 0.1), "num_sequences should be.*got 0"),
        (switch(5, 0, 0.1), "length should be.*got 0"),
        (switch(5, 5, 1.0), r"hazard should be a probability.*got 1\.0"),
        (
            lambda: EVEN.log_likelihood(torch.tensor([[0, 3]])),
            r"tokens should be in 0\.\.2; got ids from 0 to 3",
        ),
        (lambda: EVEN.log_posterior(torch.tensor([[-1, 2]])), "tokens should be.*from -1 to 2"),
        (lambda: EVEN.log_likelihood(torch.zeros(1, 2)), r"tokens should be ids.*call \.long"),
        (
            lambda: EVEN.log_likelihood(torch.tensor([0, 1])),
            r"tokens should be \(N, T\), a text per row.*got \(2,\)",
        ),
        (
            lambda: EVEN.log_posterior(torch.zeros(2, 0, dtype=torch.int64)),
            r"of one word or more; got \(2, 0\)",
        ),
        (
            lambda: EVEN.log_posterior(torch.tensor([[0]]), torch.zeros(3)),
            r"log_prior should be \(K,\) = \(2,\) or \(N, K\) = \(1, 2\); got \(3,\)",
        ),
        (
            lambda: EVEN.log_posterior(torch.tensor([[0]]), torch.tensor([0.5, 0.5])),
            r"log_prior should hold log probabilities.*log sum of 1\.19315: pass prior\.log",
        ),
        (
            lambda: EVEN.log_posterior(torch.tensor([[0]]), torch.tensor([math.nan, 0.0])),
            "log_prior.*nan",
        ),
        (
            lambda: alternating().log_posterior(torch.tensor([[0, 1, 2], [0, 1, 1]])),
            "positive probability in some language; got text 1, impossible from word 2 on",
        ),
    ],
)
def test_invalid_arguments_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
