"""Transformers in the language study: as large as the LSTMs, and measured beside them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from study_runs import without_figures

from gbi_pyro import BayesFilter, Enumeration, TaskChain, stepwise
from gbi_pyro.models import LanguageTransformer, load_network, parameter_count
from studies.core.runner import StudyResults, run
from studies.language import identify, study
from studies.language.config import OF_TRANSFORMERS, TRANSFORMERS, LanguageConfig
from studies.language.figures import BESIDE, figure_learning
from studies.language.stream import join_windows, read_stream, read_windows
from studies.language.study import LanguageStudy
from studies.language.texts import Texts, bigram_texts, windows_of_each
from studies.language.training import (
    BASELINES,
    HEAD,
    HEAD_TRANSFORMER,
    NETWORKS,
    PAPER,
    PLAIN_TRANSFORMER,
    SAME_TASK,
    build,
    train,
)

TINY = LanguageConfig(transformers=("plain", "head")).for_bigrams().fast()


@pytest.fixture(scope="module")
def texts() -> Texts:
    return bigram_texts(TINY.updates_all)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResults, list[str]]:
    """A run of LSTMs alone, and then one with transformers in the same folder."""
    torch.set_num_threads(1)
    folder, kinds = tmp_path_factory.mktemp("language"), []

    def counted(config: Any, texts: Any, kind: str, seed: int, checkpoints: Path | None) -> Any:
        kinds.append(kind)
        return train(config, texts, kind, seed, checkpoints)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "train", counted)
        config = replace(TINY, transformers=(), layers=2, heads=4, clip=3.0)
        run(without_figures(LanguageStudy(config)), folder)
        results = run(without_figures(LanguageStudy(TINY)), folder)
    return results, kinds


def test_lstms_are_not_trained_again_for_transformers(trained: tuple[Any, list[str]]) -> None:
    """Whatever the settings of transformers are."""
    assert trained[1] == [*NETWORKS, PLAIN_TRANSFORMER, HEAD_TRANSFORMER]


def test_networks_are_reported_side_by_side(trained: tuple[StudyResults, Any]) -> None:
    results, _ = trained
    rows = {row.what.removeprefix("bigrams: "): row for row in results.rows}
    for kind in (PLAIN_TRANSFORMER, HEAD_TRANSFORMER):
        gain = rows[f"{kind}: gain in final test loss over the {BASELINES[kind]}, nats per word"]
        perplexity = [
            rows[f"{k}: test perplexity per word at the end"].values[0]
            for k in (BASELINES[kind], kind)
        ]
        assert gain.values[0] == pytest.approx(np.log(perplexity[0] / perplexity[1]), abs=1e-6)
    kl = [
        rows[f"{kind}: KL(exact || enumeration), 20 words"].values[0]
        for kind in (HEAD_TRANSFORMER, HEAD)
    ]
    less = rows[f"{HEAD_TRANSFORMER}: KL(exact || enumeration), 20 words, less that of the LSTM"]
    assert less.values[0] == pytest.approx(kl[0] - kl[1], abs=1e-9)
    asked = [row.what for row in results.targets if HEAD_TRANSFORMER in row.what]
    assert len(asked) == 4
    assert len(results.targets) == 6


def test_weights_of_transformers_come_back(trained: tuple[StudyResults, Any]) -> None:
    folder = trained[0].folder
    network = load_network(folder, "transformer_task_at_the_head")
    record = trained[0].found[f"bigrams, {HEAD_TRANSFORMER}"][0]
    for name, value in network.state_dict().items():
        assert torch.equal(value, record.weights[HEAD_TRANSFORMER][name])


def test_a_figure_has_six_curves_at_most(trained: tuple[StudyResults, Any]) -> None:
    (record,) = study._groups(trained[0].found)["bigrams"]
    for networks in (NETWORKS, BESIDE):
        axes = figure_learning([record], networks).axes
        assert max(len(ax.get_legend_handles_labels()[1]) for ax in axes) <= 6
        assert axes[2].get_title("left").endswith(f"inferred, {record_head(networks)}")


def record_head(networks: Sequence[str]) -> str:
    return HEAD if networks is NETWORKS else HEAD_TRANSFORMER


@pytest.mark.parametrize("kind", TRANSFORMERS.values())
@pytest.mark.parametrize("config", [TINY, LanguageConfig().for_bigrams(), LanguageConfig()])
def test_no_other_width_is_closer_to_the_parameters_of_the_lstm(
    config: LanguageConfig, kind: str
) -> None:
    sizes = config.vocabulary_size, 5
    network = build(config, *sizes, kind, 0)
    budget = parameter_count(build(config, *sizes, SAME_TASK[kind], 0))
    assert isinstance(network, LanguageTransformer)
    width = network.embedding.embedding_dim
    assert width % config.heads == 0

    def miss(width: int) -> int:
        options = {"inout": True, "conditioning": "affine"} if SAME_TASK[kind] == HEAD else {}
        other = LanguageTransformer(
            sizes[0], network.num_tasks, width, config.layers, config.heads,
            longest=config.length, **options,
        )  # fmt: skip
        return abs(parameter_count(other) - budget)

    found = abs(parameter_count(network) - budget)
    assert found == miss(width)
    others = [w for w in (width - config.heads, width + config.heads) if w]
    assert found <= min(miss(w) for w in others)


def test_a_transformer_learns_from_the_batches_of_the_lstm(trained: tuple[Any, Any]) -> None:
    (record,) = study._groups(trained[0].found)["bigrams"]
    words = record.curves[HEAD].words
    for kind in (PLAIN_TRANSFORMER, HEAD_TRANSFORMER):
        np.testing.assert_array_equal(record.curves[kind].words, words)


def test_a_gradient_clipped_to_nothing_moves_nothing(texts: Texts) -> None:
    """Adam divides by the gradient's size plus 1e-8, which a far smaller norm leaves alone."""
    before = build(TINY, len(texts.sets.vocabulary), texts.num_tasks, HEAD_TRANSFORMER, 0)
    after, _ = train(replace(TINY, clip=1e-16), texts, HEAD_TRANSFORMER, 0, None)
    for name, value in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], value, rtol=0, atol=1e-7)


