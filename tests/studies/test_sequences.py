"""The study of sequences: fits, scores and splits are checked against what must hold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from study_runs import check_posterior_file, without_figures

from gbi_pyro.metrics import student_interval
from studies.core.cache import Cache
from studies.core.runner import run
from studies.sequences import study
from studies.sequences.choices import make_choices
from studies.sequences.config import SequencesConfig
from studies.sequences.fits import fit_choices, sensitivity
from studies.sequences.gru import ChoiceGRU
from studies.sequences.models import ChoiceModel, D
from studies.sequences.one_step import EXACT, compare_one_step
from studies.sequences.scores import per_trial
from studies.sequences.sessions import FILE, data_file, read_sessions, split, trials
from studies.sequences.study import DRIVEN, LINEAR, NEURAL, RECURRENT, SequencesStudy
from studies.sequences.table import AHEAD

FAST = SequencesConfig().fast()
SESSIONS = read_sessions(data_file(None))
PARTS = split(SESSIONS, FAST.max_sessions)
F64 = torch.float64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sequences")


@pytest.fixture(scope="module")
def finished(folder):
    torch.set_num_threads(1)
    return run(SequencesStudy(FAST), folder)


@pytest.fixture(scope="module")
def two_states():
    model = ChoiceModel(2, precision=0.04)
    return fit_choices(model, PARTS.fitting, starts=1, seed=0, tolerance=1e-3)


def test_the_posterior_comes_back_as_it_was_written(finished):
    written = SequencesStudy(FAST)
    written.prepare(Cache(finished.folder / "pieces"), lambda _what: None)
    check_posterior_file(written, finished, known_tasks=False)


def names(sessions):
    return set(sessions.names["session"])


def test_each_session_serves_for_one_thing_and_the_numbers_are_those_that_were_set():
    parts = split(SESSIONS)
    assert (parts.training.num_steps, parts.held_out.num_steps) == (14718, 5282)
    assert names(parts.training) == names(parts.fitting) | names(parts.validation)
    for one, other in (
        (parts.training, parts.held_out),
        (parts.fitting, parts.validation),
    ):
        assert not names(one) & names(other)
    assert names(parts.training) | names(parts.held_out) == set(range(80))


def test_the_glm_is_logistic_regression_with_a_ridge():
    fitted = fit_choices(
        ChoiceModel(1, precision=2.0), PARTS.training, starts=1, seed=0, tolerance=1e-7
    )
    u, right, mask, _ = trials(PARTS.training)
    other = LogisticRegression(C=1 / 2.0, fit_intercept=False, tol=1e-8)
    other.fit(u[mask].numpy(), right[mask].numpy())
    np.testing.assert_allclose(fitted.weights["w"], other.coef_, atol=1e-4)
    log_probs = other.predict_log_proba(u[mask].numpy())
    expected = log_probs[np.arange(len(log_probs)), right[mask].long().numpy()].sum()
    assert fitted.log_likelihood == pytest.approx(expected, abs=1e-2)


def test_a_network_of_a_state_is_its_formula(generator):
    model = ChoiceModel(3, precision=1.0, hidden=2)
    weights = {
        name: torch.randn(shape, generator=generator, dtype=F64)
        for name, shape in model.shapes.items()
    }
    u = torch.randn(2, 4, D, generator=generator, dtype=F64)
    found = model.log_odds(weights, u)
    for k in range(3):
        layer = torch.tanh(u @ weights["W"][k])
        torch.testing.assert_close(found[..., k], layer @ weights["v"][k] + weights["c"][k])


def test_a_score_is_the_sum_of_predictions_and_other_sessions_do_not_change_it(two_states):
    scores = two_states.score(PARTS.held_out)
    ahead = two_states.infer(PARTS.held_out).step_log_evidence
    torch.testing.assert_close(ahead.sum(-1), scores)
    assert (ahead[PARTS.held_out.mask] < 0).all()
    assert ahead[~PARTS.held_out.mask].abs().max() < 1e-12
    alone = [two_states.score(PARTS.held_out.select([s])) for s in range(len(PARTS.held_out))]
    torch.testing.assert_close(torch.cat(alone), scores)


def test_states_come_in_the_order_of_how_much_the_tones_count(two_states):
    found = sensitivity(two_states.model, two_states.weights, PARTS.fitting)
    assert found[0] >= found[1]
    torch.testing.assert_close(two_states.transition.exp().sum(-1), torch.ones(2, dtype=F64))
    torch.testing.assert_close(
        two_states.score(PARTS.fitting).sum().item(), two_states.log_likelihood
    )


def test_driven_transitions_without_slopes_are_the_constant_ones(two_states):
    driven = replace(two_states, slopes=torch.zeros(3, 2, 2, dtype=F64))
    expected = two_states.score(PARTS.held_out)
    torch.testing.assert_close(driven.score(PARTS.held_out), expected)


def test_choices_are_made_without_the_sessions_that_are_held_out():
    config = replace(FAST, neural_states=(1,), gru_updates=2)
    found = make_choices(config, PARTS._replace(held_out=None, every=None), lambda _what: None)
    best = max(s for n, s in found.scores.items() if n.startswith("neural, GLM"))
    assert found.scores[f"neural, GLM, decay {found.decays[1]:g}"] == best
    assert found.gru.updates <= config.gru_updates


def test_the_gru_sees_no_later_trial_and_no_other_session(generator):
    network = ChoiceGRU(3, generator)
    u, *_ = trials(PARTS.held_out)
    later, other = u.clone(), u.clone()
    later[:, 20:] += 1.0
    other[1:] += 1.0
    torch.testing.assert_close(network(later)[:, :20], network(u)[:, :20])
    torch.testing.assert_close(network(other)[0], network(u)[0])
    score = network.score(PARTS.held_out)
    assert score.shape == (len(PARTS.held_out),)
    again = ChoiceGRU(3, torch.Generator().manual_seed(generator.initial_seed()))
    torch.testing.assert_close(again.score(PARTS.held_out), score)


def test_enumeration_in_the_chain_is_the_exact_posterior(two_states):
    found = compare_one_step(two_states, PARTS.fitting, PARTS.held_out)
    assert found[EXACT].filtered.abs().max() < 1e-9
    torch.testing.assert_close(found[EXACT].score, two_states.score(PARTS.held_out))
    for name, one in found.items():
        if name != EXACT:
            assert one.filtered.min() > 0
            assert one.forward == 1
    # What predicts with other states than the exact ones predicts worse in the mean, if at all
    # on other data than it was fitted to; over all sessions of both it does.
    assert found["calibrated"].filtered.sum() < found["one step"].filtered.sum()


def test_an_interval_per_trial_is_students_where_sessions_are_equally_long():
    d, n = np.array([3.0, 5.0, 4.0, 9.0]), np.full(4, 10)
    np.testing.assert_allclose(per_trial(d, n)[:3], student_interval(d / 10)[:3])
    same = per_trial([1.0, 2.0, 3.0], [10, 20, 30])
    np.testing.assert_allclose(same[:3], 0.1)


def test_rows_are_those_of_the_records(finished):
    rows = {row.what: row for row in finished.rows}
    assert len(rows) == len(finished.rows)
    assert {len(row.values) for row in finished.rows} == {1}
    glm = rows[f"{AHEAD}, GLM: nats a trial"]
    linear, driven, neural = (finished.found[p][0] for p in (LINEAR, DRIVEN, NEURAL))
    n = PARTS.held_out.num_steps
    assert glm.mean == pytest.approx(linear.scores["GLM"].sum().item() / n)
    for name, score in {**linear.scores, **driven.scores, **neural.scores}.items():
        if name != "GLM":
            gain = (score - linear.scores["GLM"]).sum().item() / n / np.log(2)
            row = rows[f"{AHEAD}, {name}: bits a trial over the GLM"]
            assert row.mean == pytest.approx(gain)
            assert row.interval.low <= row.mean <= row.interval.high


def test_shares_of_states_sum_to_one(finished):
    states = finished.found[LINEAR][0].strategies
    torch.testing.assert_close(states.shares.sum(-1), torch.ones(16, dtype=F64))
    assert states.smoothed.sum().item() == pytest.approx(PARTS.every.num_steps)


def test_the_figures_are_written(finished):
    drawn = {path.name for path in finished.figures}
    assert drawn == {"scores.png", "states.png", "checks.png", "one-step.png"}
    assert all(path.exists() for path in finished.figures)


def test_a_second_run_measures_nothing(finished, folder, monkeypatch):
    monkeypatch.setattr(study, "fit_choices", None)
    monkeypatch.setattr(study, "train_gru", None)
    again = run(without_figures(SequencesStudy(FAST)), folder)
    assert [row.as_dict() for row in again.rows] == [row.as_dict() for row in finished.rows]
    assert set(again.found) == {LINEAR, DRIVEN, NEURAL, RECURRENT}


def test_a_folder_without_the_file_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=f"should hold {FILE}"):
        data_file(tmp_path)
    monkeypatch.setenv("GBI_PYRO_SEQUENCES", str(tmp_path))
    with pytest.raises(ValueError, match="GBI_PYRO_SEQUENCES"):
        data_file(None)
    monkeypatch.delenv("GBI_PYRO_SEQUENCES")
    assert data_file(None).parent == Path(__file__).parents[2] / "notebooks" / "data"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"states": (1, 2)}, "states must be numbers from 2 on"),
        ({"neural_states": ()}, "neural_states must be numbers from 1 on"),
        ({"decays": (1.0, 0.0)}, "precision and decays must be positive"),
        ({"gru_decays": (-1.0,)}, "gru_units and gru_decays must be"),
        ({"max_sessions": 3}, "max_sessions must leave some"),
    ],
)
def test_a_config_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SequencesConfig(), **change)
