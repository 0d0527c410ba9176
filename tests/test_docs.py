"""The documentation: its recipes run, and it names every module and every function that exists."""

import contextlib
import importlib
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "site"
PAGES = sorted(SITE.glob("*.md"))
ROLE = re.compile(r"\{py:(\w+)\}`~?([\w.]+)`")
INCLUDED = re.compile(r"```\{include\} (\S+)\n((?::.*\n)*)```")


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """What the blocks of the recipes leave behind, run one after the other."""
    text = (SITE / "recipes.md").read_text()
    folder = tmp_path_factory.mktemp("recipes")
    names: dict[str, object] = {}
    torch.set_num_threads(1)  # this fixture comes before the one that does it for each test
    with contextlib.chdir(folder):
        for block in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
            line = text[: block.start()].count("\n") + 1
            exec(compile("\n" * line + block[1], "site/recipes.md", "exec"), names)
    return SimpleNamespace(**names, folder=folder)


def test_the_recipes_run_and_write_the_files_they_speak_of(recipes):
    written = {path.name for path in recipes.folder.iterdir()}
    assert written == {"calibration.json", "posterior.nc", "posterior.png"}


def test_the_recipes_answer_their_questions(recipes):
    kl = {
        name: recipes.agreement(recipes.exact, getattr(recipes, name)).kl
        for name in ("one_step", "calibrated", "second_order")
    }
    # The mean is affine in the task: what mends one step makes it exact.
    assert kl["one_step"] > 0.1
    assert max(kl["calibrated"], kl["second_order"]) < 1e-6
    assert recipes.report.ok
    assert recipes.check_sbc(recipes.simulations).passed
    assert recipes.fewest_nats(recipes.codes) == 3
    read, right = recipes.smoothed(recipes.steps, recipes.stream).mode(), recipes.blocks
    assert (read == right).float().mean() >= (recipes.filtered.mode() == right).float().mean()


def test_em_of_the_recipes_explains_the_data_better_than_the_truth(recipes):
    # As the maximum of a likelihood does, on the data that it was fitted to.
    fitted = recipes.em.infer(recipes.x).log_evidence.sum()
    assert fitted >= recipes.exact.log_evidence.sum()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
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


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_what_a_page_takes_over_is_there(page):
    for path, options in INCLUDED.findall(page.read_text()):
        source = (page.parent / path).read_text()
        for mark in re.findall(r':(?:start-after|end-before): "(.*)"', options):
            assert source.count(mark) == 1


def test_every_module_of_the_library_is_in_the_reference():
    listed = set(re.findall(r"^   (gbi_pyro\.\w+)$", (SITE / "api.md").read_text(), re.MULTILINE))
    rooms = {
        f"gbi_pyro.{path.stem}"
        for path in (ROOT / "gbi_pyro").iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem[0] != "_"
    }
    assert listed == rooms - {"gbi_pyro.cli", "studies"}


def test_formulas_of_docstrings_come_out_as_they_are():
    from docutils.core import publish_doctree

    prose = [
        "KL(p || q) = sum_k |p_k| * q_k_ / |m|, with log_ and *emphasis*, ``a | b_`` and ``c |",
        "d_``.",
        "",
        "K.",
    ]
    lines = list(prose)
    conf = runpy.run_path(str(SITE / "conf.py"))
    conf["_take_formulas_as_they_are"](None, "function", "f", None, None, lines)
    settings = {"report_level": 1, "halt_level": 1}  # the least complaint is an error
    text = publish_doctree("\n".join(lines), settings_overrides=settings).astext()
    assert text == "\n".join(prose).replace("*emphasis*", "emphasis").replace("``", "")
