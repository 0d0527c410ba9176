"""Random generators by seed and role: no data serve two of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Roles:
    """The roles that randomness plays in a study, each with its own generator for each seed.

    Attributes:
        names: of the roles, such as ``("weights", "train", "test")``; their order is part of the
            numbers.
        first: where the study's generators begin, for studies that must not share another's data.

    >>> generator = Roles("weights", "train")
    >>> generator(3, "train").initial_seed(), generator(4, "weights").initial_seed()
    (7, 8)
    """

    names: tuple[str, ...]
    first: int

    def __init__(self, *names: str, first: int = 0) -> None:
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "first", first)

    def __call__(self, seed: int, role: str) -> torch.Generator:
        """Return the generator of one seed and one role, on the CPU.

        Raises:
            ValueError: for a role that the study does not have.
        """
        if role not in self.names:
            raise ValueError(f"role should be one of {self.names}; got {role!r}")
        number = self.first + seed * len(self.names) + self.names.index(role)
        return torch.Generator().manual_seed(number)
