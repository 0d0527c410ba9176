"""The language model: a probability model of words, each word given its past and the task."""

import math

import pyro.poutine as poutine
import pytest
import torch

from gbi_pyro import BayesFilter, Enumeration, OneStepGradient, TaskChain, clamped_loss, stepwise
from gbi_pyro.models import CONDITIONERS, Conditioning, LanguageLSTM, Words
from gbi_pyro.models.language_model import START

V, K, SEQUENCES, STEPS = 11, 3, 4, 6


def network(
    inout: bool = True, num_tasks: int | None = K, conditioning: Conditioning = "concat"
) -> LanguageLSTM:
    draw = torch.Generator().manual_seed(1)
    made = LanguageLSTM(
        V, num_tasks, 8, 12, inout=inout, conditioning=conditioning, generator=draw
    ).double()
    if made.task_bias is not None:
        torch.nn.init.normal_(made.task_bias, generator=draw)
    return made


@pytest.fixture
def words(generator: torch.Generator) -> torch.Tensor:
    return torch.randint(V, (SEQUENCES, STEPS), generator=generator)


def corner(k: int) -> torch.Tensor:
    return torch.eye(K, dtype=torch.float64)[k].expand(SEQUENCES, 1, K)


@pytest.mark.parametrize("inout", [False, True])
def test_the_probabilities_of_all_short_texts_sum_to_one(inout: bool) -> None:
    """Over every text of three words, given the task."""
    texts = torch.cartesian_prod(*[torch.arange(V)] * 3)
    joint = poutine.trace(network(inout)).get_trace(texts, corner(1)[:1].expand(len(texts), 1, K))
    joint.compute_log_prob()
    log_prob = joint.nodes["words"]["log_prob"].sum(-1)
    assert log_prob.logsumexp(0).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("inout", [False, True])
def test_a_word_is_predicted_from_earlier_words_only(inout: bool, words: torch.Tensor) -> None:
    net = network(inout)
    changed = words.clone()
    changed[:, 3] = (changed[:, 3] + 1) % V
    before, after = net.logits(words, corner(0)), net.logits(changed, corner(0))
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.isclose(before[:, 4:], after[:, 4:]).all()


def test_the_word_before_the_first_is_eos(words: torch.Tensor) -> None:
    net = network()
    longer = torch.cat([torch.full_like(words[:, :1], START), words], 1)
    inputs = net._inputs(longer, corner(0))[:, 1]
    torch.testing.assert_close(net._inputs(words, corner(0))[:, 0], inputs)


def test_inout_adds_what_words_the_task_likes(words: torch.Tensor) -> None:
    """With the task's own terms added, the logits are those of the network without them."""
    net, plain = network(inout=True), network(inout=False)
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if k != "task_bias"})
    z = torch.full((SEQUENCES, 1, K), 1 / K, dtype=torch.float64)
    expected = plain.logits(words, z) + net.task_bias.mean(-1)
    torch.testing.assert_close(net.logits(words, z), expected)


def test_the_plain_network_has_no_task(words: torch.Tensor) -> None:
    plain = network(inout=False, num_tasks=None)
    trace = poutine.trace(plain).get_trace(words)
    assert "z" not in trace.nodes
    loss = clamped_loss(plain, words)
    expected = torch.nn.functional.cross_entropy(plain.logits(words).flatten(0, 1), words.flatten())
    torch.testing.assert_close(loss, expected)


def test_the_loss_is_per_word_with_the_prior_of_the_task_spread_over_them(
    words: torch.Tensor,
) -> None:
    net = network()
    entropy = torch.nn.functional.cross_entropy(
        net.logits(words, corner(2)).flatten(0, 1), words.flatten()
    )
    expected = entropy + math.log(K) / STEPS
    torch.testing.assert_close(clamped_loss(net, words, corner(2)), expected)


@pytest.mark.parametrize("conditioning", CONDITIONERS)
@pytest.mark.parametrize("chunk", [None, 2])
def test_enumeration_is_bayes_over_whole_texts(
    conditioning: Conditioning, chunk: int | None, words: torch.Tensor
) -> None:
    net = network(conditioning=conditioning)
    found = Enumeration(chunk_size=chunk)(net, words).logits()
    each = [Words(net.logits(words, corner(k)), True).log_prob(words) for k in range(K)]
    torch.testing.assert_close(found[:, 0], torch.stack(each, -1).sum(1).log_softmax(-1))
    torch.testing.assert_close(net.log_likelihoods(words), torch.stack(each, -1))


def test_the_number_of_observations_is_the_number_of_words(words: torch.Tensor) -> None:
    counts = OneStepGradient()(network(), words).num_observations["z"]
    assert torch.equal(counts, torch.full((SEQUENCES, 1), float(STEPS), dtype=counts.dtype))


def test_one_step_is_exact_where_the_task_is_affine_at_small_effect(words: torch.Tensor) -> None:
    """A task of small effect is affine to first order: KL falls with its fourth power."""
    kls = []
    for scale in (1e-1, 1e-2):
        small = network()
        with torch.no_grad():
            small.task_bias.mul_(scale)
            small.lstm.weight_ih_l0[:, -K:].mul_(scale)
        p, q = Enumeration()(small, words).logits(), OneStepGradient()(small, words).logits()
        kls.append((p.exp() * (p - q)).sum(-1).max().item())
    assert kls[0] < 1e-2
    assert kls[1] < 10**-3.5 * kls[0]