def test_the_rate_rises_over_the_warm_up(texts: Texts) -> None:
    """Adam's first step is the rate for every weight with a gradient, whatever its size."""
    one = replace(TINY, every=1, updates_all=1, warm_up=4)
    sizes = len(texts.sets.vocabulary), texts.num_tasks
    before = build(one, *sizes, HEAD_TRANSFORMER, 0).bias
    after, _ = train(one, replace(texts, updates=1), HEAD_TRANSFORMER, 0, None)
    moved = (after.bias - before).abs().max().item()
    assert moved == pytest.approx(TINY.transformer_rate / 4, rel=1e-3)


def test_texts_longer_than_a_transformer_reads_are_left_out(texts: Texts) -> None:
    config = replace(TINY, lengths=(1, 20, 25))
    network, _ = train(config, texts, HEAD_TRANSFORMER, 0, None)
    found, _ = identify.infer_corpora(config, texts, network)
    assert {tuple(by_length) for by_length in found.values()} == {(1, 20)}
    tokens, _ = identify.judged_windows(config, texts)
    q = Enumeration()(network, tokens[:, :20]).logits().squeeze(1).double()
    torch.testing.assert_close(found[identify.ENUMERATION][20], q, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("words", "longest"), [(1, 1), (7, 7), (7, 1), (20, 6), (20, 7), (31, 8)])
def test_windows_hold_every_word_once_with_its_past(words: int, longest: int) -> None:
    tokens = torch.arange(words)
    windows = read_windows(tokens, longest)
    assert torch.equal(join_windows(windows, words), tokens)
    past = join_windows(torch.arange(longest).expand(len(windows), -1), words)
    assert torch.equal(past[:longest], torch.arange(longest))
    assert (past[longest:] >= longest // 2).all()


def test_a_stream_that_an_lstm_reads_is_that_of_the_bayes_filter(texts: Texts) -> None:
    network = build(TINY, len(texts.sets.vocabulary), texts.num_tasks, PAPER, 0)
    network.requires_grad_(False)
    found = read_stream(TINY, texts, network)
    each = -(-TINY.pieces // texts.num_tasks)
    cut, _ = windows_of_each(texts.sets.test, TINY.piece, each, seed=1)
    order = torch.randperm(len(cut), generator=torch.Generator().manual_seed(1))[: TINY.pieces]
    words = stepwise(network, cut[order].reshape(1, -1))
    chain = TaskChain.sticky(texts.num_tasks, 1 / TINY.piece)
    filtered = BayesFilter(Enumeration(), chain)(words).probs()[0]
    torch.testing.assert_close(found.probs["enumeration, filtered"], filtered)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformers": ("heads",)}, "transformers should be of plain, input, head"),
        ({"transformers": ("head",), "length": 19}, "length must be at least 20 with transformers"),
        ({"transformer_rate": 0.0}, "transformer_rate and clip must be positive, got 0.0"),
        ({"clip": -1.0}, "transformer_rate and clip must be positive"),
        ({"warm_up": 0}, "warm_up must be at least 1"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"heads": 0}, "heads must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(LanguageConfig(), **change)


def test_fields_of_transformers_are_fields() -> None:
    assert LanguageConfig.__dataclass_fields__.keys() >= OF_TRANSFORMERS
