"""Hidden states: scikit-learn's own checks, all paths as oracle, recovery, sessions, each error."""

import itertools
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyro
import pytest
import torch
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from gbi_pyro.estimators import SequenceTaskModel, _gaussian_states

WHY = "rows of X are the steps of one sequence: what is inferred of one depends on the others"
MEANS = np.array([[-2.0, 0.0], [0.0, 2.0], [2.0, -1.0]])
LENGTHS = [60, 90, 50, 100]


def draw(means, lengths, *, stay=0.92, scale=0.6, seed=0):
    """Data and states of a chain."""
    rng = np.random.default_rng(seed)
    states = []
    for length in lengths:
        z = [rng.integers(len(means))]
        for _ in range(length - 1):
            others = [k for k in range(len(means)) if k != z[-1]]
            z.append(z[-1] if rng.random() < stay else rng.choice(others))
        states += z
    return means[states] + scale * rng.normal(size=(len(states), means.shape[1])), np.array(states)


@pytest.fixture(scope="module")
def data():
    return draw(MEANS, LENGTHS)


@pytest.fixture(scope="module")
def fitted(data):
    return SequenceTaskModel(3, n_starts=5, random_state=0).fit(data[0], lengths=LENGTHS)


@pytest.fixture(scope="module")
def frame(data):
    rats = np.repeat(["d", "b", "a", "c"], LENGTHS)
    return pd.DataFrame(data[0], columns=["x", "y"]).assign(rat=rats)


@parametrize_with_checks(
    [SequenceTaskModel(n_starts=2, random_state=0)],
    expected_failed_checks=lambda _: {
        "check_methods_sample_order_invariance": WHY,
        "check_methods_subset_invariance": WHY,
    },
)
def test_it_does_what_scikit_learn_asks_of_an_estimator(estimator, check):
    check(estimator)


def test_sequences_may_come_in_another_order_or_alone(data, fitted):
    X, order = data[0], [2, 0, 3, 1]
    parts = np.split(X, np.cumsum(LENGTHS)[:-1])
    other = {"X": np.concatenate([parts[i] for i in order]), "lengths": [LENGTHS[i] for i in order]}
    for name in ("predict", "predict_proba", "score_samples"):
        method = getattr(fitted, name)
        whole = np.split(method(X, lengths=LENGTHS), np.cumsum(LENGTHS)[:-1])
        np.testing.assert_allclose(method(**other), np.concatenate([whole[i] for i in order]))
        for part, found in zip(parts, whole, strict=True):
            np.testing.assert_allclose(method(part), found, atol=1e-12)


def test_every_number_is_that_of_all_paths(fitted):
    X = np.array([[-1.5, 0.3], [0.4, 1.0], [1.0, 0.1], [2.2, -1.5]])
    table = norm(fitted.means_, np.sqrt(fitted.covars_)).logpdf(X[:, None]).sum(-1)
    paths = np.array(list(itertools.product(range(3), repeat=4)))
    log_start, log_A = np.log(fitted.startprob_), np.log(fitted.transmat_)
    joint = log_start[paths[:, 0]] + log_A[paths[:, :-1], paths[:, 1:]].sum(1)
    joint += table[np.arange(4), paths].sum(1)
    total = np.logaddexp.reduce(joint)
    assert fitted.score(X) == pytest.approx(total, abs=1e-9)
    assert fitted.predict(X).tolist() == paths[joint.argmax()].tolist()
    smoothed = np.exp(joint - total) @ np.eye(3)[paths].swapaxes(0, 1)
    np.testing.assert_allclose(fitted.predict_proba(X), smoothed, atol=1e-9)
    prefixes = [fitted.score(X[: t + 1]) for t in range(4)]
    np.testing.assert_allclose(fitted.score_samples(X).cumsum(), prefixes, atol=1e-9)
    free = 2 + 3 * 2 + 2 * 3 * 2
    assert fitted.bic(X) == pytest.approx(-2 * total + free * np.log(4))


def test_it_recovers_the_states_of_a_chain(data, fitted):
    X, z = data
    assert fitted.n_agree_ >= 2
    assert adjusted_rand_score(z, fitted.predict(X, lengths=LENGTHS)) > 0.9
    counts = np.bincount(z)[:, None]
    assert (abs(fitted.means_ - MEANS) < 4 * 0.6 / np.sqrt(counts)).all()
    assert (abs(fitted.covars_ - 0.36) < 4 * 0.36 * np.sqrt(2 / counts)).all()
    error = np.sqrt(0.92 * 0.08 / counts[:, 0])
    assert (abs(np.diagonal(fitted.transmat_) - 0.92) < 4 * error).all()


def test_the_fit_has_no_slope_of_the_log_likelihood(data):
    X = data[0][:200, :1]
    model = SequenceTaskModel(2, prior_weight=0.0, random_state=0).fit(X)
    best = model.score(X)
    for name in ("means_", "covars_"):
        value = getattr(model, name)
        for step in (-0.01, 0.01):
            for k in range(2):
                moved = value.copy()
                moved[k] *= 1 + step
                setattr(model, name, moved)
                assert model.score(X) < best
        setattr(model, name, value)
    with_prior = SequenceTaskModel(2, random_state=0).fit(X).score(X)
    assert best - 0.5 < with_prior < best


