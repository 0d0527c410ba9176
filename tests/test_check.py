import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from gbi_pyro import Enumeration, TaskSiteError, stepwise
from gbi_pyro.check import Finding, ModelReport, check_model, load_object
from gbi_pyro.models import SequenceLSTM, SwitchingGaussian

X = torch.tensor([[0.1, 0.4, 0.9], [0.2, 0.2, 0.7]])
TASK = {"task": True}


def two_tasks() -> dist.OneHotCategorical:
    return dist.OneHotCategorical(torch.tensor([0.5, 0.5]))


def faults(report: ModelReport) -> list[Finding]:
    return [f for f in report.findings if f.ok is False]


def notes(report: ModelReport) -> str:
    return "\n".join(str(f) for f in report.findings if f.ok is None)


# Fit models


def test_a_fit_model_has_no_fault() -> None:
    report = check_model(SwitchingGaussian(torch.tensor([0.2, 0.8]), 0.1), X)
    assert report.ok
    assert [(f.check, f.site, f.ok) for f in report.findings] == [
        ("task site", "z", True),
        ("data and log joint", "model", True),
        ("reach of the task", "z", True),
        ("influence between elements", "z", True),
        ("cost", "model", None),
    ]
    assert (
        report.findings[0].message == "K = 2, one task for each element of sequence (2) x time (3)"
    )
    cost = report.findings[-1].message
    assert "one step 1 forward and 1 backward" in cost
    assert "order=2 at most 2 backward" in cost
    assert "enumeration 2 forward" in cost


def test_three_tasks_or_more_are_warned_of_the_bias() -> None:
    for means, warned in ([0.2, 0.8], False), ([0.2, 0.5, 0.8], True):
        report = check_model(SwitchingGaussian(torch.tensor(means), 0.1), X)
        assert report.ok
        assert ("order=2" in notes(report) and "calibrat" in notes(report)) is warned


def test_a_carrying_network_is_noted_and_its_cut_is_not() -> None:
    network = SequenceLSTM(2, 8, generator=torch.Generator().manual_seed(0))
    report = check_model(network, X)
    assert report.ok  # one step is possible
    assert "stepwise(model, *args)" in notes(report)
    with pytest.raises(TaskSiteError, match="influence each other"):  # the same verdict
        Enumeration()(network, X)
    assert "stepwise" not in notes(check_model(stepwise(network, X)))


@pytest.mark.parametrize("coupling", ["neighbours", "sum", "none"])
def test_influence_is_found_wherever_it_is(coupling: str) -> None:
    """Between neighbours, or through one term that all elements share; the third task alone."""

    def model(x: Tensor) -> None:
        with pyro.plate("sequence", len(x)):
            prior = dist.OneHotCategorical(torch.tensor([0.4, 0.4, 0.2]))
            z = pyro.sample("z", prior, infer=TASK)
            mean = z @ torch.tensor([0.2, 0.8, 0.5])
            if coupling == "neighbours":
                mean = mean + z[..., 2].roll(1, -1)
            pyro.sample("x", dist.Normal(mean, 0.3), obs=x)
        if coupling == "sum":
            pyro.sample("total", dist.Normal(z[..., 2].sum(-1), 1.0), obs=torch.tensor(1.0))

    for size in (2, 5):
        report = check_model(model, torch.linspace(0, 1, size))
        assert report.ok
        assert ("stepwise" in notes(report)) is (coupling != "none")


def test_a_single_element_has_no_other_to_influence() -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", two_tasks(), infer=TASK)
        pyro.sample("x", dist.Normal(z @ torch.tensor([0.2, 0.8]), 0.3), obs=x)

    report = check_model(model, torch.tensor(0.3))
    assert report.ok
    assert report.findings[0].message == "K = 2, a single task"
    assert "not applicable" in notes(report)


def test_every_site_is_checked() -> None:
    """A task per sequence and one per step, nested: neither influences another's element."""

    def model(x: Tensor) -> None:
        with pyro.plate("sequence", len(x), dim=-2):
            context = pyro.sample("context", two_tasks(), infer=TASK)
            with pyro.plate("time", x.shape[1], dim=-1):
                z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3) / 3), infer=TASK)
                mean = z @ torch.tensor([0.0, 0.5, 1.0]) + context @ torch.tensor([0.0, 3.0])
                pyro.sample("x", dist.Normal(mean, 0.3), obs=x)

    report = check_model(model, X)
    assert report.ok
    for check in ("task site", "reach of the task", "influence between elements"):
        assert [(f.site, f.ok) for f in report.findings if f.check == check] == [
            ("context", True),
            ("z", True),
        ]
    assert "enumeration 6 forward" in report.findings[-1].message
    assert "order=2 at most 4" in report.findings[-1].message


def test_keyword_arguments_reach_the_model() -> None:
    def model(x: Tensor, *, sigma: float) -> None:
        SwitchingGaussian(torch.tensor([0.2, 0.8]), sigma)(x)

    assert check_model(model, X, sigma=0.1).ok
    assert not check_model(model, X).ok


# Invalid models


def unmarked(x: Tensor) -> None:
    z = pyro.sample("z", two_tasks())
    pyro.sample("x", dist.Normal(z[0], 1.0), obs=x)


def event(x: Tensor) -> None:
    z = pyro.sample("z", two_tasks().expand([3]).to_event(1), infer=TASK)
    pyro.sample("x", dist.Normal(z[..., 0], 1.0).to_event(), obs=x)


