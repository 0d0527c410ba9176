"""A long study in pieces, each written when it is done and not done twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gbi_pyro.files import replacing


class Pieces:
    """The finished pieces of a run, one JSON file each; a piece of other settings is done anew.

    Args:
        folder: where they lie.

    Attributes:
        earlier: seconds that the pieces took which were read and not computed now.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.earlier = 0.0

    def get(
        self, name: str, config: Any, compute: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Return a piece: read if it was finished, else computed and written.

        Args:
            name: of the piece, which becomes the file's.
            config: what it depends on, a dataclass.
            compute: gives it, as plain numbers, texts and lists of them.
        """
        path = self.folder / f"{_as_file_name(name)}.json"
        key = json.loads(json.dumps(asdict(config)))  # as JSON gives it back
        if path.exists():
            kept = json.loads(path.read_text())
            if (kept["piece"], kept["config"]) == (name, key):
                self.earlier += kept["seconds"]
                return dict(kept["found"])
        start = time.perf_counter()
        found = compute()
        seconds = round(time.perf_counter() - start, 1)
        content = json.dumps({"piece": name, "config": key, "seconds": seconds, "found": found})
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