def test_one_state_is_one_gaussian(data):
    X = data[0]
    model = SequenceTaskModel(1, n_starts=1, prior_weight=0.0).fit(X)
    expected = norm(X.mean(0), X.std(0)).logpdf(X).sum()
    assert model.score(X) == pytest.approx(expected, rel=1e-9)
    assert not model.predict(X).any()


def test_bic_and_cross_validation_choose_the_number_of_states(frame):
    rats = frame["rat"]
    models = [
        SequenceTaskModel(K, n_starts=2, session="rat", random_state=0).fit(frame)
        for K in (1, 2, 3, 4)
    ]
    assert np.argmin([model.bic(frame) for model in models]) == 2
    search = GridSearchCV(models[0], {"n_states": [1, 2, 3]}, cv=GroupKFold(2))
    assert search.fit(frame, groups=rats).best_params_ == {"n_states": 3}
    scores = cross_val_score(models[2], frame, groups=rats, cv=GroupKFold(2))
    assert np.isfinite(scores).all()


def test_a_column_of_sessions_is_like_lengths(data, fitted, frame):
    polars = pl.DataFrame({column: frame[column].to_list() for column in frame})
    model = SequenceTaskModel(3, n_starts=5, session="rat", random_state=0).fit(frame)
    np.testing.assert_array_equal(model.means_, fitted.means_)
    assert list(model.feature_names_in_) == ["x", "y"]
    expected = fitted.predict_proba(data[0], lengths=LENGTHS)
    for table in (frame, polars):
        np.testing.assert_allclose(model.predict_proba(table), expected)


def test_rows_of_a_session_need_not_lie_together(frame):
    model = SequenceTaskModel(3, n_starts=1, session="rat", random_state=0).fit(frame)
    # By the step within the session, so that sessions take turns.
    mixed = frame.loc[frame.groupby("rat").cumcount().sort_values(kind="stable").index]
    found = pd.DataFrame(model.predict_proba(mixed), index=mixed.index).sort_index()
    np.testing.assert_allclose(found, model.predict_proba(frame), atol=1e-12)


def test_units_of_features_change_nothing(data, fitted):
    moved = data[0] * [1e3, 0.1] + [5.0, -1e3]
    other = SequenceTaskModel(3, n_starts=5, random_state=0).fit(moved, lengths=LENGTHS)
    q = (m.predict_proba(X, lengths=LENGTHS) for m, X in ((fitted, data[0]), (other, moved)))
    np.testing.assert_allclose(*q, atol=1e-4)


def test_pipelines_and_pickles(data, fitted):
    X = data[0]
    pipeline = make_pipeline(StandardScaler(), SequenceTaskModel(3, n_starts=5, random_state=0))
    pipeline.fit(X, sequencetaskmodel__lengths=LENGTHS)
    found = pipeline.predict(X, lengths=LENGTHS)
    assert (found == fitted.predict(X, lengths=LENGTHS)).mean() > 0.99
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))


def test_a_fit_leaves_global_state_alone(data):
    torch.manual_seed(0)
    pyro.param("means", torch.tensor(7.0))
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    SequenceTaskModel(2, n_starts=2, random_state=3).fit(data[0])
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert {name: value.item() for name, value in pyro.get_param_store().items()} == {"means": 7.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_states": 0}, "n_states should be a whole number from 1; got 0"),
        ({"n_starts": 2.0}, "n_starts should be a whole number"),
        ({"prior_weight": -1.0}, "prior_weight should be 0 or more; got -1"),
        ({"session": "mouse"}, "session='mouse' should name a column of the data frame X"),
    ],
)
def test_options_out_of_range(frame, options, message):
    with pytest.raises(ValueError, match=message):
        SequenceTaskModel(**options).fit(frame[["x", "y"]])


@pytest.mark.parametrize("lengths", [[3, 4], [5.0, 5.0], [10, 0], [[10]], 10, [-1, 11]])
def test_lengths_that_do_not_fit(lengths):
    with pytest.raises(ValueError, match="lengths should be numbers of steps"):
        SequenceTaskModel().fit(np.arange(10.0)[:, None], lengths=lengths)


def test_other_errors(data, frame, monkeypatch):
    X = data[0]
    with pytest.raises(ValueError, match="give lengths by name"):
        SequenceTaskModel().fit(X, LENGTHS)
    with pytest.raises(ValueError, match="not by both"):
        SequenceTaskModel(session="rat").fit(frame, lengths=LENGTHS)
    with pytest.raises(ValueError, match="4 rows at least, for n_states=4; got n_samples=3"):
        SequenceTaskModel(4).fit(X[:3])
    with pytest.raises(ValueError, match="contains NaN"):
        SequenceTaskModel().fit(np.where(X > 0, X, np.nan))
    with pytest.raises(ValueError, match="got a ndarray with columns"):
        SequenceTaskModel(session="rat").fit(X)
    monkeypatch.setattr(_gaussian_states, "TOLERANCE", 1e-18)
    with pytest.warns(ConvergenceWarning, match="the best of 1 starts had not converged"):
        SequenceTaskModel(n_starts=1, random_state=0).fit(X[:50])