def one_task(x: Tensor) -> None:
    z = pyro.sample("z", dist.OneHotCategorical(torch.ones(1)), infer=TASK)
    pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)


def by_argmax(x: Tensor) -> None:
    z = pyro.sample("z", two_tasks(), infer=TASK)
    pyro.sample("x", dist.Normal(torch.tensor([0.2, 0.8])[z.argmax(-1)], 1.0), obs=x)


def unobserved(x: Tensor) -> None:
    z = pyro.sample("z", two_tasks(), infer=TASK)
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z[..., 0] + shift, 1.0), obs=x)


def second_out_of_reach(x: Tensor) -> None:
    a, _ = (pyro.sample(n, two_tasks(), infer=TASK) for n in "ab")
    pyro.sample("x", dist.Normal(a[..., 0], 1.0), obs=x)


def fit(x: Tensor) -> None:
    z = pyro.sample("z", two_tasks(), infer=TASK)
    pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)


@pytest.mark.parametrize(
    ("model", "x", "check", "site", "message"),
    [
        (unmarked, 0.3, "task site", "model", "Mark the site"),
        (event, [0.1, 0.2, 0.3], "task site", "z", "drop .to_event"),
        (one_task, 0.3, "task site", "z", "K = 1"),
        (fit, float("nan"), "data and log joint", "x", "NaN or infinite"),
        (unobserved, 0.3, "data and log joint", "shift", "neither observed nor a task"),
        (by_argmax, 0.3, "reach of the task", "z", "does not reach the likelihood"),
        (second_out_of_reach, 0.3, "reach of the task", "b", "does not reach the likelihood"),
    ],
)
def test_an_invalid_model_has_one_fault_that_names_the_site(
    model: Callable[..., Any], x: Any, check: str, site: str, message: str
) -> None:
    report = check_model(model, torch.tensor(x))
    assert not report.ok
    (fault,) = faults(report)
    assert (fault.check, fault.site) == (check, site)
    assert message in fault.message
    assert str(fault).startswith(f"FAULT {site}: {check}: ")


def raises_type_error(x: Tensor) -> None:
    fit(x + "one")


def dislikes_mixtures(x: Tensor) -> None:
    z = pyro.sample("z", two_tasks(), infer=TASK)
    assert bool(((z == 0) | (z == 1)).all()), "corners only"
    pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        (raises_type_error, (torch.zeros(()),), "failed with TypeError: "),
        (fit, (), "failed with TypeError: fit() missing 1 required positional argument: 'x'"),
        (dislikes_mixtures, (torch.zeros(()),), "failed with AssertionError: corners only"),
        (SwitchingGaussian(torch.zeros(2), 1.0), (torch.zeros(3),), "failed with ValueError: "),
    ],
)
def test_a_failure_of_the_model_itself_is_reported_as_such(
    model: Callable[..., Any], args: tuple[Any, ...], message: str
) -> None:
    (fault,) = faults(check_model(model, *args))
    assert fault.site == "model"
    assert fault.message.startswith("the model itself ")
    assert message in fault.message


def test_nothing_is_left_behind() -> None:
    network = SequenceLSTM(2, 8, generator=torch.Generator().manual_seed(0))

    def model(x: Tensor) -> None:
        pyro.param("extra", torch.zeros(1))
        torch.rand(3)
        network(x)

    before = torch.get_rng_state()
    assert check_model(model, X).ok
    assert torch.equal(before, torch.get_rng_state())
    assert not pyro.get_param_store().keys()
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


# Loading by name


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory with a user's modules; what was imported is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "user_models.py").write_text("def model(x): return x\ndata = (1, 2)\n")
    (tmp_path / "user_needs.py").write_text("import not_a_module_at_all\n")
    (tmp_path / "user_wrong.py").write_text("1 / 0\n")
    (tmp_path / "user_syntax.py").write_text("def model(:\n")
    (tmp_path / "user_name.py").write_text("from math import squrt\n")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_an_object_is_loaded_from_the_current_directory(folder: Path) -> None:
    assert load_object("user_models:model")(3) == 3
    assert load_object("user_models:data", must_be_callable=False) == (1, 2)
    assert load_object("gbi_pyro.models.switching:SwitchingGaussian") is SwitchingGaussian


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("user_models", "expected module:attribute, such as my_models:model, got 'user_models'"),
        ("user_models:", "expected module:attribute"),
        (":model", "expected module:attribute"),
        ("./user_models.py:model", "expected module:attribute"),
        ("user_modles:model", "no module 'user_modles' in"),
        ("user_package.models:model", "no module 'user_package.models' in"),
        ("user_models.part:model", "no module 'user_models.part' in"),
        (
            "user_needs:model",
            "'user_needs' exists, but .* ModuleNotFoundError: .*not_a_module_at_all",
        ),
        ("user_name:model", "'user_name' exists, but its import failed with ImportError: .*squrt"),
        ("user_wrong:model", "'user_wrong' exists, but its import failed with ZeroDivisionError"),
        ("user_syntax:model", "'user_syntax' exists, but its import failed with SyntaxError"),
        ("user_models:modle", "has no attribute 'modle'; did you mean 'model'?"),
        ("user_models:xyzzy", "has no attribute 'xyzzy'$"),
        ("user_models:data", "user_models:data is a tuple; expected something callable"),
    ],
)
def test_what_is_wrong_with_a_name_is_told(folder: Path, spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_object(spec)
