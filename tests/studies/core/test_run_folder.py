import hashlib
import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file

from gbi_pyro.files import replacing
from studies.core.run_folder import RunFolder
from studies.core.table import Row


def test_weights_come_back_bit_by_bit_and_the_manifest_describes_them(tmp_path):
    network = torch.nn.Linear(3, 2)
    RunFolder(tmp_path).write_weights({"net": network})
    path = tmp_path / "weights.safetensors"
    loaded = load_file(path)
    assert torch.equal(loaded["net/weight"], network.weight)
    manifest = json.loads((tmp_path / "weights.json").read_text())
    assert manifest["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert manifest["tensors"]["net/bias"] == ["torch.float32", [2]]


def test_config_names_the_study_its_options_and_the_versions(tmp_path):
    @dataclass(frozen=True)
    class Config:
        seeds: int = 3
        rate: float = 0.1
        method_fields: ClassVar[frozenset[str]] = frozenset({"rate"})

    RunFolder(tmp_path).write_config("toy", Config(), {"rates": (0.1,)})
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["study"] == "toy"
    assert content["config"] == {"seeds": 3, "rate": 0.1}
    assert content["method_fields"] == ["rate"]
    assert content["inputs"] == {"rates": [0.1]}
    assert content["versions"]["torch"] == torch.__version__


def test_metrics_hold_every_row_and_the_table(tmp_path):
    RunFolder(tmp_path).write_metrics([Row("T9", "error", (0.5, 0.7))], 1.23)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["rows"][0]["values"] == [0.5, 0.7]
    assert (
        "[unseen means (T9)](../claims.md#t9) | error | 0.600 ± 0.100 |"
        in (tmp_path / "table.md").read_text()
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_replaces_the_old_one_and_keeps_its_suffix(tmp_path):
    path = tmp_path / "deep" / "figure.png"
    with replacing(path) as temporary:
        assert temporary.suffix == ".png"
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]
