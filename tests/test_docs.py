"""The documentation: recipes run, formulas and links lead somewhere, every name has its page."""

import ast
import contextlib
import doctest
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from docutils.core import publish_doctree
from sphinx.application import Sphinx

import gbi_pyro

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
sys.path += [str(DOCS), str(DOCS / "_extensions")]
import docstrings  # noqa: E402
import lessons  # noqa: E402
import mathml  # noqa: E402
import pages  # noqa: E402
import pairs  # noqa: E402
import reference  # noqa: E402

PAGES = sorted(path for path in DOCS.glob("*.md") if path.name not in pages.TAKEN.values())
ROLE = re.compile(r"\{py:(\w+)\}`~?([\w.]+)`")
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+(?:\n[^$\n]+)?)\$", re.DOTALL)
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
OTHERS = ("jax", "lightning", "mlflow", "torch.utils.tensorboard", "transformers", "wandb")
"""Packages of recipes that the library does not depend on, and the environment may lack."""
WIDEST = 88  # characters of code in a page
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
each_lesson = pytest.mark.parametrize("script", pairs.scripts(), ids=lambda path: path.stem)


def cells(script: Path, kind: str) -> list[str]:
    return [cell.source for cell in pairs.from_script(script).cells if cell.cell_type == kind]


def others(block: re.Match[str]) -> set[str]:
    """The packages that a block imports beside the dependencies of the library."""
    imported = re.findall(r"^(?:import|from) (\S+)", block[1], re.MULTILINE)
    return {name for name in OTHERS if any(f"{i}.".startswith(f"{name}.") for i in imported)}


def run_block(block: re.Match[str], names: dict[str, object]) -> None:
    line = block.string[: block.start()].count("\n") + 1
    exec(compile("\n" * line + block[1], "docs/recipes.md", "exec"), names)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """What the blocks of the recipes leave behind, run one after the other."""
    text = (DOCS / "recipes.md").read_text()
    folder = tmp_path_factory.mktemp("recipes")
    names: dict[str, object] = {}
    torch.set_num_threads(1)  # this fixture comes before the one that does it for each test
    with contextlib.chdir(folder):
        for block in BLOCK.finditer(text):
            if not others(block):
                run_block(block, names)
    return SimpleNamespace(**names, folder=folder)


def test_the_recipes_run_and_write_the_files_they_speak_of(recipes):
    written = {path.name for path in recipes.folder.iterdir()}
    assert written == {"calibration.json", "posterior.nc", "posterior.png"}


def test_the_recipes_answer_their_questions(recipes):
    kl = {
        name: recipes.agreement(recipes.exact, getattr(recipes, name)).kl
        for name in ("one_step", "calibrated", "second_order")
    }
    # The mean is affine in the task: what corrects one step makes it exact.
    assert kl["one_step"] > 0.1
    assert max(kl["calibrated"], kl["second_order"]) < 1e-6
    assert recipes.report.ok
    assert recipes.check_sbc(recipes.simulations).passed
    assert recipes.fewest_nats(recipes.codes) == 3
    read, right = recipes.smoothed.mode(), recipes.blocks
    assert (read == right).float().mean() >= (recipes.filtered.mode() == right).float().mean()


def test_em_of_the_recipes_explains_the_data_better_than_the_truth(recipes):
    # As the maximum of a likelihood does, on the data that it was fitted to.
    fitted = recipes.em.infer(recipes.x).log_evidence.sum()
    assert fitted >= recipes.exact.log_evidence.sum()


def run_with(package: str, recipes: SimpleNamespace) -> dict[str, Any]:
    """Run the blocks that need another package, after all others; return what they leave behind."""
    text = (DOCS / "recipes.md").read_text()
    blocks = [block for block in BLOCK.finditer(text) if package in others(block)]
    assert blocks
    names = dict(vars(recipes))
    for block in blocks:
        run_block(block, names)
    return names


@pytest.mark.filterwarnings("default")  # of packages that are not ours
@pytest.mark.parametrize("package", sorted({*OTHERS} - {"mlflow", "wandb"}))
def test_a_recipe_with_another_package_runs(recipes, package, tmp_path, monkeypatch):
    try:
        importlib.import_module(package)
    except ImportError as error:
        pytest.skip(f"{package} is not installed ({error})")
    monkeypatch.chdir(tmp_path)
    names = run_with(package, recipes)
    if package == "torch.utils.tensorboard":
        assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    if package == "jax":
        smoothed = names["exact_chain"].log_smoothed.exp()
        torch.testing.assert_close(smoothed, recipes.smoothed.probs().to(smoothed))


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_a_recipe_of_a_tracker_logs_every_step(recipes, package, monkeypatch):
    """With a module of the same functions in place of the package, which asks for an account."""
    logged = []
    fake = ModuleType(package)
    fake.log = lambda values, step: logged.append((step, values["objective"]))
    fake.log_metric = lambda name, value, step: logged.append((step, value))
    monkeypatch.setitem(sys.modules, package, fake)
    before = len(recipes.em.history)
    run_with(package, recipes)
    done = recipes.em.history[before:]
    assert logged == [
        (before + i, step.objective / step.num_observations) for i, step in enumerate(done, 1)
    ]


