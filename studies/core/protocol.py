"""What a study is: parts that measure one record a seed, and what is made of the records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, get_type_hints

from studies.core.cache import Cache, as_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from studies.core.table import Row

Record = TypeVar("Record")
Report = Callable[[str], None]
"""Called with what is being done, in words."""
Found = Mapping[str, Sequence[Any]]
"""The records of each part by its name, in the order of the seeds."""


@dataclass(frozen=True)
class Seeds:
    """A configuration with ``seeds``, how many, and ``first_seed``.

    >>> Seeds(seeds=3, first_seed=5).all_seeds
    range(5, 8)
    """

    seeds: int = 5
    first_seed: int = 0
    # Fields that say how data are learned; all others say which data there are, and runs that
    # differ in those are not compared.
    method_fields: ClassVar[frozenset[str]] = frozenset()
    # Fields that say which parts there are, and do not change what one of them measures.
    selection_fields: ClassVar[frozenset[str]] = frozenset()

    @property
    def all_seeds(self) -> range:
        """The seeds of the run."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def check_at_least_one(self, *names: str) -> None:
        """Refuse counts that are none.

        Raises:
            ValueError: for a field below 1.
        """
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def fast(self) -> Self:
        """Return a smoke test: a tiny configuration whose numbers are meaningless."""
        raise NotImplementedError(f"{type(self).__name__} has no fast setting")


@dataclass(frozen=True)
class Part(Generic[Record]):
    """One measurement of a study, the same for every seed.

    A unit, one part of one seed, is a pure function of the study's configuration and the seed: it
    is computed once, kept on disk, and never depends on how many seeds were asked for.

    Attributes:
        name: unique in the study; it names the files of its units.
        record: the dataclass that a unit returns: numbers, texts, arrays, and containers of them.
        measure: from seeds to one record for each. Most parts take the seeds one by one
            (``Part.of_seed``); where networks of several seeds run side by side in one tensor,
            the seeds of a block come together.
        block_size: how many seeds ``measure`` is given at a time, at most.
        choice: what was chosen for it on validation seeds, if anything: its units depend on it.
        unused: fields of the configuration that its units do not depend on.
    """

    name: str
    record: type[Record]
    measure: Callable[[Sequence[int], Report], Sequence[Record]] = field(repr=False)
    block_size: int = 1
    choice: Any = None
    unused: frozenset[str] = frozenset()

    @classmethod
    def of_seed(
        cls,
        name: str,
        record: type[Record],
        measure: Callable[[int, Report], Record],
        choice: Any = None,
        unused: frozenset[str] = frozenset(),
    ) -> Part[Record]:
        """Return a part that measures seed by seed."""
        return cls(name, record, _EachSeed(measure), choice=choice, unused=unused)


@dataclass(frozen=True)
class _EachSeed(Generic[Record]):
    """A measurement of one seed, for the seeds of a block (a class, so that it can be pickled)."""

    measure: Callable[[int, Report], Record]

    def __call__(self, seeds: Sequence[int], report: Report) -> list[Record]:
        return [self.measure(seed, report) for seed in seeds]


ConfigT = TypeVar("ConfigT", bound=Seeds)


class Study(Generic[ConfigT]):
    """A study: subclass it, name it, and say what it measures and what is made of that.

    Args:
        config: its settings, seeds included.
        data: the folder of data files, for studies that read any.

    Attributes:
        name: of the command and of the run's ``config.json``.
        title: one line for the help text and above the table.
        config_type: the dataclass of its settings.
        reads_files: whether it may be given a folder of data files.
        data_variable: the environment variable that names this folder else.
        uses_device: whether its networks run on other devices than the CPU. Where it does not, they
            are so small that moving batches would take longer.
        trains_together: whether its networks are trained by ``train_epochs``, in which processes
            started by ``torchrun`` share each batch.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    config_type: ClassVar[type[Seeds]]
    reads_files: ClassVar[bool] = False
    data_variable: ClassVar[str] = "GBI_PYRO_DATA"
    uses_device: ClassVar[bool] = False
    trains_together: ClassVar[bool] = False

    def __init__(self, config: ConfigT, data: Path | None = None) -> None:
        self.config = config
        self.data = data
        self.checkpoints: Path | None = None  # where trainings may keep theirs; set by the runner

    def prepare(self, cache: Cache, report: Report) -> None:
        """Make the choices that all seeds share, on validation seeds that no result uses."""

    def inputs(self) -> dict[str, Any]:
        """Return what units depend on beside configuration and seed: checksums of data, choices."""
        return {}

    def choices(self) -> dict[str, Any]:
        """Return what was chosen for single parts, for the run's configuration on disk."""
        return {}

    def parts(self) -> list[Part[Any]]:
        """Return everything that is measured; one part, ``measure``, where this is not replaced."""
        record = get_type_hints(self.measure)["return"]
        return [Part.of_seed(self.name, record, self.measure)]

    def measure(self, seed: int, report: Report) -> Any:
        """Return the record of one seed."""
        raise NotImplementedError

    def table(self, found: Found) -> list[Row]:
        """Return the declared quantities, with their targets."""
        raise NotImplementedError

    def shown(self, rows: list[Row]) -> list[Row]:
        """Return the rows that are printed: those with a target, or all where there is none."""
        return [row for row in rows if row.target is not None] or rows

    def figures(self, found: Found) -> Iterator[tuple[str, Figure]]:
        """Draw from the records, without training anything; names are those of the files."""
        yield from ()

    def posterior(self, found: Found) -> Any:
        """Return an inference-data object of the first seed's posterior, or None."""
        return None

    def networks(self, found: Found) -> Mapping[str, nn.Module]:
        """Return the networks whose weights are written, by name."""
        return {}

    def extra_files(self, found: Found) -> Mapping[str, Any]:
        """Return further files by name: text, an ``xarray.Dataset`` for ``.nc``, else JSON."""
        return {}


def part_settings(study: Study[Any], part: Part[Any]) -> dict[str, Any]:
    """Return everything that the units of a part depend on beside their seeds."""
    others = {*asdict(Seeds()), *study.config.selection_fields, *part.unused}
    config = {k: v for k, v in asdict(study.config).items() if k not in others}
    choice = {} if part.choice is None else {"choice": as_json(part.choice)}
    own = {"part": part.name, "config": as_json(config)}
    return {**own, **choice, **as_json(study.inputs())}
