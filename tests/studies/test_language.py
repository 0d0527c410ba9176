"""The language study on tiny networks: what it computes is compared with brute force."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import arviz as az
import numpy as np
import pytest
import torch
from study_runs import check_posterior_file, without_figures

from gbi_pyro import Enumeration, relaxed_log_joint
from studies.core.runner import num_stages, run
from studies.language import adaptation, identify, study, training
from studies.language.config import OF_LSTMS, OF_TRANSFORMERS, TRANSFORMERS, LanguageConfig
from studies.language.study import LanguageStudy
from studies.language.table import words_to_reach
from studies.language.texts import (
    Texts,
    bigram_texts,
    choose_sets,
    folder_of_corpora,
    read_texts,
    stationary,
    texts_checksum,
    windows_of_each,
)
from studies.language.training import HEAD, NETWORKS, PAPER, PLAIN, Curve, build, train

TINY = LanguageConfig(draws=1, draw_size=2, leave_one_out=True).fast()


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    """A folder of three corpora, each with words of its own that are frequent."""
    draw, folder = np.random.default_rng(0), tmp_path_factory.mktemp("corpora")
    words = np.array([f"w{i}" for i in range(25)])
    for k, name in enumerate(("chat", "mail", "news")):
        weights = 1.0 + 5.0 * (np.arange(25) % 3 == k)
        for split, lines in (("train", 200), ("dev", 90), ("test", 90)):
            drawn = draw.choice(words, (lines, 9), p=weights / weights.sum())
            (folder / split).mkdir(exist_ok=True)
            text = "".join(" ".join(line) + "\n" for line in drawn)  # ten tokens with its end
            (folder / split / f"{name}.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def texts(corpora) -> Texts:
    """Two of the corpora."""
    return read_texts(TINY, corpora, choose_sets(TINY, corpora)[0])


@pytest.fixture(scope="module")
def finished(corpora, tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("language")
    stages: list[str] = []
    return run(LanguageStudy(TINY, corpora), folder, progress=stages.append), folder, stages


def make(texts: Texts, kind: str):
    return build(TINY, len(texts.sets.vocabulary), texts.num_tasks, kind, 0)


def test_the_study_writes_what_it_found(finished):
    results, folder, _ = finished
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    assert len(rows) == len(results.rows)
    assert [r["what"] for r in rows if r["verdict"]] == [r.what for r in results.targets]
    assert all(path.exists() for path in results.figures)
    figures = {"learning-2-corpora", "learning-3-corpora", "adaptation", "stream"}
    assert {path.stem for path in results.figures} == figures
    data = az.from_netcdf(folder / "posterior.nc")
    assert data.task_probs["z"].dims[:1] == ("sequence",)
    np.testing.assert_allclose(data.task_probs["z"].sum("z_task"), 1, atol=1e-5)
    assert list(data.task_probs["z"]["z_task"].values) == ["chat", "mail", "news"]


def test_the_posterior_comes_back_as_it_was_written(finished, corpora):
    check_posterior_file(LanguageStudy(TINY, corpora), finished[0])


def test_every_stage_is_reported(finished, corpora):
    _, _, stages = finished
    assert len(stages) == num_stages(LanguageStudy(TINY, corpora))


def test_every_corpus_is_left_out_once_and_every_way_compared(finished):
    _, folder, _ = finished
    ways = json.loads((folder / "adaptation.json").read_text())["ways"]
    assert {w["corpus"] for w in ways} == {"chat", "mail", "news"}
    found = {(w["network"], w["method"], w["words"]) for w in ways}
    moved = (adaptation.BEST_KNOWN, adaptation.ON_SIMPLEX, adaptation.FREE, adaptation.FINE_TUNED)
    of_plain = (adaptation.INPUT, adaptation.FINE_TUNED, adaptation.BIAS)
    assert found == {
        *((kind, adaptation.ZERO_SHOT, 0) for kind in (PLAIN, PAPER, HEAD)),
        *((kind, method, 20) for kind in (PAPER, HEAD) for method in moved),
        (HEAD, adaptation.MIXED, 20),
        *((PLAIN, method, 20) for method in of_plain),
    }
    assert len(ways) == 3 * len(found)
    table = (folder / "adaptation.md").read_text().splitlines()
    assert len(table) == 4 + len(found)  # two of words, two of headings
    before = {(w["corpus"], w["network"]): w["loss"] for w in ways if not w["words"]}
    for w in ways:
        assert w["low"] <= w["gain"] <= w["high"]
        start = before[w["corpus"], w["network"]]
        assert w["gain"] == pytest.approx(start - w["loss"], abs=1e-5)


def test_a_second_run_reuses_every_unit_and_more_seeds_measure_only_the_new_ones(
    finished, corpora, monkeypatch
):
    results, folder, _ = finished
    trained: list[tuple[str, int]] = []

    def counted(config, texts, kind, seed, checkpoints):
        trained.append((texts.name, seed))
        return train(config, texts, kind, seed, checkpoints)

    monkeypatch.setattr(study, "train", counted)
    again = run(without_figures(LanguageStudy(TINY, corpora)), folder)
    assert trained == []
    for row, first in zip(again.rows, results.rows, strict=True):
        np.testing.assert_array_equal(row.values, first.values)
    run(without_figures(LanguageStudy(replace(TINY, seeds=2), corpora)), folder)
    assert {seed for _, seed in trained} == {1}
    assert {name for name, _ in trained} == {c.name for c in choose_sets(TINY, corpora)}


def test_other_words_under_the_same_names_are_measured_anew(finished, corpora, tmp_path):
    words = LanguageStudy(TINY, corpora).inputs()
    texts_checksum.cache_clear()
    folder_of_corpora.cache_clear()
    shutil.copytree(corpora, tmp_path / "corpora")
    assert LanguageStudy(TINY, tmp_path / "corpora").inputs() == words
    texts_checksum.cache_clear()
    folder_of_corpora.cache_clear()
    with (tmp_path / "corpora" / "dev" / "mail.txt").open("a") as file:
        file.write("w1\n")
    assert LanguageStudy(TINY, tmp_path / "corpora").inputs() != words


def test_a_checkpoint_of_another_text_is_not_taken_up(texts, tmp_path):
    """The corpora have the same names and sizes: their words alone differ."""
    train(TINY, texts, PAPER, 0, tmp_path)
    turned = tuple(tokens.flip(0) for tokens in texts.sets.train)
    other = replace(texts, sets=replace(texts.sets, train=turned))
    found, curve = train(TINY, other, PAPER, 0, tmp_path)
    expected, expected_curve = train(TINY, other, PAPER, 0, None)
    for name, value in expected.state_dict().items():
        assert torch.equal(value, found.state_dict()[name])
    np.testing.assert_array_equal(curve.train, expected_curve.train)


def test_an_interrupted_training_ends_with_the_same_weights_and_curve(texts, tmp_path):
    whole, curve = train(TINY, texts, PAPER, 0, tmp_path / "whole")
    shorter = replace(texts, updates=2)
    train(TINY, shorter, PAPER, 0, tmp_path / "parts")
    resumed, resumed_curve = train(TINY, texts, PAPER, 0, tmp_path / "parts")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])
    np.testing.assert_array_equal(curve.test, resumed_curve.test)
    np.testing.assert_array_equal(curve.words, resumed_curve.words)
    without_checkpoints, _ = train(TINY, texts, PAPER, 0, None)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, without_checkpoints.state_dict()[name])


def test_the_losses_of_conditioned_and_plain_networks_are_of_the_words_alone(texts):
    """The log prior of the task, which training descends too, is no loss of words."""
    for kind in (PLAIN, PAPER):  # the weights hardly moved: every word is about as likely
        _, curve = train(replace(TINY, smoothing=0.0), replace(texts, updates=2), kind, 0, None)
        assert curve.train[0] == pytest.approx(np.log(27), abs=0.2)


def test_lstms_start_as_unigram_models_of_the_training_text(texts):
    """Of each corpus where the corpus enters the logits, else of all; counted by hand."""
    still = replace(TINY, rate=1e-12, average=0.0, smoothing=0.5)
    size = len(texts.sets.vocabulary)
    counts = np.stack([np.bincount(t, minlength=size) for t in texts.sets.train]) + 0.5
    p = counts / counts.sum(1, keepdims=True)
    for kind, expected in ((PLAIN, p.mean(0, keepdims=True)), (HEAD, p)):
        network, _ = train(still, replace(texts, updates=2), kind, 0, None)
        network.embedding.weight.zero_()
        z = torch.eye(2).unsqueeze(1) if kind == HEAD else None
        found = network.logits(torch.zeros(2, 1, dtype=torch.int64), z).softmax(-1)[:, 0]
        np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=1e-4)


def test_weights_are_averages_over_training(texts):
    """Of the first updates: those of two updates are a known mean of those of one and of two."""
    one, two = (
        train(replace(TINY, average=0.0, every=1), replace(texts, updates=n), PAPER, 0, None)[0]
        for n in (1, 2)
    )
    mean, _ = train(replace(TINY, average=0.99, every=1), replace(texts, updates=2), PAPER, 0, None)
    weight = training.FIRST / (training.FIRST + 1)
    for name, value in mean.state_dict().items():
        expected = torch.lerp(one.state_dict()[name], two.state_dict()[name], weight)
        torch.testing.assert_close(value, expected)


def test_settings_of_lstms_are_none_of_transformers(corpora):
    """A transformer's units are the same whatever the LSTMs start from."""
    config = replace(TINY, transformers=("plain",), length=20)
    for part in LanguageStudy(config, corpora).parts():
        assert part.unused == (OF_LSTMS if TRANSFORMERS["plain"] in part.name else OF_TRANSFORMERS)


