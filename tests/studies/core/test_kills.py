"""A run that is killed and resumed ends like one that was not; see ``benchmarks.kills``."""

import pytest

from benchmarks.kills import kill


@pytest.mark.slow
def test_a_killed_run_of_the_toy_study_ends_like_an_undisturbed_one():
    found = kill("toy", 2)
    assert found["kills"] == found["resumed"] == found["identical"] == 2
    assert found["read wrongly"] == found["temporary files left"] == 0
