"""A run on disk: config, metrics, posterior, weights and figures, each written whole."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from gbi_pyro.export.inference_data import save_inference_data
from gbi_pyro.files import replacing
from studies.core.cache import as_json
from studies.core.table import Row, markdown_table

PACKAGES = ("gbi-pyro", "pyro-ppl", "torch", "numpy", "arviz", "matplotlib")


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    ``config.json``, ``metrics.json``, ``table.md``, ``posterior.nc``, ``weights.safetensors`` with
    ``weights.json`` (its manifest), and ``figures/``. No pickle is written or read.

    Args:
        path: where; made if it is not there.
    """

    path: Path

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one JSON file."""
        with replacing(self.path / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")

    def write_config(self, study: str, config: Any, inputs: Mapping[str, Any]) -> None:
        """Write the configuration with what else the run depends on, and its versions."""
        self.write_json(
            "config.json",
            {
                "study": study,
                "config": asdict(config),
                "method_fields": sorted(getattr(config, "method_fields", ())),
                "inputs": as_json(inputs),
                "versions": {p: version(p) for p in PACKAGES},
                "python": platform.python_version(),
                "device": "cpu",
                "threads": torch.get_num_threads(),
            },
        )

    def write_file(self, name: str, content: Any) -> None:
        """Write one more file: text as it is, anything else as JSON."""
        if isinstance(content, str):
            with replacing(self.path / name) as temporary:
                temporary.write_text(content)
        else:
            self.write_json(name, content)

    def write_metrics(self, rows: list[Row], wall_time: float) -> None:
        """Write every row of the table of results, seed by seed, and the table to read."""
        self.write_json(
            "metrics.json",
            {"wall_time_s": round(wall_time, 1), "rows": [row.as_dict() for row in rows]},
        )
        with replacing(self.path / "table.md") as temporary:
            temporary.write_text(markdown_table(rows) + "\n")

    def write_weights(self, networks: Mapping[str, nn.Module]) -> None:
        """Write the weights of named networks, with a manifest of shapes and a checksum."""
        tensors = {
            f"{name}/{key}": value.detach().contiguous()
            for name, network in networks.items()
            for key, value in network.state_dict().items()
        }
        path = self.path / "weights.safetensors"
        with replacing(path) as temporary:
            save_file(tensors, temporary)
        self.write_json(
            "weights.json",
            {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "tensors": {k: [str(v.dtype), list(v.shape)] for k, v in tensors.items()},
            },
        )

    def write_posterior(self, data: Any) -> None:
        """Write an ``arviz.InferenceData``."""
        save_inference_data(data, self.path / "posterior.nc")

    @property
    def figures(self) -> Path:
        """The folder of the figures."""
        return self.path / "figures"