def test_the_logits_of_an_affine_head_are_affine_in_the_task(words: torch.Tensor) -> None:
    net = network(conditioning="affine")
    z = torch.tensor([0.7, 0.5, -0.2], dtype=torch.float64).expand(SEQUENCES, 1, K)
    mixed = sum(weight * net.logits(words, corner(k)) for k, weight in enumerate(z[0, 0]))
    torch.testing.assert_close(net.logits(words, z), mixed)


@pytest.mark.parametrize("conditioning", CONDITIONERS)
def test_carried_states_reproduce_the_run(conditioning: Conditioning, words: torch.Tensor) -> None:
    """Started from its carried states, each word is predicted as by the whole run."""
    net = network(conditioning=conditioning)
    states = net.carried_states(words, corner(1))
    torch.testing.assert_close(net.logits(words, corner(1), states), net.logits(words, corner(1)))


def test_word_by_word_evidence_has_a_task_for_every_word(words: torch.Tensor) -> None:
    net = network()
    cut = stepwise(net, words)
    exact = Enumeration()(cut)
    assert exact.logits().shape == (SEQUENCES, STEPS, K)
    states = net.carried_states(words)
    by_hand = torch.stack(
        [
            Words(net.logits(words, corner(k), states), validate_args=True).log_prob(words)
            for k in range(K)
        ],
        -1,
    )
    torch.testing.assert_close(exact.logits(), by_hand.log_softmax(-1))
    stay = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]]).double()
    chain = TaskChain("uniform", stay.log())
    filtered = BayesFilter(OneStepGradient(), chain)(cut).logits()
    torch.testing.assert_close(filtered.logsumexp(-1), torch.zeros(SEQUENCES, STEPS).double())


def test_the_seed_decides_the_weights_and_leaves_the_global_state_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, other = network().state_dict(), network().state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary_size": 1}, "vocabulary_size must be at least 2"),
        ({"vocabulary_size": 5, "num_tasks": 1}, "num_tasks must be at least 2"),
        ({"vocabulary_size": 5, "num_tasks": None, "inout": True}, "needs a task"),
        ({"vocabulary_size": 5, "num_tasks": None, "conditioning": "film"}, "no task to enter"),
        ({"vocabulary_size": 5, "conditioning": "loud"}, "kind"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LanguageLSTM(**options)


# The distribution of words


def test_words_are_a_normalised_categorical(generator: torch.Generator) -> None:
    logits = 3 * torch.randn(5, V, generator=generator, dtype=torch.float64)
    ours, torchs = Words(logits, validate_args=True), torch.distributions.Categorical(logits=logits)
    value = torch.randint(V, (7, 5), generator=generator)
    torch.testing.assert_close(ours.log_prob(value), torchs.log_prob(value))
    assert ours.expand((7, 5)).batch_shape == (7, 5)
    with pytest.raises(ValueError, match="within the support"):
        ours.log_prob(torch.full((5,), V))


def test_words_are_drawn_with_their_probabilities() -> None:
    """The count of each word lies within five standard errors of its expectation."""
    probs, n = torch.tensor([0.1, 0.2, 0.7]).double(), 20_000
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = Words(probs.log()).sample((n,))
    counts = drawn.bincount(minlength=3)
    assert bool(((counts - n * probs).abs() < 5 * (n * probs * (1 - probs)).sqrt()).all())


def test_before_it_learns_a_network_may_be_a_unigram_model_of_each_task() -> None:
    draw = torch.Generator().manual_seed(0)
    log_p = torch.randn(K, V, generator=draw, dtype=torch.float64).log_softmax(-1)
    words = torch.zeros(SEQUENCES, 1, dtype=torch.int64)
    for net in (network(conditioning="affine"), network(inout=False), network(False, None)):
        net.start_at_unigrams(log_p)
        torch.nn.init.zeros_(net.embedding.weight)
        z = None if net.num_tasks is None else corner(1)
        expected = log_p[1] if net.task_bias is not None else log_p.exp().mean(0).log()
        found = net.logits(words, z).log_softmax(-1)[0, 0]
        torch.testing.assert_close(found, expected)


def test_unigrams_of_another_shape_or_of_probability_zero_are_refused() -> None:
    with pytest.raises(ValueError, match=r"log_probs should be \(3, 11\)"):
        network().start_at_unigrams(torch.zeros(2, V))
    with pytest.raises(ValueError, match="smooth the counts"):
        network().start_at_unigrams(torch.full((K, V), -torch.inf))


@pytest.mark.parametrize("conditioning", ["concat", "affine"])
def test_log_likelihoods_are_those_under_each_task(
    conditioning: Conditioning, words: torch.Tensor
) -> None:
    net = network(conditioning=conditioning)
    found = net.log_likelihoods(words)
    each = torch.stack([net.log_prob(words, corner(k)) for k in range(K)], -1)
    torch.testing.assert_close(found, each)


@pytest.mark.parametrize("conditioning", ["concat", "affine"])
def test_biases_alone_predict_the_first_word_if_asked(
    conditioning: Conditioning, words: torch.Tensor
) -> None:
    net = network(conditioning=conditioning)
    usual = net.logits(words, corner(1))
    net.first_from_biases = True
    assert net.task_bias is not None
    found = net.logits(words, corner(1))
    torch.testing.assert_close(found[:, 0], (net.bias + net.task_bias[:, 1]).expand(SEQUENCES, -1))
    assert torch.equal(found[:, 1:], usual[:, 1:])
    each = torch.stack([net.log_prob(words, corner(k)) for k in range(K)], -1)
    torch.testing.assert_close(net.log_likelihoods(words), each)
