"""The papers' measurements on tiny budgets: identities of what they compute, and that they run."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from gbi_pyro.inference.log_likelihoods import log_likelihoods
from gbi_pyro.joint import combinations
from gbi_pyro.posterior import entropy
from gbi_pyro.problems import meta_hmm, regression_weights
from studies.bench.papers import ambiguity, amortised, in_context, point, predictor, streaming
from studies.bench.papers.config import PapersConfig
from studies.bench.papers.parts import paper_parts, paper_rows
from studies.bench.papers.prefixes import combination, model_of, read_prefixes
from studies.bench.papers.training import SetEncoder
from studies.core.cache import write_record

TINY = PapersConfig().fast()
SYSTEMS = (predictor, point, amortised, in_context, ambiguity, streaming)


def ignore(_what):
    """Report nothing."""


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def found():
    torch.set_num_threads(1)
    return {system: [system.measure(seed, TINY, ignore) for seed in (0, 1)] for system in SYSTEMS}


def test_parts_measure_the_same_and_their_records_come_back_from_a_file(found, tmp_path):
    parts = paper_parts(TINY)
    kept = {part.name: [] for part in parts}
    for part, system in zip(parts, SYSTEMS, strict=True):
        assert pickle.loads(pickle.dumps(part)).name == part.name
        for seed, record in enumerate(found[system]):
            file = tmp_path / f"{system.__name__}-{seed}"
            kept[part.name].append(write_record(file, {"seed": seed}, part.record, record))
    rows = [row for system in SYSTEMS for row in system.rows(found[system])]
    assert [row.values for row in paper_rows(kept)] == [row.values for row in rows]
    (again,) = parts[0].measure([1], ignore)
    assert predictor.rows([again])[0].values == predictor.rows(found[predictor][1:])[0].values


@pytest.fixture(scope="module")
def sequences():
    problem = meta_hmm(0, length=6)
    data = problem.draw(5, draw())
    return problem, data, read_prefixes(model_of(problem), *data.args)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_row_is_one_quantity_with_a_finite_number_for_each_seed(found, system):
    rows = system.rows(found[system])
    assert len({row.what for row in rows}) == len(rows)
    assert len({row.claim for row in rows}) == 1
    assert all(len(row.values) == 2 and np.isfinite(row.values).all() for row in rows)


@pytest.mark.parametrize("system", [predictor, point, in_context])
def test_a_seed_gives_the_same_numbers_again(found, system):
    again = system.rows([system.measure(1, TINY, ignore)])
    for row, before in zip(again, system.rows(found[system][1:]), strict=True):
        assert row.values == before.values or "seconds" in row.what


def test_the_filter_of_every_combination_is_the_exact_posterior(sequences):
    problem, data, prefixes = sequences
    exact = problem.posterior(data).table().ordered(list(model_of(problem).sizes))
    torch.testing.assert_close(
        prefixes.log_posterior[:, -1], exact.flat.double(), atol=1e-4, rtol=0
    )
    symbols = prefixes.next_symbol.sum(-1)
    torch.testing.assert_close(symbols, torch.ones_like(symbols))


def test_the_exact_predictive_is_a_ratio_of_evidences(sequences):
    problem, data, prefixes = sequences
    (x,) = data.args
    longer, shorter = (problem.exact(problem.model, part).log_evidence for part in (x, x[:, :-1]))
    predicted = prefixes.predictive()[torch.arange(len(x)), -2, x[:, -1]].log()
    torch.testing.assert_close(predicted, (longer - shorter).double(), atol=1e-4, rtol=0)


def test_combinations_are_numbered_in_their_order():
    sizes = {"a": 3, "b": 2, "c": 4}
    assert torch.equal(combination(sizes, combinations(sizes)), torch.arange(24))


def test_the_predictor_errs_by_monte_carlo_alone_with_the_exact_posterior(found):
    for record in found[predictor]:
        for by_name in record.limit.values():
            assert abs(by_name[predictor.EXACT]) < 1e-8
            assert min(by_name.values()) > -1e-12


def test_one_draw_errs_by_the_mean_over_tasks(sequences):
    problem, data, prefixes = sequences
    exact, symbols = prefixes.predictive()[:, -1], prefixes.next_symbol[:, -1]
    weights = prefixes.log_posterior[:, -1].exp()
    single = predictor.both_ways(exact.unsqueeze(1), symbols)
    expected = (weights * single).sum(-1).mean()
    posterior, generator = problem.posterior(data), draw()
    errors = [
        predictor._errors(model_of(problem).sizes, posterior, symbols, exact, generator)[0]
        for _ in range(100)
    ]
    spread = (weights * (single - expected).square()).sum(-1).mean().sqrt() / math.sqrt(100 * 5)
    assert abs(torch.stack(errors).mean() - expected) < 6 * spread


def test_the_exact_score_of_the_next_observation_is_a_ratio_of_evidences():
    problem = regression_weights(0, num_examples=3)
    x, y = problem.draw(20, draw()).args
    before, after = (x[:, :2], y[:, :2]), (x[:, 2:], y[:, 2:])
    log_next = log_likelihoods(problem.exact(problem.model, *after)).double()
    scores = point._scores(problem, before, log_next)[point.EXACT]
    whole, part = (problem.exact(problem.model, *a).log_evidence for a in ((x, y), before))
    assert scores[point.FULL] == pytest.approx(-(whole - part).mean().item(), abs=1e-4)


def test_rescoring_never_moves_a_recogniser_away_from_the_exact_posterior(found):
    for record in found[amortised]:
        for by_loss in record.found.values():
            for one in by_loss.values():
                assert 0 <= one.rescored <= one.divergence + 1e-6
                assert one.divergence <= one.worst


def test_the_forward_loss_of_many_draws_exceeds_the_entropy_by_the_divergence():
    problem = amortised.components(0)
    config = replace(TINY, batch=4096)
    network = amortised.ReadsData(SetEncoder(2, 8, 6, draw()))
    recogniser = amortised.Recogniser(network)
    with torch.no_grad():
        losses = torch.stack([amortised._forward(recogniser, problem, 0, config)()])
    data = problem.draw(4096, draw(7))
    exact = problem.posterior(data)
    q = recogniser(problem.model, *data.args)
    cross = amortised.kl(exact.logits(), q.logits()) + entropy(exact.logits())
    spread = q.logits().std() / 64  # of two means of 4096 cases
    assert abs(losses.mean() - cross.mean()) < 6 * math.sqrt(2) * spread


def test_supports_show_all_modules_or_all_but_one():
    connected, unseen = (
        in_context.supports()[n] for n in (in_context.CONNECTED, in_context.UNSEEN)
    )
    assert connected.seen.sum(0).gt(0).all()
    assert torch.equal(unseen.seen.sum(0) > 0, torch.arange(6) < 5)
    assert unseen.held_out[:, -1].eq(1).all()
    for support in (connected, unseen):
        seen = {tuple(code) for code in support.seen.tolist()}
        assert seen.isdisjoint(tuple(code) for code in support.held_out.tolist())
    assert len({tuple(c) for c in torch.cat([*connected]).tolist()}) == 6 + 15


def test_a_network_is_put_together_of_modules():
    teacher, codes = in_context.Teacher.of_seed(0), torch.tensor([[1.0, 0, 1, 0, 0, 0]])
    x = torch.randn(1, 3, in_context.INPUTS, generator=draw())
    weights = in_context.SCALE * (teacher.modules[0] + teacher.modules[2])
    by_hand = [teacher.readout @ torch.tanh(weights @ one) for one in x[0]]
    torch.testing.assert_close(teacher(codes, x)[0], torch.stack(by_hand))


def test_the_teacher_explains_all_and_the_mean_nothing():
    teacher = in_context.Teacher.of_seed(0)
    code = torch.eye(6)[:1]
    episode = teacher.draw(code, 5, 4, draw())
    mean = episode.answers.mean((0, 1)).expand_as(episode.answers)
    assert in_context.explained(lambda _c, x: teacher(code.expand(5, -1), x), episode) == 1
    assert in_context.explained(lambda _c, _x: mean, episode) == pytest.approx(0, abs=1e-6)


def test_a_set_encoder_does_not_see_the_order():
    x = torch.randn(2, 5, 3, generator=draw())
    for mean, attention in ((False, False), (True, False), (True, True)):
        encoder = SetEncoder(3, 8, 4, draw(), mean=mean, attention=attention)
        torch.testing.assert_close(encoder(x), encoder(x.flip(1)))


def test_the_sequence_network_predicts_from_the_past_alone():
    network = ambiguity.NextSymbol(12, 3, 8, draw())
    x = torch.randint(12, (2, 6), generator=draw())
    changed = x.clone()
    changed[:, 3] = (x[:, 3] + 1) % 12
    constant = torch.eye(3)[:2]
    before, after = network(x, constant), network(changed, constant)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4:], after[:, 4:])


def test_quarters_are_means_in_the_order_of_the_entropy():
    uncertain = torch.rand(8, 3, generator=draw())
    quarters = ambiguity._quarters(2 * uncertain, uncertain)
    assert (np.diff(quarters, axis=0) > 0).all()
    np.testing.assert_allclose(quarters.mean(0), 2 * uncertain.mean(0), rtol=1e-5)
    assert ambiguity._rank(2 * uncertain, uncertain) == pytest.approx(1)
    assert ambiguity._rank(-uncertain, uncertain) == pytest.approx(-1)


def test_what_the_task_is_worth_vanishes_for_nobody_before_the_first_symbol(found):
    for record in found[ambiguity]:
        assert record.divergence[ambiguity.NEVER][0] == pytest.approx(0, abs=1e-6)
        assert record.open[0] == pytest.approx(math.log(24), abs=1e-6)
