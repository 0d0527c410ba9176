"""Hyperteacher: a network put together of modules, of which the tasks choose one or two."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import combinations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from gbi_pyro.problems._draws import ModelDraws, check_count, normal, seeded
from gbi_pyro.problems.problem import Problem

MODULES, HIDDEN, INPUTS, OUTPUTS, SIGMA = 6, 16, 4, 2, 0.6


@dataclass(frozen=True, eq=False)
class Hyperteacher:
    r"""y = V tanh(W(c) x) + noise, W = \sum_m c_m Theta_m.

    ::

        z ---> c ---> y <--- x      z: (case, 21)    x: (case, n, 4)    y: (case, n, 2)

    With one site z, c = z @ codes is the set of modules that it chooses. With two, ``first`` and
    ``second``, each chooses a module, and c = a + b - a b: they may be exchanged, so the posterior
    has two modes.

    Attributes:
        modules: Theta, ``(6, 16, 4)``.
        readout: V, ``(2, 16)``.
        codes: c of each task, ``(21, 6)``; None for two sites.
        sigma: the standard deviation of the noise.
    """

    modules: Tensor
    readout: Tensor
    codes: Tensor | None
    sigma: float

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """Run the Pyro model on inputs and outputs of n examples a case."""
        with pyro.plate("case", len(x)):
            if self.codes is None:
                a, b = (self._task(name, MODULES) for name in ("first", "second"))
                chosen = a + b - a * b
            else:
                chosen = self._task("z", len(self.codes)) @ self.codes
            weights = torch.einsum("...m,mhi->...hi", chosen, self.modules)
            hidden = torch.einsum("...hi,...ni->...nh", weights, x).tanh()
            noise = dist.Normal(hidden @ self.readout.mT, self.sigma).to_event(2)
            pyro.sample("y", noise, obs=y)

    def _task(self, name: str, num_tasks: int) -> Tensor:
        prior = dist.OneHotCategorical(logits=self.modules.new_zeros(num_tasks))
        task: Tensor = pyro.sample(name, prior, infer={"task": True})
        return task


def hyperteacher(seed: int, *, num_examples: int, dtype: torch.dtype = torch.float32) -> Problem:
    """Return the problem of which one or two of six modules made n examples, 21 tasks.

    Args:
        seed: of the modules, N(0, 1), and the readout, N(0, 1) / 4.
        num_examples: n, of a case; inputs are uniform on [-1, 1]^4.
        dtype: of parameters and data.

    Raises:
        ValueError: for no examples.

    >>> problem = hyperteacher(0, num_examples=4)
    >>> (x, y), tasks = problem.draw(3, torch.Generator().manual_seed(0))
    >>> x.shape, y.shape, list(tasks)
    (torch.Size([3, 4, 4]), torch.Size([3, 4, 2]), ['z'])
    """
    sets = [(m,) for m in range(MODULES)] + [*combinations(range(MODULES), 2)]
    codes = torch.zeros(len(sets), MODULES, dtype=dtype)
    for code, chosen in zip(codes, sets, strict=True):
        code[list(chosen)] = 1
    return _problem(f"hyperteacher-n{num_examples}", seed, num_examples, codes, dtype)


def hyperteacher_pair(
    seed: int, *, num_examples: int = 4, dtype: torch.dtype = torch.float32
) -> Problem:
    """Return the same problem with two coupled sites, each of which chooses a module.

    Args:
        seed: of the modules and the readout; the same as in ``hyperteacher``.
        num_examples: n, of a case.
        dtype: of parameters and data.

    Raises:
        ValueError: for no examples.

    >>> hyperteacher_pair(0).name
    'hyperteacher-pair-n4'
    """
    return _problem(f"hyperteacher-pair-n{num_examples}", seed, num_examples, None, dtype)


def _problem(
    name: str, seed: int, num_examples: int, codes: Tensor | None, dtype: torch.dtype
) -> Problem:
    check_count("num_examples", num_examples)
    generator = seeded(seed)
    modules = normal(generator, MODULES, HIDDEN, INPUTS)
    readout = normal(generator, OUTPUTS, HIDDEN) / 4
    model = Hyperteacher(modules.to(dtype), readout.to(dtype), codes, SIGMA)
    inputs = partial(_inputs, num_examples, dtype)
    like = torch.zeros(num_examples, OUTPUTS, dtype=dtype)
    return Problem(name, model, ModelDraws(model, like, inputs))


def _inputs(num_examples: int, dtype: torch.dtype, n: int, generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(n, num_examples, INPUTS, generator=generator, dtype=dtype) - 1