def test_one_step_reads_the_task_of_a_text_off_its_transformer(recipes):
    posterior = recipes.OneStepGradient()(recipes.reader, recipes.text)
    assert (posterior.mode() == recipes.goes).all()


@each_page
def test_a_page_names_only_what_exists(page):
    for role, name in ROLE.findall(page.read_text()):
        if role == "mod":
            importlib.import_module(name)
            continue
        owner, member = name.rsplit(".", 1)
        if role == "meth":
            owner, of = owner.rsplit(".", 1)
            assert hasattr(getattr(importlib.import_module(owner), of), member)
        else:
            assert hasattr(importlib.import_module(owner), member)


@each_page
def test_code_of_a_page_fits_into_it(page):
    for block in BLOCK.findall(page.read_text()):
        assert max(map(len, block.splitlines())) <= WIDEST


@each_lesson
def test_code_of_a_lesson_fits_into_its_page(script):
    for code in cells(script, "code"):
        assert [line for line in code.splitlines() if len(line) > WIDEST] == []


@each_lesson
def test_readers_of_a_lesson_do_not_see_its_test_hook(script):
    for code in cells(script, "code"):
        shown = lessons.without_hook(code)
        assert lessons.HOOK not in shown
        ast.parse(re.sub("^%", "#", shown, flags=re.MULTILINE))


def test_the_hook_is_taken_out_of_code_as_the_example_says():
    assert doctest.testmod(lessons) == (0, 1)


@pytest.mark.parametrize("page", pages.TAKEN)
def test_links_of_a_page_taken_over_lead_somewhere(page):
    made = {*pages.TAKEN.values(), "results/README.md"}
    for target in pages.LINK.findall(pages.from_root(page)):
        if target not in made and not target.startswith(("http", "results/", "notebooks/")):
            assert (DOCS / target).exists(), target


def test_every_figure_of_the_results_has_a_caption_and_every_folder_a_title():
    figures = {(p.parent.name, p.stem) for p in ROOT.glob("results/*/*.png")}
    folders = {(path.parent.name, "title") for path in ROOT.glob("results/*/*.md")}
    captions = {(folder, name) for folder, about in pages.captions().items() for name in about}
    assert captions >= figures | folders


def test_every_module_and_every_public_name_is_in_the_reference():
    listed = {module.__name__ for part in reference.PARTS for module in reference.modules(part)}
    paths = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "gbi_pyro").rglob("*.py")]
    files = [path.parts for path in paths if not any(p.startswith("_") for p in path.parts)]
    assert {".".join(parts) for parts in files} - listed == reference.NOT_IMPORTED
    offered = set(reference.import_lines())
    assert offered >= set(reference.top_names().values())
    text = reference.pages()["api/names.inc"]
    for name in gbi_pyro.__all__:
        assert name in reference.PARTS or f".{name}\n" in text


def test_the_reference_imports_names_as_readers_would():
    for line in reference.import_lines().values():
        exec(line, {})


def test_every_formula_becomes_mathml():
    texts = [page.read_text() for page in PAGES]
    texts += [text for script in pairs.scripts() for text in cells(script, "markdown")]
    found = [display or inline for text in texts for display, inline in FORMULA.findall(text)]
    assert len(found) > 100
    for formula in found:
        assert mathml.to_mathml(formula, display=True).startswith("<math")


def test_formulas_are_shown_without_a_script(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "index.md").write_text((DOCS / "mathematics.md").read_text())
    app = Sphinx(
        *(source, DOCS, tmp_path / "pages", tmp_path / "doctrees", "html"),
        confoverrides={"extensions": ["myst_nb", "mathml"], "exclude_patterns": []},
        status=None,
        warning=None,
    )
    app.build()
    page = (tmp_path / "pages" / "index.html").read_text()
    assert page.count("<math") > 100
    assert "mathjax" not in page.lower()
    assert (tmp_path / "pages" / "_static" / mathml.font().name).exists()


def test_formulas_of_docstrings_come_out_as_they_are():
    prose = [
        "KL(p || q) = sum_k |p_k| * q_k_ / |m|, with log_ and *emphasis*, ``a | b_`` and ``c |",
        "d_``.",
        "",
        "K.",
    ]
    lines = list(prose)
    docstrings.escape("function", lines)
    settings = {"report_level": 1, "halt_level": 1}  # the least complaint is an error
    text = publish_doctree("\n".join(lines), settings_overrides=settings).astext()
    assert text == "\n".join(prose).replace("*emphasis*", "emphasis").replace("``", "")
