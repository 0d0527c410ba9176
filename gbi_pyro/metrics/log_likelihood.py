"""The log likelihood of each element of a run on disk, and the criterion it serves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gbi_pyro._arviz import groups_of, read_inference_data
from gbi_pyro.metrics.comparison import Criterion, is_fixed, leave_one_out, only_variable

LARGEST_RATIO = 1100  # of numbers to the file that holds them; deflate reaches 1032
SLACK = 2**20  # bytes


@dataclass(frozen=True)
class Pointwise:
    """The log likelihood of each element of ``posterior.nc``, tasks summed out.

    Where the likelihood depends on the draws, they are of weights that saw the elements, and
    leave-one-out removes each element from them again. Where it does not, the weights are fixed and
    the data held out: log p(x_i) is the plain log score.

    Attributes:
        criterion: ``"leave-one-out"`` or ``"held-out"``.
        values: log p of each element, ``(N,)``, in nats.
        observed: the data by name.
        worst_k_hat: of leave-one-out, the largest Pareto k-hat.
    """

    criterion: Criterion
    values: np.ndarray
    observed: Mapping[str, np.ndarray]
    worst_k_hat: float | None = None

    @classmethod
    def read(cls, path: Path) -> Pointwise | None:
        """Read a file; None where there is none, or none with a likelihood.

        Raises:
            ValueError: for a file that is not one of ArviZ's, or declares more numbers than a file
                of its size can hold.
        """
        if not path.exists():
            return None
        try:
            _check_size(path)
            data = read_inference_data(path)
            groups = groups_of(data)
            for group in {"log_likelihood", "observed_data"} & groups.keys():
                groups[group].load()  # what is damaged inside shows only now
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"{path} cannot be read ({error}): run the study again") from None
        likelihood = only_variable(data, "log_likelihood")
        if likelihood is None:
            return None
        data_of = groups["observed_data"].items() if "observed_data" in groups else ()
        observed = {str(name): np.asarray(value) for name, value in data_of}
        if is_fixed(likelihood):
            return cls("held-out", likelihood[0, 0].values.astype(float).ravel(), observed)
        found = leave_one_out(data)
        values = found.pointwise.double().numpy().ravel()
        return cls("leave-one-out", values, observed, found.worst_k_hat)

    def same_data(self, other: Pointwise) -> bool:
        """Whether both are about the same elements."""
        return (
            self.values.shape == other.values.shape
            and self.observed.keys() == other.observed.keys()
            and all(np.array_equal(a, other.observed[name]) for name, a in self.observed.items())
        )


def _check_size(path: Path) -> None:
    """Refuse a file that declares more bytes than it can hold, before they are allocated."""
    import h5py  # type: ignore[import-untyped]  # late, like ArviZ

    size, sizes = path.stat().st_size, [0]

    def add(_name: str, item: Any) -> None:
        # A dimension without coordinates declares numbers that are never read.
        bare = str(item.attrs.get("NAME", "")).lstrip("b'").startswith("This is a netCDF dimension")
        if isinstance(item, h5py.Dataset) and item.shape is not None and not bare:
            sizes.append(math.prod(item.shape) * item.dtype.itemsize)

    with h5py.File(path, "r") as file:
        file.visititems(add)
    if sum(sizes) > SLACK + LARGEST_RATIO * size:
        raise ValueError(f"it declares {sum(sizes)} bytes of numbers, more than {size} bytes hold")
