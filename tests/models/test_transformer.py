"""The transformer: each word given its past and the task, in one pass or word by word."""

from typing import Any

import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from gbi_pyro import BayesFilter, Enumeration, OneStepGradient, TaskChain, stepwise
from gbi_pyro.metrics import kl
from gbi_pyro.models import CONDITIONERS, Conditioning, LanguageTransformer
from gbi_pyro.models.transformer import Block

V, K, SEQUENCES, STEPS = 11, 3, 4, 6


def network(conditioning: Conditioning = "concat", **options: Any) -> LanguageTransformer:
    draw = torch.Generator().manual_seed(1)
    options = {"num_tasks": K, "inout": True, **options}
    made = LanguageTransformer(
        V, width=8, heads=2, conditioning=conditioning, longest=9, generator=draw, **options
    ).double()
    if made.task_bias is not None:
        torch.nn.init.normal_(made.task_bias, generator=draw)
    return made.eval()


@pytest.fixture
def words(generator: torch.Generator) -> Tensor:
    return torch.randint(V, (SEQUENCES, STEPS), generator=generator)


def corner(k: int) -> Tensor:
    return torch.eye(K, dtype=torch.float64)[k].expand(SEQUENCES, 1, K)


def test_the_probabilities_of_all_short_texts_sum_to_one() -> None:
    texts = torch.cartesian_prod(*[torch.arange(V)] * 3)
    joint = poutine.trace(network()).get_trace(texts, corner(1)[:1].expand(len(texts), 1, K))
    joint.compute_log_prob()
    assert joint.nodes["words"]["log_prob"].sum(-1).logsumexp(0).item() == pytest.approx(
        0, abs=1e-9
    )


@pytest.mark.parametrize("conditioning", CONDITIONERS)
def test_a_changed_future_changes_nothing(conditioning: Conditioning, words: Tensor) -> None:
    """Neither the logits nor, word by word, the evidence: exactly."""
    net = network(conditioning)
    changed = words.clone()
    changed[:, 3] = (changed[:, 3] + 1) % V
    before, after = net.logits(words, corner(0)), net.logits(changed, corner(0))
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.isclose(before[:, 4:], after[:, 4:]).all()
    by_word = [OneStepGradient()(stepwise(net, w)).logits() for w in (words, changed)]
    assert torch.equal(by_word[0][:, :3], by_word[1][:, :3])


def test_attention_is_that_of_torch(generator: torch.Generator) -> None:
    block = Block(8, 2).double()
    x = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64)
    q, k, v = block._heads(x)
    expected = scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
    torch.testing.assert_close(block(x)[0], block._added(x, expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("conditioning", CONDITIONERS)
def test_words_that_start_from_carried_keys_are_the_whole_pass(
    conditioning: Conditioning, words: Tensor
) -> None:
    net = network(conditioning)
    states = net.carried_states(words, corner(1))
    found = net.logits(words, corner(1), states)
    torch.testing.assert_close(found, net.logits(words, corner(1)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("conditioning", ["affine", "film"])
def test_words_one_by_one_are_the_whole_pass(conditioning: Conditioning, words: Tensor) -> None:
    net = network(conditioning)
    z, carried, found = corner(2)[:, 0], None, []
    for previous in torch.cat([torch.ones_like(words[:, :1]), words[:, :-1]], 1).unbind(1):
        logits, carried = net.step(previous, z, carried)
        found.append(logits)
    torch.testing.assert_close(torch.stack(found, 1), net.logits(words, corner(2)))


@pytest.mark.parametrize("conditioning", CONDITIONERS)
@pytest.mark.parametrize("chunk", [None, 2])
def test_enumeration_is_bayes_over_whole_texts(
    conditioning: Conditioning, chunk: int | None, words: Tensor
) -> None:
    net = network(conditioning)
    found = Enumeration(chunk_size=chunk)(net, words).logits()
    each = torch.stack([net.log_prob(words, corner(k)) for k in range(K)], -1)
    torch.testing.assert_close(found[:, 0], each.sum(1).log_softmax(-1))
    torch.testing.assert_close(net.log_likelihoods(words), each)


@pytest.mark.parametrize("conditioning", ["affine", "concat"])
def test_evidence_of_each_word_in_one_pass(conditioning: Conditioning, words: Tensor) -> None:
    """Of word t under task k: the past carried under maximum entropy, its own task k."""
    net = network(conditioning)
    posterior = Enumeration()(stepwise(net, words))
    assert posterior.passes.forward == K + 1
    logits = []
    for k in range(K):
        by_word = []
        for t in range(STEPS):
            z = torch.full((SEQUENCES, t + 1, K), 1 / K, dtype=torch.float64)
            z[:, t] = corner(k)[:, 0]
            by_word.append(net.log_prob(words[:, : t + 1], z)[:, t])
        logits.append(torch.stack(by_word, 1))
    torch.testing.assert_close(posterior.logits(), torch.stack(logits, -1).log_softmax(-1))


def test_one_step_of_every_order_runs(words: Tensor) -> None:
    """Where the task has a small effect on the logits it is nearly affine."""
    net = network("affine")
    with torch.no_grad():
        net.task_bias.mul_(0.1)
        net.project.weight.mul_(0.1)
    exact = Enumeration()(net, words).logits()
    for order in (1, 2):
        found = OneStepGradient(order=order)(net, words)
        assert kl(exact, found.logits()).max().item() < 1e-3
    assert OneStepGradient()(net, words).passes == (1, 1, 0)


def test_a_corpus_that_changes_from_word_to_word_is_filtered(words: Tensor) -> None:
    net = network("affine")
    chain = TaskChain.sticky(K, hazard=0.1)
    found = BayesFilter(Enumeration(), chain, time="time")(stepwise(net, words))
    assert found.probs().shape == (SEQUENCES, STEPS, K)
    assert found.log_evidence is not None


def test_the_plain_network_has_no_task(words: Tensor) -> None:
    plain = network(num_tasks=None, inout=False)
    assert "z" not in poutine.trace(plain).get_trace(words).nodes
    logits, carried = plain.step(None)
    torch.testing.assert_close(logits, plain.logits(words[:1, :1])[:, 0])
    assert carried.keys.shape == (2, 1, 2, 1, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 6, "heads": 4}, "heads divide the width; got width=6, layers=2, heads=4"),
        ({"layers": 0}, "width, layers, heads and longest must be at least 1"),
        ({"num_tasks": 1}, "num_tasks must be at least 2"),
        ({"num_tasks": None, "inout": True}, "inout=True needs a task"),
        ({"num_tasks": None, "conditioning": "affine"}, "no task to enter"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LanguageTransformer(V, **options)


def test_a_text_that_is_too_long_is_named() -> None:
    net = network()
    with pytest.raises(ValueError, match="at most longest=9 words; got 10"):
        net.logits(torch.zeros(1, 10, dtype=torch.long), net.uniform(1))
    carried = None
    for _ in range(9):
        _, carried = net.step(torch.tensor([2]), carried=carried)
    with pytest.raises(ValueError, match="got 10"):
        net.step(torch.tensor([2]), carried=carried)