def test_enumeration_of_prefixes_is_enumeration(texts):
    network = make(texts, PAPER)
    tokens, _ = windows_of_each(texts.sets.test, 5, 7, seed=0)
    for n, q in identify.enumerate_prefixes(network, tokens, (1, 4)).items():
        found = Enumeration()(network, tokens[:, :n]).logits().squeeze(1).double()
        torch.testing.assert_close(q, found, atol=1e-5, rtol=1e-5)


def test_naive_bayes_by_hand(texts):
    tokens, _ = windows_of_each(texts.sets.test, 5, 7, seed=0)
    dev, _ = windows_of_each(texts.sets.dev, 5, 7, seed=0)
    found = identify.naive_bayes(texts, dev, tokens, (3,))[3]
    size = len(texts.sets.vocabulary)
    counts = torch.stack([t.bincount(minlength=size) for t in texts.sets.train]).double()
    by_hand = []
    for alpha in identify.SMOOTHING:
        log_p = ((counts + alpha) / (counts + alpha).sum(-1, keepdim=True)).log()
        by_hand.append(log_p.mT[tokens[:, :3]].sum(1).log_softmax(-1))
    assert min((found - q).abs().max().item() for q in by_hand) < 1e-9


def test_windows_of_each_weigh_corpora_alike_and_overlap_only_in_short_texts():
    long, short = torch.arange(100), torch.arange(1000, 1012)
    tokens, corpora = windows_of_each((long, short), 5, 8, seed=0)
    assert corpora.bincount().tolist() == [8, 8]
    assert len(set(tokens[:8].flatten().tolist())) == 40
    assert (tokens.diff(dim=1) == 1).all()
    with pytest.raises(ValueError, match="fewer than 9 texts of 5 words"):
        windows_of_each((short,), 5, 9, seed=0)


