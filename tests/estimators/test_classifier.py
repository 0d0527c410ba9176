"""The classifier: scikit-learn's own checks, discriminant analysis as oracle, and each error."""

import numpy as np
import pandas as pd
import polars as pl
import pyro
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from gbi_pyro.estimators import TaskClassifier

ESTIMATORS = [
    TaskClassifier(),
    TaskClassifier(infer="calibrated"),
    TaskClassifier(hidden=4, noise="diagonal", infer="one step"),
]


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True, as_frame=True)


@parametrize_with_checks(ESTIMATORS)
def test_it_does_what_scikit_learn_asks_of_a_classifier(estimator, check):
    check(estimator)


def test_an_affine_mean_gives_linear_discriminant_analysis(iris):
    X, y = iris
    model = TaskClassifier(random_state=0).fit(X, y)
    # Ledoit and Wolf's covariance, with a scale of its own, where LDA takes it as it is.
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(X, y)
    assert (model.predict(X) == lda.predict(X)).mean() > 0.99
    np.testing.assert_allclose(model.predict_proba(X), lda.predict_proba(X), atol=0.05)


def test_means_are_those_of_the_classes_whatever_the_network(iris):
    X, y = iris
    means = np.stack([X[y == k].mean() for k in range(3)])
    for hidden in (0, 8):
        model = TaskClassifier(hidden, random_state=0).fit(X, y)
        with torch.no_grad():
            fitted = model.model_.mean(torch.eye(3, dtype=torch.float64))
        torch.testing.assert_close(fitted, model._scaling(means), atol=2e-3, rtol=1e-3)


def test_score_samples_is_the_density_of_a_mixture_of_gaussians(iris):
    X, y = iris
    model = TaskClassifier(random_state=0).fit(X, y)
    W = np.linalg.inv(model._scaling.matrix)
    with torch.no_grad():
        scale = 0.01 + torch.nn.functional.softplus(model.model_.free_scale).item()
        means = model.model_.mean(torch.eye(3, dtype=torch.float64)).numpy()
    expected = sum(
        p * multivariate_normal(model._scaling.centre + W @ m, scale**2 * W @ W.T).pdf(X)
        for p, m in zip(model.class_prior_, means, strict=True)
    )
    np.testing.assert_allclose(model.score_samples(X), np.log(expected), rtol=1e-8)


def test_one_step_is_exact_for_two_classes_and_calibrated_for_three(iris):
    X, y = iris
    proba = {
        infer: TaskClassifier(infer=infer, random_state=0).fit(X, y).predict_proba(X)
        for infer in ("enumeration", "one step", "calibrated")
    }
    # The error of one step is the same for every sample, so that offsets correct it.
    np.testing.assert_allclose(proba["calibrated"], proba["enumeration"], atol=1e-4)
    assert abs(proba["one step"] - proba["enumeration"]).max() > 0.1
    X, y = load_breast_cancer(return_X_y=True)
    exact, cheap = (
        TaskClassifier(infer=infer, random_state=0).fit(X, y).predict_proba(X)
        for infer in ("enumeration", "one step")
    )
    np.testing.assert_allclose(cheap, exact, atol=1e-9)


def test_accuracy_is_within_two_errors_of_discriminant_analysis(iris):
    X, y = iris
    shuffled = np.random.default_rng(0).permutation(len(X))
    X, y = X.iloc[shuffled], y.iloc[shuffled]
    ours = cross_val_score(TaskClassifier(random_state=0), X, y, cv=5).mean()
    theirs = cross_val_score(LinearDiscriminantAnalysis(), X, y, cv=5).mean()
    assert abs(ours - theirs) <= 2 * np.sqrt(theirs * (1 - theirs) / len(X))


def test_units_of_features_change_nothing(iris):
    X, y = iris
    moved = X * [1e-3, 1.0, 1e4, 7.0] + [0.0, 1e3, -5.0, 2.0]
    proba = [TaskClassifier(random_state=0).fit(Z, y).predict_proba(Z) for Z in (X, moved)]
    np.testing.assert_allclose(proba[0], proba[1], atol=1e-5)


def test_pipelines_searches_and_frames(iris):
    X, y = iris
    names = y.map(dict(enumerate(["setosa", "versicolor", "virginica"])))
    pipeline = make_pipeline(StandardScaler(), TaskClassifier(random_state=0))
    assert set(pipeline.fit(X, names).predict(X)) == set(names)
    options = {"infer": ["one step", "calibrated"], "hidden": [0, 4]}
    search = GridSearchCV(TaskClassifier(random_state=0), options, scoring="neg_log_loss", cv=3)
    assert search.fit(X, names).best_params_["infer"] == "calibrated"
    polars = pl.DataFrame({column: X[column].to_numpy() for column in X})
    fits = [TaskClassifier(random_state=0).fit(frame, y) for frame in (X, polars)]
    for model, frame in zip(fits, (X, polars), strict=True):
        assert list(model.feature_names_in_) == list(X.columns)
        np.testing.assert_array_equal(model.predict(frame), fits[0].predict(X))


def test_tiny_and_degenerate_data():
    X, y = np.array([[0.0, 1.0, 3.0], [5.0, 1.0, 2.0]]), ["a", "b"]
    for infer in ("enumeration", "one step", "calibrated"):
        model = TaskClassifier(infer=infer, random_state=0).fit(X, y)  # a feature is constant
        assert model.predict(X).tolist() == y
    wide = np.random.default_rng(0).normal(size=(6, 50))
    assert np.isfinite(TaskClassifier().fit(wide, [0, 0, 0, 1, 1, 1]).score_samples(wide)).all()
    constant = TaskClassifier().fit(np.ones((4, 1)), [0, 0, 0, 1])
    np.testing.assert_allclose(constant.predict_proba([[1.0]]), [[0.75, 0.25]])


def test_a_fit_leaves_global_state_alone(iris):
    torch.manual_seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    TaskClassifier(4, infer="calibrated", random_state=3).fit(*iris).predict(iris[0])
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert not pyro.get_param_store()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": -1}, "hidden should be a whole number from 0; got -1"),
        ({"hidden": 1.5}, "hidden should be a whole number"),
        ({"max_iter": True}, "max_iter should be a whole number from 1"),
        ({"noise": "tied"}, "noise should be one of .*; got 'tied'"),
        ({"infer": "exact"}, "infer should be one of .*; got 'exact'"),
    ],
)
def test_options_out_of_range(iris, options, message):
    with pytest.raises(ValueError, match=message):
        TaskClassifier(**options).fit(*iris)


def test_other_errors(iris):
    X, y = iris
    with pytest.raises(ValueError, match="got one class, 'a'"):
        TaskClassifier().fit(X, ["a"] * len(X))
    with pytest.raises(ValueError, match="hold too little to fit a temperature"):
        TaskClassifier(infer="calibrated").fit(np.ones((4, 1)), [0, 0, 1, 1])
    with pytest.raises(ValueError, match="contains NaN"):
        TaskClassifier().fit(X.where(X > 1), y)
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        TaskClassifier(max_iter=2, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="feature names should match"):
        TaskClassifier().fit(X, y).predict(pd.DataFrame(X.to_numpy(), columns=list("abcd")))
