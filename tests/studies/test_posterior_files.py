"""Which studies write a posterior, and that the test of each of them reads it back."""

from pathlib import Path

import pytest

from studies.__main__ import STUDIES
from studies.core.commands import load_study

WITHOUT = {"ood", "baselines", "split_digits", "bench"}  # these write no posterior


@pytest.mark.parametrize("name", sorted(STUDIES.keys() - WITHOUT))
def test_every_posterior_is_read_back(name: str) -> None:
    tests = Path(__file__).with_name(f"test_{name}.py")
    assert "check_posterior_file(" in tests.read_text()


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_the_other_studies_write_none(name: str) -> None:
    study = load_study(STUDIES[name])
    assert study(study.config_type()).posterior({}) is None
