"""MetaHMM: a family of hidden Markov models, of which several coupled tasks choose one."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.problems._draws import ModelDraws, check_count, seeded
from gbi_pyro.problems.problem import Problem
from gbi_pyro.problems.summed_hmm import SummedHMM

SIGNAL = 0.6  # the rest is uniform, so that no symbol is ever impossible


@dataclass(frozen=True, eq=False)
class MetaHMM:
    r"""Symbols of a hidden Markov model whose transitions and emissions are chosen by tasks.

    ::

        base, direction, speed, family0.. ---> A ---+
                                                    +---> x_1..T
        emission0.., shift -------------------> B --+

    With weights that are products of the tasks' one-hot vectors::

        A = .6 rownorm(\sum_{cdv} base_c direction_d speed_v A_cdv
                       + \sum_{fgd} family_fg direction_d F_fgd) + .4 / S,
        B = .6 rownorm(\sum_{ieh} emission_ie shift_h E_ieh) + .4 / O,

    and the first state uniform.

    Attributes:
        base: A_cdv, cycles through all states, ``(bases, directions, speeds, S, S)``.
        family: F_fgd, cycles through some states, ``(families, 2, directions, S, S)``.
        emission: E_ieh, of the states of group i, ``(groups, 2, shifts, S, O)``.
    """

    base: Tensor
    family: Tensor
    emission: Tensor

    @property
    def sizes(self) -> dict[str, int]:
        """The number of tasks by site; a choice between one alone is no site."""
        bases, directions, speeds = self.base.shape[:3]
        sizes = {"base": bases, "direction": directions, "speed": speeds}
        sizes |= {f"family{f}": 2 for f in range(len(self.family))}
        sizes |= {f"emission{i}": 2 for i in range(len(self.emission))}
        sizes["shift"] = self.emission.shape[2]
        return {name: K for name, K in sizes.items() if K > 1}

    def __call__(self, x: Tensor) -> None:
        """Run the Pyro model on symbols ``x``, ``(case, T)``."""
        with pyro.plate("case", len(x)):
            z = {
                name: pyro.sample(
                    name,
                    dist.OneHotCategorical(logits=self.base.new_zeros(K)),
                    infer={"task": True},
                )
                for name, K in self.sizes.items()
            }
            A, B = self.matrices(z)
            start = A.new_full(A.shape[-1:], 1 / A.shape[-1])
            pyro.sample("x", SummedHMM(start, A, B, x.shape[-1]), obs=x)

    def matrices(self, z: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return A, ``(..., S, S)``, and B, ``(..., S, O)``, for tasks by site, ``(..., K)``."""
        one = self.base.new_ones(1)
        direction, shift = z.get("direction", one), z.get("shift", one)
        chosen = _product(_product(z.get("base", one), direction), z.get("speed", one))
        A = _mixed(chosen, self.base)
        for f, tables in enumerate(self.family):
            A = A + _mixed(_product(z[f"family{f}"], direction), tables)
        B = torch.zeros_like(self.emission[0, 0, 0])
        for i, tables in enumerate(self.emission):
            B = B + _mixed(_product(z[f"emission{i}"], shift), tables)
        return _noisy(A), _noisy(B)