def test_any_window_of_the_bigram_texts_has_the_law_of_their_exact_posterior():
    """p T = p; and the posterior of texts that begin anywhere is calibrated."""
    texts = bigram_texts(TINY.updates_all)
    assert texts.exact is not None
    tokens, labels = windows_of_each(texts.sets.test, 8, 1000, seed=0)
    q = texts.exact(tokens)[:, -1].exp()
    hit = (q.argmax(-1) == labels).double()
    confidence = q.amax(-1)
    error = (confidence * (1 - confidence)).sum().sqrt() / len(q)
    assert abs(hit.mean() - confidence.mean()) < 5 * error


def test_stationary_distributions_stay():
    rows = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    transition = rows / rows.sum(-1, keepdim=True)
    p = stationary(transition)
    torch.testing.assert_close((p.unsqueeze(1) @ transition).squeeze(1), p)


def test_stationary_distributions_are_the_same_wherever_they_lie_in_memory():
    """To the last digit, or a resumed study would differ: LAPACK's least squares would not be."""
    rows = torch.rand(5, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, kept = set(), []
    for size in range(16, 8016, 20):
        kept.append(bytearray(size))
        found.add(stationary(rows / rows.sum(-1, keepdim=True)).numpy().tobytes())
    assert len(found) == 1


def test_words_to_reach_a_level_lie_on_the_line_between_two_measurements():
    words, test = np.array([10.0, 20.0, 30.0]), np.array([3.0, 2.0, 1.0])
    curve = Curve(words, test, test)
    assert words_to_reach(curve, 1.5) == pytest.approx(25)
    assert words_to_reach(curve, 3.0) == 10
    assert words_to_reach(curve, 0.5) == np.inf


def test_one_task_for_all_windows_scores_them_together(texts):
    network = make(texts, PAPER).double()
    tokens, _ = windows_of_each(texts.sets.test, 5, 3, seed=0)
    z = torch.tensor([0.3, 0.7], dtype=torch.float64)
    joint = relaxed_log_joint(adaptation.one_task(network), {"z": z}, tokens)
    each = network.log_prob(tokens, z.expand(len(tokens), 1, -1))
    torch.testing.assert_close(joint.likelihood, each.sum())


def test_a_vector_beside_every_word_is_a_bias_of_the_input(texts):
    plain, tokens = make(texts, PLAIN), texts.sets.test[0][:12].reshape(2, 6)
    vector = torch.linspace(-1, 1, TINY.embedding_size)
    found = adaptation._beside(plain, vector, tokens)
    with torch.no_grad():
        plain.lstm.bias_ih_l0 += plain.lstm.weight_ih_l0 @ vector
    torch.testing.assert_close(found, plain.log_prob(tokens))
    assert not plain.embedding._forward_hooks


def test_all_kinds_of_network_are_trained(finished):
    results, folder, _ = finished
    stems = {p.stem for p in (folder / "checkpoints").glob("*.npz")}
    for kind in NETWORKS:
        assert f"all-3-{kind}-0".replace(" ", "-") in stems
    assert results.targets


def test_the_posterior_of_bigrams_is_compared_with_the_exact_one(tmp_path):
    results = run(without_figures(LanguageStudy(LanguageConfig().fast())), tmp_path)
    (record,) = results.found["bigrams"]
    for found in record.identified.values():
        assert set(found.kl) == {identify.ENUMERATION, identify.EXACT}
    assert {row.what.split(":")[0] for row in results.rows} == {"bigrams"}
    exact = [row for row in results.targets if "KL(exact" in row.what]
    assert len(exact) == len(results.targets) == 2
    assert record.title == "bigrams"


@pytest.mark.parametrize("change", [{"draws": 2}, {"all_at_once": False}, {"leave_one_out": True}])
def test_settings_that_choose_among_corpora_need_a_folder(change):
    with pytest.raises(ValueError, match="name the folder of the corpora with --data"):
        LanguageStudy(replace(LanguageConfig(), **change))


def test_settings_of_bigrams_replace_defaults_alone():
    assert LanguageStudy(LanguageConfig()).config.hidden_size == 128
    assert LanguageStudy(LanguageConfig(hidden_size=64)).config.hidden_size == 64
    written = LanguageStudy(LanguageConfig()).config
    assert LanguageStudy(written).config == written  # what a run writes can be run again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"draws": -1}, "draws must not be negative"),
        ({"draws": 0, "all_at_once": False, "leave_one_out": False}, "nothing to learn"),
        ({"draw_size": 1}, "draw_size must be at least 2"),
        ({"decay": 1.5}, "decay must be from 0 to 1"),
        ({"smoothing": -1.0}, "smoothing and bias_rate must not be negative"),
        ({"average": 1.0}, "average from 0 to below 1"),
        ({"lengths": (1, 5)}, "contain 20 words"),
        ({"updates": 3}, "updates must be a multiple of every"),
    ],
)
def test_a_config_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_too_few_corpora_are_named(corpora):
    with pytest.raises(ValueError, match="draw_size is 4, but there are 3 corpora"):
        choose_sets(replace(TINY, draw_size=4), corpora)
