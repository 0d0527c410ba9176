"""Choices against a stimulus, weighted by the probability of each task."""

from collections.abc import Callable

import pytest
import torch

from gbi_pyro.metrics import jeffreys_interval, psychometric

ONE = torch.ones(4, 1)


def test_of_known_tasks_it_is_the_share_of_their_own_trials(generator: torch.Generator) -> None:
    n, edges = 600, [-2.0, -0.5, 0.5, 2.0]
    stimulus = torch.randn(n, generator=generator)
    choice = torch.rand(n, generator=generator) < 0.5
    task = torch.randint(3, (n,), generator=generator)
    found = psychometric(stimulus, choice, torch.eye(3)[task], edges)
    for k in range(3):
        for b in range(3):
            here = (task == k) & (stimulus >= edges[b]) & (stimulus < edges[b + 1])
            ends = jeffreys_interval(choice[here].sum(), here.sum())
            assert found.num_trials[k, b] == here.sum()
            assert found.share[k, b] == pytest.approx(choice[here].double().mean().item())
            assert found.stimulus[k, b] == pytest.approx(stimulus[here].double().mean().item())
            assert (found.low[k, b], found.high[k, b]) == ends


def test_every_trial_is_in_one_bin_and_tasks_may_be_permuted(generator: torch.Generator) -> None:
    stimulus = torch.randn(5, 40, generator=generator)
    choice = (torch.rand(5, 40, generator=generator) < 0.5).long()
    probs = torch.rand(5, 40, 3, generator=generator).softmax(-1)
    padding = torch.arange(40) >= torch.tensor([40, 3, 0, 17, 25]).unsqueeze(-1)
    found = psychometric(stimulus, choice, probs, 6, padding)
    assert found.num_trials.sum().item() == pytest.approx(85, rel=1e-5)
    assert found.num_trials.sum(0).tolist() == pytest.approx([85 / 6] * 6, abs=2)
    other = psychometric(
        stimulus.masked_fill(padding, torch.nan), choice.masked_fill(padding, 9), probs, 6, padding
    )
    order = [2, 0, 1]
    permuted = psychometric(stimulus, choice, probs[..., order], 6, padding)
    for ours, same, moved in zip(found, other, permuted, strict=True):
        torch.testing.assert_close(ours, same)
        torch.testing.assert_close(ours[order], moved)


def test_a_stimulus_of_few_values_has_a_bin_for_each() -> None:
    found = psychometric([2.0, 0.0, 2.0, 0.0], [1, 0, 0, 0], ONE)
    assert found.stimulus.tolist() == [[0, 2]]
    assert found.share.tolist() == [[0, 0.5]]
    assert psychometric([1.0] * 4, [1, 0, 0, 0], ONE, 1).share.tolist() == [[0.25]]


def test_an_empty_bin_is_unknown_and_the_last_edge_belongs_to_its_bin() -> None:
    found = psychometric([0.0, 1.0, 3.0, 9.0], [1, 1, 1, 1], ONE, [0.0, 1.0, 2.0, 2.5, 3.0])
    assert found.num_trials.tolist() == [[1, 1, 0, 1]]
    assert found.share.isnan().tolist() == [[False, False, True, False]]
    assert found.low.isnan().tolist() == [[False, False, True, False]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: psychometric([1.0] * 4, [1] * 3, ONE), r"got \(4,\), \(3,\) and \(4, 1\)"),
        (lambda: psychometric([1.0] * 4, [1] * 4, ONE[:3]), r"and \(3, 1\)"),
        (lambda: psychometric([1.0] * 4, [1, 2, 1, 2], ONE), "choice should be 0 or 1; got 1 to 2"),
        (lambda: psychometric([1.0] * 4, [1] * 4, -ONE), "probabilities; got -1 to -1"),
        (lambda: psychometric([float("nan")] * 4, [1] * 4, ONE), "finite for at least one trial"),
        (lambda: psychometric([1.0] * 4, [1] * 4, ONE, 8, [True] * 4), "at least one trial"),
        (lambda: psychometric([1.0] * 4, [1] * 4, ONE, 8, [True]), r"shape \(4,\).*got \(1,\)"),
        (lambda: psychometric([1.0] * 4, [1] * 4, ONE, 0), "bins should be 1 or more"),
        (lambda: psychometric([1.0] * 4, [1] * 4, ONE, [1.0, 1.0]), "ascending edges"),
        (lambda: psychometric([1.0] * 4, [1] * 4, ONE, level=2.0), "level"),
    ],
)
def test_invalid_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
