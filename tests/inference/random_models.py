"""Random models over nested, sibling and crossing plates, with their posterior by brute force.

A model is declared as tables of numbers, from which both are made: the Pyro model, in which tasks
are one-hot vectors and plates are dimensions, and the sum over every assignment of tasks to
elements, which knows neither.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from dataclasses import dataclass, field

import pyro
import pyro.distributions as dist
import torch
from hypothesis import strategies as st
from pyro import poutine
from torch import Tensor

MOST_ASSIGNMENTS = 3000


@dataclass(frozen=True)
class Node:
    """A task or an observation: the plates it lies in, the tasks it depends on, its numbers.

    Attributes:
        name: of the site.
        plates: names, in the order of the model's plates.
        parents: the tasks it depends on.
        table: logits (of a task) or means (of data): sizes of plates, then K of each parent, then
            the K of a task itself.
        mask: of the elements, sizes of plates; None for none.
        scale: of the log probability.
        leak: the plate along which the next element's first parent has a say too.
        is_factor: whether data are scored by ``pyro.factor``.
    """

    name: str
    plates: tuple[str, ...]
    parents: tuple[str, ...]
    table: Tensor
    mask: Tensor | None = None
    scale: float = 1.0
    leak: str | None = None
    is_factor: bool = False
    data: Tensor = field(default_factory=lambda: torch.zeros(()))


@dataclass(frozen=True)
class RandomModel:
    """Plates, ``name -> (size, dim)``, tasks and observations."""

    plates: dict[str, tuple[int, int]]
    tasks: tuple[Node, ...]
    observations: tuple[Node, ...]

    @property
    def by_name(self) -> dict[str, Node]:
        """All tasks and observations."""
        return {node.name: node for node in (*self.tasks, *self.observations)}

    @property
    def crosses(self) -> bool:
        """Whether tasks of plates that cross can meet in a factor."""
        return any(
            not set(a.plates) <= set(b.plates)
            and not set(b.plates) <= set(a.plates)
            and any(
                {*a.plates, *b.plates} <= set(n.plates) for n in (*self.tasks, *self.observations)
            )
            for a, b in itertools.combinations(self.tasks, 2)
        )

    @property
    def leaks(self) -> bool:
        """Whether an element has a say in another one's data."""
        return any(node.leak is not None for node in self.observations)

    # The Pyro model

    def __call__(self) -> None:
        """Run the model."""
        plates = {n: pyro.plate(n, size, dim=dim) for n, (size, dim) in self.plates.items()}
        values: dict[str, Tensor] = {}
        for node in (*self.tasks, *self.observations):
            with contextlib.ExitStack() as around:
                for p in node.plates:
                    around.enter_context(plates[p])
                here = self._mean(node, values)
                if node in self.tasks:
                    prior = dist.OneHotCategorical(logits=here)
                    values[node.name] = pyro.sample(node.name, prior, infer={"task": True})
                    continue
                x = self._placed(node.data, node.plates, 0)
                with poutine.scale(scale=node.scale):
                    mask = True if node.mask is None else self._placed(node.mask, node.plates, 0)
                    with poutine.mask(mask=mask):
                        if node.is_factor:
                            pyro.factor(node.name, dist.Normal(here, 1.0).log_prob(x))
                        else:
                            pyro.sample(node.name, dist.Normal(here, 1.0), obs=x)

    def _placed(self, table: Tensor, plates: tuple[str, ...], trailing: int) -> Tensor:
        """Put the plates of a table at their dimensions."""
        dims = [self.plates[p][1] for p in plates]
        rank = max((-d for d in dims), default=0)
        lead = [1] * rank
        order = sorted(range(len(dims)), key=lambda i: dims[i])
        for i, d in enumerate(dims):
            lead[d] = table.shape[i]
        ends = list(range(len(dims), len(dims) + trailing))
        return table.permute([*order, *ends]).reshape([*lead, *table.shape[len(dims) :]])

    def _mean(self, node: Node, values: dict[str, Tensor]) -> Tensor:
        extra = len(node.parents) + (node in self.tasks)
        out = self._placed(node.table, node.plates, extra)
        for i, parent in enumerate(node.parents):
            z = values[parent]
            out = self._contracted(out, z, extra, i)
        keep = [-1] if node in self.tasks else []
        out = out.sum([d for d in range(-extra, 0) if d not in keep]) if extra > len(keep) else out
        if node.leak is not None:
            dim = self.plates[node.leak][1]
            z = values[node.parents[0]]
            out = out + torch.roll(z, 1, dim - 1)[..., 1]
        return out

    @staticmethod
    def _contracted(table: Tensor, z: Tensor, extra: int, axis: int) -> Tensor:
        shape = [1] * extra
        shape[axis] = z.shape[-1]
        return table * z.reshape(*z.shape[:-1], *shape)

    # By brute force

    def elements(self, node: Node) -> list[tuple[int, ...]]:
        """Return the indices of a node's elements."""
        return list(itertools.product(*(range(self.plates[p][0]) for p in node.plates)))

    def num_tasks(self, name: str) -> int:
        """Return the K of a task."""
        return self.by_name[name].table.shape[-1]

    def every_assignment(self) -> tuple[list[tuple[str, tuple[int, ...]]], Tensor]:
        """Return every task of every element, and the log joint with an axis for each of them."""
        unknown = [(t.name, e) for t in self.tasks for e in self.elements(t)]
        table = torch.zeros([self.num_tasks(name) for name, _ in unknown], dtype=torch.float64)
        for node in (*self.tasks, *self.observations):
            for e in self.elements(node):
                where = dict(zip(node.plates, e, strict=True))
                involved = [(p, self._index(p, where)) for p in node.parents]
                term = node.table[e]
                if node.leak is not None:  # as torch.roll has it
                    size = self.plates[node.leak][0]
                    before = {**where, node.leak: (where[node.leak] - 1) % size}
                    involved.append((node.parents[0], self._index(node.parents[0], before)))
                    says = torch.zeros(self.num_tasks(node.parents[0]), dtype=torch.float64)
                    says[1] = 1.0
                    term = term.unsqueeze(-1) + says
                if node in self.tasks:
                    term, involved = term.log_softmax(-1), [*involved, (node.name, e)]
                elif node.mask is not None and not bool(node.mask[e]):
                    continue
                else:
                    term = node.scale * dist.Normal(term, 1.0).log_prob(node.data[e])
                axes = [unknown.index(u) for u in involved]
                order = sorted(range(len(axes)), key=lambda i: axes[i])
                sizes = [table.shape[i] if i in axes else 1 for i in range(table.ndim)]
                table = table + term.permute(order).reshape(sizes)
        return unknown, table

    def exact(self) -> tuple[float, dict[str, Tensor]]:
        """Sum over every assignment: the log evidence, and the marginals ``elements + (K,)``."""
        unknown, table = self.every_assignment()
        log_evidence = table.logsumexp(tuple(range(table.ndim)))
        weights, marginals = (table - log_evidence).exp(), {}
        for t in self.tasks:
            rows = [
                weights.sum([i for i in range(table.ndim) if i != unknown.index((t.name, e))])
                if table.ndim > 1
                else weights
                for e in self.elements(t)
            ]
            sizes = [self.plates[p][0] for p in t.plates]
            marginals[t.name] = torch.stack(rows).reshape(*sizes, self.num_tasks(t.name))
        return log_evidence.item(), marginals

    def _index(self, task: str, where: dict[str, int]) -> tuple[int, ...]:
        return tuple(where[p] for p in self.by_name[task].plates)


