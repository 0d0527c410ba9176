"""Problems with real data: what is drawn, and which posterior of them is exact."""

import math
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from gbi_pyro.data.images import load_images
from gbi_pyro.data.text import load_text
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.rescoring import Rescored
from gbi_pyro.metrics.agreement import kl
from studies.bench.data_problems import (
    ImageBudget,
    TextBudget,
    data_problems,
    image_pairs,
    image_problem,
    pair_problem,
    text_problem,
)

IMAGES = ImageBudget(epochs=10, hidden=32)
TEXTS = TextBudget(
    updates=60, vocabulary_size=30, embedding_size=6, hidden_size=8, length=10, words=12
)
NAMES = ("chat", "mail", "news")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    """A folder of three corpora, each with words of its own beside shared ones."""
    draw, folder = np.random.default_rng(0), tmp_path_factory.mktemp("corpora")
    for k, name in enumerate(NAMES):
        words = [*(f"w{i}" for i in range(8)), *(f"{name}{i}" for i in range(k + 2))]
        for split, lines in (("train", 200), ("dev", 30), ("test", 30)):
            (folder / split).mkdir(exist_ok=True)
            text = "".join(" ".join(draw.choice(words, 9)) + "\n" for _ in range(lines))
            (folder / split / f"{name}.txt").write_text(text)
    return folder


@pytest.fixture(params=["image", "pair", "text"])
def make(request, corpora):
    return {
        "image": partial(image_problem, "digits", None, budget=IMAGES),
        "pair": partial(pair_problem, "digits", None, budget=IMAGES),
        "text": partial(text_problem, corpora, budget=TEXTS),
    }[request.param]


def test_the_exact_posterior_recognises_the_tasks_and_every_score_brings_one_step_closer(make):
    problem = make(0)
    drawn = problem.draw(100, torch.Generator().manual_seed(1))
    exact = problem.posterior(drawn)
    K = exact.logits().shape[-1]
    right = (exact.mode("z") == drawn.tasks["z"]).double().mean().item()
    assert right > 1 / K + 3 * math.sqrt(1 / K * (1 - 1 / K) / 100)
    divergences = [kl(exact.logits(), OneStepGradient()(problem.model, *drawn.args).logits())]
    for m in (3, 5, K):
        found = Rescored(OneStepGradient(), num_scored=m, warn=False)(problem.model, *drawn.args)
        divergences.append(kl(exact.logits(), found.logits()))
    for more, less in pairwise(divergences):
        assert bool((less <= more + 1e-3).all())  # in every case, but for rounding
    assert divergences[-1].abs().max() < 1e-3


def test_draws_come_from_the_generator_alone_and_the_network_from_the_seed(make):
    def draw(problem, seed):
        (x,), tasks = problem.draw(20, torch.Generator().manual_seed(seed))
        return x, tasks["z"]

    one, same, other = make(0), make(0), make(1)
    assert one.model is same.model
    assert all(map(torch.equal, draw(one, 3), draw(other, 3)))
    assert not torch.equal(draw(one, 3)[0], draw(one, 4)[0])
    weights = (torch.cat([p.flatten() for p in q.model.parameters()]) for q in (one, other))
    assert not torch.equal(*weights)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_images_of_a_split_are_drawn_once_each_with_their_class(split):
    images = getattr(load_images("digits"), split)
    problem = image_problem("digits", None, budget=IMAGES, split=split)
    (x,), tasks = problem.draw(len(images.x), torch.Generator().manual_seed(0))

    def rows(x, y):
        return sorted(
            [*pixels, float(k)] for pixels, k in zip(x.flatten(1).tolist(), y.tolist(), strict=True)
        )

    assert rows(x, tasks["z"]) == rows(*images)
    with pytest.raises(ValueError, match=f"at most {len(images.x)}.*got {len(images.x) + 1}"):
        problem.draw(len(images.x) + 1, torch.Generator())


def test_a_pair_is_two_images_of_the_set_and_its_task_both_classes():
    test, pairs = load_images("digits").test, image_pairs("digits", None)
    known = dict(zip(map(tuple, test.x.flatten(1).tolist()), test.y.tolist(), strict=True))
    left, right = pairs.test.x.split(8, -1)
    for half, task in ((left, pairs.test.y // 10), (right, pairs.test.y % 10)):
        found = half.flatten(1).tolist()
        assert len({*map(tuple, found)}) == len(known)
        assert [known[tuple(x)] for x in found] == task.tolist()


def test_the_exact_posterior_of_a_text_is_that_of_its_words_likelihoods(corpora):
    problem = text_problem(corpora, budget=TEXTS)
    drawn = problem.draw(30, torch.Generator().manual_seed(0))
    expected = problem.model.log_likelihoods(*drawn.args).double().sum(1).log_softmax(-1)
    found = problem.posterior(drawn).logits().squeeze(1).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_text_stands_in_its_corpus(corpora, split):
    asked = "validation" if split == "dev" else split
    problem = text_problem(corpora, budget=TEXTS, split=asked)
    (x,), tasks = problem.draw(50, torch.Generator().manual_seed(0))
    assert x.shape == (50, TEXTS.words)
    assert tasks["z"].shape == (50, 1)
    sets = load_text(corpora, vocabulary_size=TEXTS.vocabulary_size)
    for text, k in zip(x, tasks["z"][:, 0].tolist(), strict=True):
        windows = sets.split(split)[k].unfold(0, TEXTS.words, 1)
        assert bool((windows == text).all(-1).any())


def test_a_text_longer_than_a_corpus_is_refused(corpora):
    with pytest.raises(ValueError, match=r"words should be at most 300.*got 301"):
        text_problem(corpora, budget=TextBudget(**{**vars(TEXTS), "words": 301}))


@pytest.mark.parametrize(("budget", "field"), [(ImageBudget, "epochs"), (TextBudget, "updates")])
def test_a_budget_of_none_is_refused(budget, field):
    with pytest.raises(ValueError, match=f"{field} must be positive, got 0"):
        budget(**{field: 0})


def test_every_problem_of_a_folder_can_be_made_of_a_seed_and_a_split(corpora):
    makers = data_problems(corpora)
    assert len(makers) == 4
    problem = makers["corpora"](0, budget=TEXTS, split="validation")
    assert problem.name == "3 corpora"
