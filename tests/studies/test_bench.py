"""The benchmark: numbers are those of the metrics; problems and methods may be one's own."""

import math
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from click.testing import CliRunner
from study_runs import without_figures

from gbi_pyro import Enumeration, OneStepGradient
from gbi_pyro.inference import AutoregressiveRecogniser, LearnedRefiner, TrajectorySampler
from gbi_pyro.metrics.agreement import agreement
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.problems import PROBLEMS, Drawn, Problem
from studies.__main__ import app
from studies.bench import config, study
from studies.bench.config import BenchConfig
from studies.bench.crossing import bench
from studies.bench.divergence import BY_DRAWS, compare_joints
from studies.bench.figures import draw_cost
from studies.bench.learned import (
    FORWARD,
    REFINER,
    REFINER_BLIND,
    SAMPLER,
    SYMBOLS,
    WithFeatures,
    bigrams,
)
from studies.bench.measure import Cell, judge, measure
from studies.bench.methods import (
    CALIBRATED,
    EXACT,
    ITERATIVE,
    JOINT,
    METHODS,
    ONE_STEP,
    PRIOR,
    PRODUCT,
    rescored,
)
from studies.bench.own import own_method, own_problem
from studies.bench.study import BenchStudy
from studies.core.runner import run

GRAPH, SWITCHING = "graph-8-chain", "switching-4"
TINY = BenchConfig(
    seeds=1,
    cases=12,
    problems=(SWITCHING, GRAPH),
    methods=(PRIOR, ONE_STEP, CALIBRATED, JOINT, PRODUCT, EXACT),
)
MINE = """
import pyro, pyro.distributions as dist, torch
from gbi_pyro import OneStepGradient
from gbi_pyro.problems import Drawn, Problem

means = torch.tensor([0.0, 0.5, 2.0])

def model(x):
    with pyro.plate("case", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3)), infer={"task": True})
        pyro.sample("x", dist.Normal(z @ means, 0.5), obs=x)

def draw(n, generator):
    z = torch.randint(3, (n,), generator=generator)
    return Drawn((means[z] + 0.5 * torch.randn(n, generator=generator),), {"z": z})

problem = Problem("mine", model, draw)
method = OneStepGradient(order=2)
number = 3

def of_seed(seed):
    return problem

def no_problem(seed):
    return seed

def without_seed():
    return problem

class Learner:
    def fit(self, problem, generator):
        return OneStepGradient()

def broken(model, *args):
    raise TypeError("first line\\nsecond line")
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    torch.set_num_threads(1)
    return run(BenchStudy(TINY), tmp_path_factory.mktemp("bench"))


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The name of a module in the current directory, with a problem and methods."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(MINE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


def values(results, problem, method, words="KL(exact || it), nats"):
    (row,) = [r for r in results.rows if r.what == f"{problem}: {method}: {words}"]
    return row.values


def test_divergences_are_those_of_the_metrics(finished):
    judged = study.judged(TINY, GRAPH, 0)
    exact = judged.problem.posterior(judged.drawn)
    estimate = OneStepGradient()(judged.problem.model, *judged.drawn.args)
    found = agreement(exact, estimate)
    (kl,) = values(finished, GRAPH, ONE_STEP)
    assert kl == pytest.approx(found.kl, rel=1e-5)
    table = pd.read_csv(finished.folder / "bench.csv")
    (row,) = table[(table.problem == GRAPH) & (table.method == ONE_STEP)].itertuples()
    assert row.reverse_kl == pytest.approx(found.reverse_kl, rel=1e-5)
    (score,) = values(finished, GRAPH, ONE_STEP, "-log q(true tasks), nats")
    by_hand = -estimate.log_prob(judged.drawn.tasks).mean().item()
    assert score == pytest.approx(by_hand, rel=1e-5)


def test_what_has_to_be_exact_is_and_no_product_beats_that_of_the_exact_marginals(finished):
    for problem in (SWITCHING, GRAPH):
        assert values(finished, problem, EXACT) == (0.0,)
        assert max(values(finished, problem, JOINT)) < 1e-6
        for method in (PRIOR, ONE_STEP, CALIBRATED):
            # Of all q that are products, the exact marginals have the least KL(exact || q).
            (best,), (kl,) = values(finished, problem, PRODUCT), values(finished, problem, method)
            assert best <= kl + 1e-6
    assert max(values(finished, GRAPH, PRODUCT)) > 0.1
    assert max(values(finished, SWITCHING, CALIBRATED)) < 1e-6


def test_targets_come_with_what_was_measured(finished):
    targets = {row.what: row for row in finished.targets}
    double = f"{GRAPH}, in double precision: {JOINT}: KL(exact || it), nats"
    assert list(targets) == [double]
    assert targets[double].verdict == "reached"
    assert targets[double].claim == "B2"


def test_the_files_hold_what_the_rows_hold(finished):
    table = pd.read_csv(finished.folder / "bench.csv")
    data = xr.load_dataset(finished.folder / "bench.nc")
    lines = (finished.folder / "bench.md").read_text().splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("| problem |"))
    columns = [cell.strip() for cell in lines[header].strip("|").split("|")]
    matrix = {
        (cells[0].strip(), method): cell.strip()
        for line in lines[header + 2 : header + 2 + len(TINY.problems)]
        for cells in [line.strip("|").split("|")]
        for method, cell in zip(columns[1:], cells[1:], strict=True)
    }
    assert data.attrs["run"] in (finished.folder / "config.json").read_text()
    assert set(data.kl.dims) == {"problem", "method", "seed"}
    for problem in TINY.problems:
        for method in TINY.methods:
            (value,) = values(finished, problem, method)
            (row,) = table[(table.problem == problem) & (table.method == method)].itertuples()
            assert row.kl == pytest.approx(value)
            assert data.kl.sel({"problem": problem, "method": method, "seed": 0}).item() == value
            assert float(matrix[problem, method]) == pytest.approx(value, rel=5e-2)
    assert data.kl.attrs["description"].endswith("nats")


def test_more_seeds_and_methods_measure_only_what_is_new(finished):
    stages = []
    more = replace(TINY, seeds=2, problems=(GRAPH,), methods=(ONE_STEP, ITERATIVE))
    again = run(without_figures(BenchStudy(more)), finished.folder, progress=stages.append)
    measured = [what for what in stages if what.startswith("seed")]
    assert measured == [
        f"seed 1: {GRAPH}: {ONE_STEP}",
        *(f"seed {seed}: {GRAPH}: {ITERATIVE}" for seed in (0, 1)),
    ]
    assert values(again, GRAPH, ONE_STEP)[:1] == values(finished, GRAPH, ONE_STEP)


def test_the_figures_show_every_problem(finished):
    cells = BenchStudy(TINY).cells(finished.found)
    for cost in ("passes", "seconds"):
        figure = draw_cost(cells, cost)
        assert [ax.get_title("left") for ax in figure.axes] == list(TINY.problems)
        shown = {text.get_text() for text in figure.legends[0].get_texts()}
        assert {"one step + m rescored", "calibrated one step", EXACT, PRIOR, PRODUCT} <= shown
    assert {path.name for path in finished.figures} == {"passes.png", "seconds.png"}


def test_too_many_combinations_are_compared_by_draws():
    """Of independent sites the divergence is a sum, which draws estimate."""
    judged = judge(PROBLEMS["chain-40"], 0, 5)
    cell = measure(judged, METHODS[PRODUCT], 0)
    assert cell.how == BY_DRAWS
    assert cell.agreement == 1
    assert math.isnan(cell.calibration_error)
    prior = METHODS[PRIOR](judged.problem.model, *judged.drawn.args)
    product = METHODS[PRODUCT].fit(judged.problem, torch.Generator())
    marginals = product(judged.problem.model, *judged.drawn.args)
    generator = torch.Generator().manual_seed(0)
    found = compare_joints(marginals, prior, judged.drawn.tasks, generator)
    # KL of 200 draws: 40 terms of a standard deviation below log 2 + the rare log p.
    error = 5 * math.sqrt(40 / 200)
    np.testing.assert_allclose(found.kl, found.marginal_kl, atol=error)
    assert (found.marginal_kl > 0).all()


def test_a_posterior_may_be_infinitely_wrong():
    def forbidding(model, *args):
        q = OneStepGradient()(model, *args)
        shape = q.logits().shape
        return replace(q, log_probs={"z": torch.eye(shape[-1])[0].log().expand(shape)})

    cell = measure(judge(PROBLEMS[SWITCHING], 0, 8), forbidding, 0)
    assert not cell.refused
    assert cell.infinite.all()
    assert cell.reverse_kl.isfinite().all()


def test_a_refusal_is_a_note_and_never_a_crash(mine, tmp_path):
    config = BenchConfig(
        seeds=1, cases=8, problems=("none",), methods=(ONE_STEP,), problem=f"{mine}:problem",
        method=f"{mine}:broken",
    )  # fmt: skip
    results = run(without_figures(BenchStudy(config)), tmp_path / "out")
    (row,) = [r for r in results.rows if "broken" in r.what]
    assert row.note == "failed with TypeError: first line"
    assert math.isnan(row.mean)
    text = (tmp_path / "out" / "bench.md").read_text()
    assert "a: failed with TypeError: first line." in text
    assert pd.read_csv(tmp_path / "out" / "bench.csv").note.notna().sum() == 1


@pytest.mark.parametrize(
    ("method", "note"),
    [
        (lambda _model, *_args: 3, "failed with TypeError: a method should return a TaskPosterior"),
        (lambda model, *args: _other_site(model, *args), "not applicable: its posterior should"),
        (lambda model, *args: _unnormalised(model, *args), "not applicable: log_q should hold"),
    ],
)
def test_what_a_method_returns_is_checked(method, note):
    assert measure(judge(PROBLEMS[SWITCHING], 0, 4), method, 0).refused.startswith(note)


def _other_site(model, *args) -> TaskPosterior:
    q = OneStepGradient()(model, *args)
    return replace(q, log_probs={"y": q.logits()}, sites={"y": q.sites["z"]})


def _unnormalised(model, *args) -> TaskPosterior:
    q = OneStepGradient()(model, *args)
    return replace(q, log_probs={"z": q.logits() + 1})


def test_a_problem_and_a_method_of_your_own_from_the_command_line(mine, tmp_path):
    arguments = ["--problem", f"{mine}:problem", "--method", f"{mine}:method"]
    others = ["--problems", SWITCHING, "--methods", ONE_STEP, "--seeds", "1", "--cases", "8"]
    result = CliRunner().invoke(app, ["bench", *arguments, *others, "--out", "out"])
    assert result.exit_code == 0, result.output
    found = pd.read_csv(tmp_path / "out" / "bench.csv").set_index(["problem", "method"])
    assert len(found) == 4
    assert found.kl[f"{mine}:problem", f"{mine}:method"] < 1e-9  # the mean is affine in the task
    assert found.kl[f"{mine}:problem", ONE_STEP] > 0.01


def test_a_changed_file_of_your_own_is_measured_again(mine, tmp_path):
    config = BenchConfig(
        seeds=1, cases=8, problems=("none",), methods=("none",),
        problem=f"{mine}:problem", method=f"{mine}:method",
    )  # fmt: skip
    measured = []
    for extra in ("", "", "\n# changed\n"):
        with (tmp_path / f"{mine}.py").open("a") as file:
            file.write(extra)
        stages: list[str] = []
        run(without_figures(BenchStudy(config)), tmp_path / "out", progress=stages.append)
        measured.append(sum(what.startswith("seed") for what in stages))
    assert measured == [1, 0, 1]


def test_a_problem_and_a_method_of_your_own_from_python():
    means = torch.tensor([0.0, 0.5, 2.0])

    def model(x):
        with pyro.plate("case", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3)), infer={"task": True})
            pyro.sample("x", dist.Normal(z @ means, 0.5), obs=x)

    def draw(n, generator):
        z = torch.randint(3, (n,), generator=generator)
        return Drawn((means[z] + 0.5 * torch.randn(n, generator=generator),), {"z": z})

    mine = Problem("mine", model, draw)
    methods = {ONE_STEP: METHODS[ONE_STEP], "all tasks": Enumeration()}
    found = bench({"mine": mine, SWITCHING: PROBLEMS[SWITCHING]}, methods, cases=20, seeds=2)
    matrix = found.pivot_table("kl", "problem", "method")
    assert (matrix["all tasks"] < 1e-9).all()
    assert (matrix[ONE_STEP] > 0.01).all()
    with pytest.raises(ValueError, match="methods should be at least one, got 0"):
        bench({"mine": mine}, {})


def test_a_shortlist_of_all_combinations_is_exact_and_more_are_better(finished):
    judged = study.judged(TINY, GRAPH, 0)
    kl = [
        measure(judged, METHODS[name], 0).kl.mean().item()
        for name in (ONE_STEP, *(rescored(ONE_STEP, m) for m in (4, 8, 16)))
    ]
    assert kl == sorted(kl, reverse=True)


def test_warnings_are_part_of_a_cell():
    def warns(model, *args):
        import warnings

        warnings.warn("first line\nsecond line", stacklevel=1)
        return OneStepGradient()(model, *args)

    assert measure(judge(PROBLEMS[SWITCHING], 0, 4), warns, 0).warned == "first line"
    assert Cell().warned == ""


@pytest.mark.parametrize(
    ("make", "spec", "message"),
    [
        (own_problem, "no_colon", "expected module:attribute"),
        (own_problem, "no_such_module_here:problem", "no module 'no_such_module_here'"),
        (own_problem, "{}:nothing", "has no attribute 'nothing'"),
        (own_problem, "{}:number", "is a int; expected a gbi_pyro.problems.Problem"),
        (own_problem, "{}:Learner", "is the class Learner; expected a gbi_pyro.problems.Problem"),
        (own_problem, "{}:no_problem", "makes a int of a seed; expected"),
        (own_problem, "{}:without_seed", "takes no seed"),
        (own_method, "{}:number", "is a int; expected what is called as infer"),
        (own_method, "{}:Learner", r"is the class Learner; .*: give an object of it, Learner\(\)"),
    ],
)
def test_a_bad_problem_or_method_is_an_error_in_words(mine, make, spec, message):
    with pytest.raises(ValueError, match=message):
        make(spec.format(mine))


def test_a_bad_problem_is_one_line_on_the_command_line(mine):
    result = CliRunner().invoke(app, ["bench", "--problem", f"{mine}:nothing", "--out", "out"])
    assert result.exit_code == 2
    assert "has no attribute 'nothing'" in result.output


def test_a_function_of_a_seed_makes_a_problem(mine):
    assert own_problem(f"{mine}:of_seed")(3) is own_problem(f"{mine}:problem")(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"cases": 0}, "cases must be at least 1"),
        ({"problems": ("nothing",)}, "problems should be different names .* got nothing"),
        ({"methods": (ONE_STEP, ONE_STEP)}, "methods should be different names"),
        ({"problems": ("none",)}, "problems=none leaves a problem of your own alone"),
        ({"methods": ("none",)}, "methods=none leaves a method of your own alone"),
    ],
)
def test_a_config_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_the_fast_study_keeps_what_was_asked_for():
    config = BenchConfig(seeds=1, first_seed=7, problems=(GRAPH,)).fast()
    assert config.all_seeds == range(7, 8)
    assert config.problems == (GRAPH,)
    assert BenchConfig(cases=100).num_cases("metahmm-12288-T40") == 16


def test_names_have_no_commas():
    assert not [name for name in (*METHODS, *PROBLEMS) if "," in name or name == "none"]


def test_learned_methods_and_papers_run_to_their_end(tmp_path, monkeypatch):
    """As a smoke test: what is trained at all is trained for a few steps."""
    quick = {
        REFINER: LearnedRefiner(updates=2, batch=8),
        REFINER_BLIND: WithFeatures(
            lambda f: LearnedRefiner(updates=2, batch=8, use_gradient=False, features=f)
        ),
        FORWARD: WithFeatures(
            lambda f: AutoregressiveRecogniser(f, updates=2, batch_size=8), trained=True
        ),
        SAMPLER: TrajectorySampler(updates=2),
    }
    monkeypatch.setattr(config, "LEARNED", quick)
    chosen = BenchConfig(
        seeds=1,
        cases=4,
        learned=True,
        papers=True,
        problems=("hyperteacher-n4", "metahmm-24-T10"),
        methods=(ONE_STEP, *quick),
    )
    found = run(without_figures(BenchStudy(chosen)), tmp_path / "run")
    table = pd.read_csv(found.folder / "bench.csv").set_index(["problem", "method"])
    for name in (REFINER, REFINER_BLIND, FORWARD):
        assert table.kl["hyperteacher-n4", name] > 0
    assert table.kl["metahmm-24-T10", SAMPLER] > 0
    assert "left out" in table.note["hyperteacher-n4", SAMPLER]
    claims = {row.claim for row in found.rows}
    assert claims >= {"B4", "B5", "B6", "B7", "B8", "B9", "B11"}


def test_bigrams_count_pairs_of_symbols():
    found = bigrams(3, torch.tensor([[0, 1, 0, 1]]))
    size = SYMBOLS
    first = found[0, : size * size].reshape(size, size)
    assert first[0, 1].item() == pytest.approx(math.sqrt(2))
    assert first.square().sum().item() == pytest.approx(3)
    assert found.square().sum().item() == pytest.approx(3 + 2 + 1)


def test_files_have_to_be_there(tmp_path):
    with pytest.raises(ValueError, match="has no mnist, fashion-mnist, text10"):
        BenchStudy(BenchConfig(papers=True), tmp_path)