# Plates, and which of them may stand around one site. Siblings share a dimension.
STRUCTURES: dict[str, tuple[dict[str, int], list[tuple[str, ...]]]] = {
    "one": ({"a": -1}, [(), ("a",)]),
    "one, further left": ({"a": -2}, [(), ("a",)]),
    "nested": ({"a": -2, "b": -1}, [(), ("a",), ("a", "b")]),
    "nested, inner left": ({"a": -1, "b": -2}, [(), ("a",), ("a", "b")]),
    "siblings": ({"a": -1, "b": -1}, [(), ("a",), ("b",)]),
    "siblings within": (
        {"o": -2, "a": -1, "b": -1},
        [(), ("o",), ("o", "a"), ("o", "b")],
    ),
    "crossing": ({"a": -2, "b": -1}, [(), ("a",), ("b",), ("a", "b")]),
    "three deep": (
        {"a": -1, "b": -3, "c": -2},
        [(), ("a",), ("a", "b"), ("a", "b", "c")],
    ),
}


@st.composite
def random_models(draw: st.DrawFn) -> RandomModel:
    """Draw a model of one to three tasks and one to three observations that is small enough."""
    plate_dims, around = STRUCTURES[draw(st.sampled_from(sorted(STRUCTURES)))]
    sizes = {p: draw(st.integers(1, 3)) for p in plate_dims}
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    def shape(plates: tuple[str, ...]) -> list[int]:
        return [sizes[p] for p in plates]

    tasks: list[Node] = []
    assignments = 1
    for i in range(draw(st.integers(1, 3))):
        K, left = draw(st.integers(2, 3)), MOST_ASSIGNMENTS // assignments
        small = [plates for plates in around if K ** math.prod(shape(plates)) <= left]
        if not small:
            break
        plates = draw(st.sampled_from(small))
        assignments *= K ** math.prod(shape(plates))
        possible = [t for t in tasks if set(t.plates) <= set(plates)]
        parents = tuple(t for t in possible if draw(st.booleans()))
        table = numbers(*shape(plates), *(p.table.shape[-1] for p in parents), K)
        names = tuple(p.name for p in parents)
        # A uniform prior is no less a prior.
        flat = draw(st.booleans()) and not names
        tasks.append(Node(f"z{i}", plates, names, torch.zeros_like(table) if flat else table))
    observations: list[Node] = []
    for i in range(draw(st.integers(1, 3))):
        plates = draw(st.sampled_from(around))
        possible = [t for t in tasks if set(t.plates) <= set(plates)]
        parents = tuple(t for t in possible if draw(st.integers(0, 3)))
        leak = None
        if parents and not draw(st.integers(0, 9)):
            own = [p for p in parents[0].plates if sizes[p] > 1]
            leak = draw(st.sampled_from([None, *own]))
        observations.append(
            Node(
                f"x{i}",
                plates,
                tuple(p.name for p in parents),
                numbers(*shape(plates), *(p.table.shape[-1] for p in parents)),
                (numbers(*shape(plates)) > 0) if draw(st.booleans()) else None,
                draw(st.sampled_from([1.0, 1.0, 0.5, 2.0])),
                leak,
                draw(st.booleans()),
                numbers(*shape(plates)),
            )
        )
    model = RandomModel(
        {p: (sizes[p], dim) for p, dim in plate_dims.items()}, tuple(tasks), tuple(observations)
    )
    return model
