import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from studies.core.cache import Cache, as_json


@dataclass(frozen=True)
class Inner:
    values: np.ndarray
    name: str


class Named(NamedTuple):
    mean: float
    weights: Tensor


@dataclass(frozen=True)
class Record:
    number: float
    count: int
    flag: bool
    absent: float | None
    array: np.ndarray
    tensor: Tensor
    by_pair: dict[tuple[str, int], float]
    by_number: dict[float, list[int]]
    inner: dict[str, Inner]
    pair: tuple[float, str]
    named: Named


def record() -> Record:
    return Record(
        number=0.1 + 0.2,
        count=3,
        flag=True,
        absent=None,
        array=np.array([[1.5, math.nan], [-math.inf, 1e-300]]),
        tensor=torch.arange(6, dtype=torch.int64).reshape(2, 3),
        by_pair={("a", 1): 0.5, ("b", 2): math.nan},
        by_number={0.1: [1, 2]},
        inner={"x": Inner(np.array([1.0], dtype=np.float32), "first")},
        pair=(0.25, "words"),
        named=Named(0.5, torch.arange(3.0)),
    )


def assert_same(a: Record, b: Record) -> None:
    assert (a.number, a.count, a.flag, a.absent, a.pair) == (
        b.number,
        b.count,
        b.flag,
        b.absent,
        b.pair,
    )
    np.testing.assert_array_equal(a.array, b.array)
    assert torch.equal(a.tensor, b.tensor)
    assert a.tensor.dtype == b.tensor.dtype
    assert a.named.mean == b.named.mean
    assert torch.equal(a.named.weights, b.named.weights)
    assert a.by_pair.keys() == b.by_pair.keys()
    assert a.by_pair["a", 1] == b.by_pair["a", 1]
    assert math.isnan(b.by_pair["b", 2])
    assert a.by_number == b.by_number
    assert a.inner["x"].name == b.inner["x"].name
    assert a.inner["x"].values.dtype == b.inner["x"].values.dtype
    np.testing.assert_array_equal(a.inner["x"].values, b.inner["x"].values)


def test_a_record_comes_back_bit_for_bit(tmp_path):
    cache = Cache(tmp_path)
    first = cache.get("a unit", {"sigma": 0.1}, Record, record)
    again = Cache(tmp_path).get("a unit", {"sigma": 0.1}, Record, lambda: pytest.fail("computed"))
    assert_same(record(), first)
    assert_same(record(), again)
    assert [p.name for p in tmp_path.iterdir()] == ["a-unit.npz"]


@pytest.mark.parametrize("settings", [{"sigma": 0.2}, {"sigma": 0.1, "new": 1}, {}])
def test_a_record_of_other_settings_is_computed_anew(tmp_path, settings):
    Cache(tmp_path).get("a unit", {"sigma": 0.1}, Record, record)
    assert Cache(tmp_path).read("a unit", settings, Record) is None


def test_names_that_become_one_file_are_kept_apart(tmp_path):
    """A file's name keeps only letters, digits and points; the record holds the name itself."""
    Cache(tmp_path).get("a, unit", {}, Record, record)
    assert Cache(tmp_path).read("a unit", {}, Record) is None


def test_seconds_are_those_of_records_that_were_read(tmp_path):
    Cache(tmp_path).write("a", {}, Record, record(), 2.5)
    cache = Cache(tmp_path)
    assert cache.seconds == 0
    cache.read("a", {}, Record)
    assert cache.seconds == 2.5


def test_an_interrupted_computation_leaves_no_file(tmp_path):
    def interrupted() -> Record:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path).get("a", {}, Record, interrupted)
    assert list(tmp_path.iterdir()) == []


def test_settings_are_compared_as_json_gives_them_back():
    assert as_json({"sigmas": (0.1, 0.2), "inner": Inner(np.zeros(1), "x").name}) == {
        "sigmas": [0.1, 0.2],
        "inner": "x",
    }
