"""The benchmark of task inference: every method on every problem, against the exact posterior.

A problem is a model with task sites, draws of cases from it, and its exact posterior
(``gbi_pyro.problems``); a method takes the model and the data and returns a posterior
(``studies.bench.methods``). Each pair is a part of its own: another method, problem or seed
measures its own cells alone. What is fitted is fitted to other cases than those it is judged on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from gbi_pyro.problems import PROBLEMS
from studies.bench.config import BenchConfig
from studies.bench.data_problems import data_problems
from studies.bench.figures import draw_cost
from studies.bench.files import as_dataset, as_matrix, long_table
from studies.bench.measure import Cell, Judged, judge, measure
from studies.bench.methods import JOINT, METHODS
from studies.bench.networks import network_parts, network_rows
from studies.bench.own import checksum
from studies.bench.papers.config import PapersConfig
from studies.bench.papers.parts import paper_parts, paper_rows
from studies.bench.table import ROWS, Cells, bench_table
from studies.bench.targets import DOUBLE, target_rows
from studies.core.protocol import Found, Part, Report, Study
from studies.core.table import Row

FOLDERS = ("mnist", "fashion-mnist", "text10")  # of the data of trained networks


@lru_cache(maxsize=32)  # what is known of a seed serves all methods
def judged(config: BenchConfig, problem: str, seed: int) -> Judged:
    """Return a problem of a seed, with its cases and their exact posterior."""
    return judge(config.all_problems()[problem], seed, config.num_cases(problem))


class BenchStudy(Study[BenchConfig]):
    """Problems of task inference, crossed with methods."""

    name = "bench"
    title = "Benchmark of task inference: methods against the exact posterior, and their cost"
    config_type = BenchConfig
    reads_files = True

    def __init__(self, config: BenchConfig, data: Path | None = None) -> None:
        super().__init__(config, data)
        if data is not None:
            _check_folder(data, FOLDERS if config.papers else ())
        self.problems = tuple(config.all_problems())
        self.methods = tuple(config.all_methods())
        self.double = tuple(p for p in DOUBLE if p in self.problems and JOINT in self.methods)

    def parts(self) -> list[Part[Any]]:
        """Return a part for each problem and method, and for each in double precision."""
        crossed = [
            Part.of_seed(
                _name(problem, method),
                Cell,
                partial(self.cell, problem, method),
                self._own(problem, method) or None,
            )
            for problem in self.problems
            for method in self.methods
        ]
        double = [
            Part.of_seed(_in_double(problem), Cell, partial(self.cell_in_double, problem))
            for problem in self.double
        ]
        if not self.config.papers:
            return [*crossed, *double]
        papers = PapersConfig().fast() if self.config.smoke else PapersConfig()
        networks = network_parts(self.data) if self.data and self.with_networks else []
        return [*crossed, *double, *paper_parts(papers), *networks]

    @property
    def with_networks(self) -> bool:
        """Whether networks are trained on the files."""
        return self.config.papers and self.data is not None and not self.config.smoke

    def cell(self, problem: str, method: str, seed: int, report: Report) -> Cell:
        """Measure one method on one problem."""
        if why := self.config.left_out(problem, method):
            return Cell(refused=why)
        case = judged(self.config, problem, seed)
        return measure(case, self.config.all_methods()[method], seed)

    def cell_in_double(self, problem: str, seed: int, report: Report) -> Cell:
        """Measure the second-order joint on a problem in double precision."""
        make = partial(PROBLEMS[problem], dtype=torch.float64)
        return measure(judge(make, seed, self.config.num_cases(problem)), METHODS[JOINT], seed)

    def _own(self, *names: str) -> dict[str, str]:
        own = {spec for spec in (self.config.problem, self.config.method) if spec}
        return {name: checksum(name) for name in names if name in own}

    def choices(self) -> dict[str, Any]:
        """Return the checksums of your own problem's and method's files."""
        found = self._own(self.config.problem, self.config.method)
        return {"own": found} if found else {}

    def cells(self, found: Found) -> Cells:
        """Return the cells by problem and method, in the order of the seeds."""
        return {
            problem: {method: found[_name(problem, method)] for method in self.methods}
            for problem in self.problems
        }

    def table(self, found: Found) -> list[Row]:
        """Return the divergence of every cell, and what was measured beside; see ``bench.csv``."""
        cells = self.cells(found)
        double = {problem: found[_in_double(problem)] for problem in self.double}
        rows = [*target_rows(cells, double), *bench_table(cells)]
        if self.config.papers:
            rows += paper_rows(found)
        if self.data and self.with_networks:
            rows += network_rows(found, list(data_problems(self.data)))
        return rows

    def shown(self, rows: list[Row]) -> list[Row]:
        """Return the rows with a target, or the divergences alone where there is none."""
        targets = [row for row in rows if row.target is not None]
        return targets or [row for row in rows if row.what.endswith(ROWS["kl"][0])]

    def figures(self, found: Found) -> Iterator[tuple[str, Figure]]:
        """Draw the divergence against passes, and against processor seconds."""
        cells = self.cells(found)
        yield "passes", draw_cost(cells, "passes")
        yield "seconds", draw_cost(cells, "seconds")

    def extra_files(self, found: Found) -> Mapping[str, Any]:
        """Return the matrix to read, and every cell as CSV and as netCDF."""
        cells = self.cells(found)
        table = long_table(cells, self.config.all_seeds)
        return {
            "bench.md": as_matrix(cells),
            "bench.csv": table.to_csv(index=False),
            "bench.nc": as_dataset(table, {"study": self.name}),
        }


def _check_folder(data: Path, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not (data / name).is_dir()]
    if missing or not data.is_dir():
        raise ValueError(
            f"data should be a folder with {', '.join(FOLDERS)}; {data} has no "
            f"{', '.join(missing) or 'files: it does not exist'}"
        )


def _name(problem: str, method: str) -> str:
    return f"{problem}: {method}"


def _in_double(problem: str) -> str:
    return f"{problem}, in double precision"
