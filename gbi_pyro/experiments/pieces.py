"""A long study in pieces, each written when it is done and not done twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gbi_pyro.files import replacing


@dataclass(frozen=True)
class Pieces:
    """The finished pieces of a run, one JSON file each; a piece of other settings is done anew.

    Args:
        folder: where they lie.
        config: what they depend on, a dataclass.
    """

    folder: Path
    config: Any

    def get(self, name: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Return a piece: read if it was finished, else computed and written.

        Args:
            name: of the piece, which becomes the file's.
            compute: gives it, as plain numbers, texts and lists of them.
        """
        path = self.folder / f"{_as_file_name(name)}.json"
        key = json.loads(json.dumps(asdict(self.config)))  # as JSON gives it back
        if path.exists():
            kept = json.loads(path.read_text())
            if kept["piece"] == name and kept["config"] == key:
                return dict(kept["found"])
        content = json.dumps({"piece": name, "config": key, "found": compute()})
        with replacing(path) as temporary:
            temporary.write_text(content)
        return dict(json.loads(content)["found"])  # the same as when it is read


def _as_file_name(name: str) -> str:
    """Return a name of letters, digits, points and hyphens.

    >>> _as_file_name("K = 2, sigma 0.1")
    'K-2-sigma-0.1'
    """
    kept = "".join(c if c.isalnum() or c == "." else " " for c in name)
    return "-".join(kept.split())
