import json
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from studies.__main__ import STUDIES
from studies.core.cache import VERSIONS, Cache, as_json, read_config
from studies.core.commands import load_study
from studies.core.run_folder import describe
from studies.toy.config import ToyConfig


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


@dataclass(frozen=True)
class Small:
    number: float
    array: np.ndarray


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


def test_a_record_of_another_version_is_computed_anew(tmp_path, monkeypatch):
    Cache(tmp_path).get("a", {}, Record, record)
    assert Cache(tmp_path).read("a", {}, Record) is not None
    monkeypatch.setitem(VERSIONS, "gbi-pyro", "0.0")
    assert Cache(tmp_path).read("a", {}, Record) is None


def test_a_file_with_any_bit_flipped_or_cut_anywhere_is_set_aside_and_made_anew(tmp_path, capsys):
    Cache(tmp_path).write("a", {}, Small, Small(0.5, np.arange(3.0)), 1.0)
    path = tmp_path / "a.npz"
    raw = path.read_bytes()
    damaged = [raw[:i] + bytes([raw[i] ^ 1 << i % 8]) + raw[i + 1 :] for i in range(len(raw))]
    damaged += [raw[:i] for i in range(0, len(raw), 37)] + [raw + b"0"]
    for content in damaged:
        path.write_bytes(content)
        assert Cache(tmp_path).read("a", {}, Small) is None
        assert not path.exists()
    assert (tmp_path / "a.npz.damaged").exists()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(damaged)
    assert all("a.npz is damaged" in line for line in lines)
    again = Cache(tmp_path).get("a", {}, Small, lambda: Small(0.5, np.arange(3.0)))
    assert again.array.tolist() == [0, 1, 2]


def test_a_record_of_another_type_is_made_anew(tmp_path, capsys):
    Cache(tmp_path).write("a", {}, Small, Small(0.5, np.zeros(1)), 1.0)
    assert Cache(tmp_path).read("a", {}, Record) is None
    assert "holds no Record" in capsys.readouterr().err


def test_json_in_a_file_is_json(tmp_path):
    Cache(tmp_path).write("a", {}, Record, record(), 1.0)
    with np.load(tmp_path / "a.npz") as file:
        json.loads(str(file["about"]), parse_constant=lambda name: pytest.fail(name))


def test_a_configuration_comes_back_equal_with_its_tuples(tmp_path):
    for place in STUDIES.values():
        config = load_study(place).config_type()
        assert (
            read_config(json.loads(json.dumps(describe("a", config, {}))), type(config)) == config
        )
    about = describe("toy", ToyConfig(means=(0.1, 0.9)), {})
    with pytest.raises(ValueError, match=r"fields of ToyConfig; it differs in \['width'\]"):
        read_config({**about, "config": {**about["config"], "width": 1}}, ToyConfig)
    with pytest.raises(ValueError, match=r"should hold a ToyConfig; got .*sigma"):
        read_config({**about, "config": {**about["config"], "sigma": "much"}}, ToyConfig)


@dataclass(frozen=True)
class Either:
    value: Tensor | Literal["uniform"]


@pytest.mark.parametrize("value", ["uniform", torch.arange(3.0)])
def test_a_tensor_or_a_text_comes_back_as_it_was(tmp_path, value):
    Cache(tmp_path).write("a", {}, Either, Either(value), 1.0)
    found = Cache(tmp_path).read("a", {}, Either)
    assert type(found.value) is type(value)
    assert found.value == value if isinstance(value, str) else torch.equal(found.value, value)
