"""Settings as text: types from the configuration's fields, and errors that name what is wrong."""

from dataclasses import dataclass
from typing import Literal

import pytest

from studies.core.protocol import Seeds
from studies.core.settings import format_seeds, parse_grid, parse_seeds, parse_setting


@dataclass(frozen=True)
class Config(Seeds):
    sigma: float = 0.1
    deep: bool = False
    means: tuple[float, ...] = (0.2, 0.8)
    judged_on: Literal["test", "validation"] = "test"
    other: str | None = None
    schedules: tuple[tuple[int, int], ...] = ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sigma=1", ("sigma", 1.0)),
        ("deep=yes", ("deep", True)),
        ("means=0.5", ("means", (0.5,))),
        ("means=0.5,1", ("means", (0.5, 1.0))),
        ("judged-on=validation", ("judged_on", "validation")),
        ("other=a=b", ("other", "a=b")),
        ("other=none", ("other", None)),
        (" first_seed = 3 ", ("first_seed", 3)),
    ],
)
def test_values_have_the_types_of_the_fields(text, expected):
    found = parse_setting(Config, text)
    assert found == expected
    assert type(found[1]) is type(expected[1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sigma", "should be key=value"),
        ("sgima=1", "no setting 'sgima': did you mean sigma"),
        ("zzz=1", "it has seeds, first_seed, sigma"),
        ("sigma=a", "sigma=a: 'a' is not a valid float"),
        ("seeds=1.5", "not a valid int"),
        ("deep=perhaps", "not a valid boolean"),
        ("means=a", "expected float values with commas"),
        ("judged_on=training", "'test', 'validation'"),
        ("schedules=1", "schedules should be JSON of a tuple"),
    ],
)
def test_what_is_no_setting_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        parse_setting(Config, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sigma=0.1, 0.3", ("sigma", (0.1, 0.3))),
        ("means=0.1,0.2;0.3", ("means", ((0.1, 0.2), (0.3,)))),
        ("other=a,none", ("other", ("a", None))),
    ],
)
def test_a_grid_has_several_values(text, expected):
    assert parse_grid(Config, text) == expected


def test_a_value_given_twice_is_refused():
    with pytest.raises(ValueError, match="each value once"):
        parse_grid(Config, "sigma=0.1,0.10")


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1,,2", "3-1", "0-3,2", "1.5"])
def test_what_is_no_list_of_seeds_is_refused(text):
    with pytest.raises(ValueError, match="seeds"):
        parse_seeds(text)


@pytest.mark.parametrize("seeds", [(0,), (0, 1), (3, 5, 6, 7), tuple(range(20))])
def test_seeds_are_read_as_they_are_written(seeds):
    assert parse_seeds(format_seeds(seeds)) == seeds