def meta_hmm(
    seed: int,
    *,
    length: int,
    bases: int = 3,
    speeds: int = 1,
    families: int = 1,
    emissions: int = 1,
    shifts: int = 1,
    num_states: int = 10,
    num_symbols: int = 12,
    dtype: torch.dtype = torch.float32,
) -> Problem:
    """Return a problem of several tasks that together choose a hidden Markov model.

    A base is a cycle through all states in random order; the direction reverses it, the speed takes
    it in larger steps. A family adds a cycle through 3 to 5 random states. The states are split
    into groups, one for each emission task; each state emits two random symbols, and a shift moves
    them to the next state. There are bases x 2 x speeds x 2^families x 2^emissions x shifts
    combinations.

    Args:
        seed: of the parameters.
        length: T, the number of symbols of a case.
        bases, speeds, shifts: the number of tasks of the site; 1 leaves it out.
        families, emissions: the number of sites, of two tasks each.
        num_states: S.
        num_symbols: O.
        dtype: of the parameters.

    Raises:
        ValueError: for numbers that are too small.

    >>> problem = meta_hmm(0, length=10)
    >>> problem.name, problem.model.sizes
    ('metahmm-24-T10', {'base': 3, 'direction': 2, 'family0': 2, 'emission0': 2})
    >>> (x,), tasks = problem.draw(5, torch.Generator().manual_seed(0))
    >>> x.shape, tasks["base"].shape
    (torch.Size([5, 10]), torch.Size([5]))
    """
    counts = {"length": length, "bases": bases, "speeds": speeds, "shifts": shifts}
    for name, count in {**counts, "families": families, "emissions": emissions}.items():
        check_count(name, count)
    check_count("num_states", num_states, at_least=max(5, emissions))
    check_count("num_symbols", num_symbols, at_least=2)
    generator = seeded(seed)
    model = MetaHMM(
        _bases(generator, bases, speeds, num_states).to(dtype),
        _families(generator, families, num_states).to(dtype),
        _emissions(generator, emissions, shifts, num_states, num_symbols).to(dtype),
    )
    number = bases * 2 * speeds * 2**families * 2**emissions * shifts
    draw = ModelDraws(model, torch.zeros(length, dtype=torch.long))
    exact = Enumeration(chunk_size=64, max_joint=max(4096, number))
    return Problem(f"metahmm-{number}-T{length}", model, draw, exact)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Return the weights of all pairs, ``(..., K_a x K_b)``, the second fastest."""
    return (a.unsqueeze(-1) * b.unsqueeze(-2)).flatten(-2)


def _mixed(weights: Tensor, tables: Tensor) -> Tensor:
    """Return the weighted sum of tables, ``(..., S, M)``."""
    flat = weights @ tables.reshape(weights.shape[-1], -1)
    return flat.reshape(*weights.shape[:-1], *tables.shape[-2:])


def _noisy(table: Tensor) -> Tensor:
    """Return rows of probabilities, none of them zero."""
    return SIGNAL * table / table.sum(-1, keepdim=True) + (1 - SIGNAL) / table.shape[-1]


def _cycle(states: Tensor, num_states: int) -> Tensor:
    """Return the transitions of a cycle through states, and of its reverse, ``(2, S, S)``."""
    table = torch.zeros(num_states, num_states)
    table[states, states.roll(-1)] = 1
    return torch.stack([table, table.mT])


def _bases(generator: torch.Generator, bases: int, speeds: int, num_states: int) -> Tensor:
    cycles = [
        _cycle(torch.randperm(num_states, generator=generator), num_states) for _ in range(bases)
    ]
    steps = torch.stack(cycles)
    return torch.stack([steps.matrix_power(v + 1) for v in range(speeds)], 2)


def _families(generator: torch.Generator, families: int, num_states: int) -> Tensor:
    found = []
    for _ in range(2 * families):
        size = int(torch.randint(3, 6, (), generator=generator))
        found.append(_cycle(torch.randperm(num_states, generator=generator)[:size], num_states))
    return torch.stack(found).reshape(families, 2, 2, num_states, num_states)


def _emissions(
    generator: torch.Generator, groups: int, shifts: int, num_states: int, num_symbols: int
) -> Tensor:
    tables = torch.zeros(groups, 2, num_states, num_symbols)
    for i, states in enumerate(torch.arange(num_states).chunk(groups)):
        for e in range(2):
            for s in states:
                tables[i, e, s, torch.randperm(num_symbols, generator=generator)[:2]] = 1
    return torch.stack([tables.roll(h, -2) for h in range(shifts)], 2)
