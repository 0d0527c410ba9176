"""Simulation-based calibration: tasks drawn from the model, inferred, and tested."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor

from gbi_pyro.metrics._validate import check_level, checked_rows
from gbi_pyro.metrics.calibration_test import CalibrationTest, calibration_test
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.purity import pure
from gbi_pyro.relax import Model
from gbi_pyro.sites import TaskSiteError, no_data, no_task_sites, read_task_site, unknown_site

Elements = Literal["one", "all"]


@dataclass(frozen=True)
class SBCResult:
    """Drawn tasks with their inferred posteriors; see ``run_sbc``.

    Attributes:
        tasks: by site the true task ids, ``(simulations,) + batch_shape``.
        log_probs: by site the inferred log probabilities, ``(simulations,) + batch_shape + (K,)``.
        method: the inference in words.
    """

    tasks: dict[str, Tensor]
    log_probs: dict[str, Tensor]
    method: str

    def cases(self, site: str, elements: Elements = "one") -> tuple[Tensor, Tensor]:
        """Return log probabilities (N, K) and true tasks (N,), as ``reliability_table`` takes them.

        Args:
            site: which task site.
            elements: as in ``check_sbc``.

        Raises:
            TaskSiteError: for an unknown site.
            ValueError: for an unknown choice of elements, or rows that are not log probabilities.
        """
        if site not in self.tasks:
            raise unknown_site(site, list(self.tasks))
        log_q = checked_rows(self.log_probs[site], f"log_probs[{site!r}]")
        # A leading 1 for a site without plates.
        log_q, z = log_q.unsqueeze(1).flatten(1, -2), self.tasks[site].unsqueeze(1).flatten(1)
        if elements == "all":
            return log_q.flatten(0, 1), z.flatten()
        if elements != "one":
            raise ValueError(f"elements should be 'one' or 'all'; got {elements!r}")
        simulation = torch.arange(len(z))
        element = simulation % z.shape[1]  # each in its turn: known before anything was drawn
        return log_q[simulation, element], z[simulation, element]


class SBCCheck(NamedTuple):
    """The verdict of ``check_sbc``.

    Attributes:
        p_value: of all tests of all sites together (Bonferroni).
        level: the level at which it is judged.
        method: the inference in words.
        sites: each site's own tests.
    """

    p_value: float
    level: float
    method: str
    sites: dict[str, CalibrationTest]

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the posterior at this level."""
        return self.p_value > self.level

    @property
    def verdict(self) -> str:
        """The verdict in words, with each test that failed."""
        cases = " and ".join(f"{s.num_cases} tasks {n!r}" for n, s in self.sites.items())
        p = f"p = {self.p_value:.2g}"
        if self.passed:
            return f"{self.method}: {cases} say nothing against its posterior ({p})"
        alarm = self.level / (3 * len(self.sites))
        found = [
            f"{name!r}: {deviation.words}"
            for name, site in self.sites.items()
            for deviation in site.deviations
            if deviation.p_value <= alarm
        ]
        return f"{self.method}: not calibrated ({p}, {cases}). {'; '.join(found)}"


def run_sbc(
    model: Model,
    infer: Callable[..., TaskPosterior],
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    num_simulations: int,
    generator: torch.Generator,
    parallel: bool = False,
    keep: Collection[str] = (),
) -> SBCResult:
    """Draw tasks and data from the model, and infer the tasks from the data: the costly part.

    Simulation-based calibration (Talts et al. 2018, arXiv:1804.06788): with (z, x) drawn from the
    model, z is a draw from the exact posterior p(z | x), whatever x is.

    ``args`` are a template. They say how many elements there are and hold the inputs; the values
    that the model observes among them are replaced: ``obs=x`` is drawn anew, and so are labels of a
    task and what ``poutine.condition`` holds. What a model computes *from* an observed argument it
    computes from the template, in simulation and inference alike: each x_i is drawn and explained
    given those inputs, which is a model too, but for a network that reads its past it is that of
    single steps with a fixed past. Run ``stepwise(network, x)`` there. A latent site that is no
    task is drawn, and left to the inference.

    Args:
        model: a Pyro model with task sites, in eval mode.
        infer: any inference, called as ``infer(model, *args, **kwargs)``.
        args: what the model takes.
        kwargs: likewise, by name.
        num_simulations: how many data sets are drawn.
        generator: source of the draws, on the CPU, seeded.
        parallel: draw all of them side by side, in a plate left of all others, and infer once. This
            is far faster, and for models that broadcast over leading dimensions, as enumeration
            side by side needs them to.
        keep: observed sites that are left as they are: inputs declared as sites, known labels.

    Returns:
        True tasks with their posteriors, for ``check_sbc``.

    Raises:
        TaskSiteError: no task or data to draw, ``pyro.factor`` (which can be scored but not drawn),
            a site that was not inferred, or was for other elements; and what ``infer`` raises.
        ValueError: for no simulations.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from gbi_pyro import Enumeration
        >>> def model(x):
        ...     with pyro.plate("trial", len(x)):
        ...         prior = dist.OneHotCategorical(torch.tensor([0.5, 0.3, 0.2]))
        ...         z = pyro.sample("z", prior, infer={"task": True})
        ...         pyro.sample("x", dist.Normal(z @ torch.arange(3.0), 0.5), obs=x)
        >>> simulations = {"num_simulations": 300, "parallel": True}
        >>> draw = torch.Generator().manual_seed(0)
        >>> exact = run_sbc(model, Enumeration(), (torch.zeros(1),), **simulations, generator=draw)
        >>> check_sbc(exact).passed
        True
        >>> sharp = Enumeration(temperature=0.3)
        >>> sharp = run_sbc(model, sharp, (torch.zeros(1),), **simulations, generator=draw)
        >>> print(check_sbc(sharp).verdict)
        enumeration: not calibrated (p = 0.0015, 300 tasks 'z'). 'z': ...
    """
    if num_simulations < 1:
        raise ValueError(f"num_simulations should be 1 or more; got {num_simulations}: try 400")
    kwargs = kwargs or {}
    template = _draw(model, args, kwargs, keep, generator)
    tasks: dict[str, list[Tensor]] = {name: [] for name in template.tasks}
    log_probs: dict[str, list[Tensor]] = {name: [] for name in template.tasks}
    side = num_simulations if parallel else 1
    many = _side_by_side(model, side, template.nesting) if parallel else model
    method = ""
    for _ in range(num_simulations // side):
        drawn = _draw(many, args, kwargs, keep, generator)
        posterior = infer(poutine.condition(many, data=drawn.data), *args, **kwargs)
        method = posterior.method
        for name, first in template.tasks.items():
            z, expected = drawn.tasks[name].argmax(-1), (side, *first.shape)
            log_prob = posterior.logits(name).detach()
            if log_prob.shape[:-1] != z.shape or z.numel() != math.prod(expected[:-1]):
                raise TaskSiteError(
                    f"task site {name!r} was drawn for elements {tuple(z.shape)} and inferred for "
                    f"{tuple(log_prob.shape[:-1])}; expected {side} x {tuple(first.shape[:-1])}: "
                    "let infer keep the model's elements, and try parallel=False"
                )
            tasks[name].append(z.reshape(expected[:-1]).cpu())
            log_probs[name].append(log_prob.reshape(expected).cpu())
    return SBCResult(
        {name: torch.cat(v) for name, v in tasks.items()},
        {name: torch.cat(v) for name, v in log_probs.items()},
        method,
    )


def check_sbc(
    result: SBCResult,
    *,
    elements: Elements = "one",
    level: float = 0.01,
    bins: int = 5,
    num_draws: int = 1999,
    generator: torch.Generator | None = None,
) -> SBCCheck:
    """Test whether the inferred posteriors can be the exact ones: the cheap part.

    Each site is judged by ``calibration_test``, which is exact for tasks, whose ranks are ties, and
    all together by Bonferroni's correction. An exact posterior fails with a probability of at most
    ``level``. One that passes need not be exact: the prior itself is calibrated.

    Args:
        result: what ``run_sbc`` returned.
        elements: "one" judges one element of each simulation, each in its turn, which is valid
            whatever the elements have to do with each other; "all" judges all, which are more, and
            is valid if tasks of different elements are independent given the data, as they are
            where ``Enumeration`` of a single site is exact.
        level: of the verdict.
        bins, num_draws, generator: as in ``calibration_test``.

    Raises:
        ValueError: for invalid options; the smallest possible p-value has to reach the level.
    """
    check_level(level, 0.01)
    num_sites = len(result.tasks)
    enough = math.ceil(3 * num_sites / level) - 1
    if num_draws < enough:
        raise ValueError(
            f"num_draws should be {enough} or more, for {3 * num_sites} tests to be able to fail "
            f"at level {level}; got {num_draws}"
        )
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    sites = {
        name: calibration_test(
            *result.cases(name, elements), bins=bins, num_draws=num_draws, generator=generator
        )
        for name in result.tasks
    }
    p_value = min(1.0, num_sites * min(site.p_value for site in sites.values()))
    return SBCCheck(p_value, level, result.method, sites)


class _Drawn(NamedTuple):
    """One draw from a model: its tasks, one-hot, its data, and how many dimensions plates take."""

    tasks: dict[str, Tensor]
    data: dict[str, Tensor]
    nesting: int


class _Redraw(UnconditionMessenger):
    """Draw observed sites anew, but for those to keep."""

    def __init__(self, keep: Collection[str]) -> None:
        super().__init__()
        self.keep = keep

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.keep:
            super()._pyro_sample(msg)


def _draw(
    model: Model,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    keep: Collection[str],
    generator: torch.Generator,
) -> _Drawn:
    seed = int(torch.randint(2**32, (), generator=generator))  # as large as NumPy takes
    with pure(model), torch.no_grad(), poutine.trace() as tracer, _Redraw(keep):
        pyro.set_rng_seed(seed)
        model(*args, **kwargs)
    tasks, data, nesting = {}, {}, 0
    for name, site in tracer.trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        if site_is_factor(site):
            raise TaskSiteError(
                f"site {name!r} is a pyro.factor, which can be scored but not drawn: expected a "
                "model of distributions; write the term as pyro.sample(..., obs=...)"
            )
        frames = [f.dim for f in site["cond_indep_stack"] if f.vectorized]
        nesting = max([nesting, len(site["fn"].batch_shape), *(-dim for dim in frames)])
        if site["infer"].get("was_observed"):
            if not site["infer"].get("_deterministic"):
                data[name] = site["value"]
        elif site["infer"].get("task") and not site["is_observed"]:
            read_task_site(site)  # which says what is wrong with an invalid one
            tasks[name] = site["value"]
    if not tasks:
        raise no_task_sites()
    if not data:
        raise no_data(next(iter(tasks)))
    return _Drawn(tasks, data, nesting)


def _side_by_side(model: Model, size: int, nesting: int) -> Model:
    def many(*args: Any, **kwargs: Any) -> Any:
        with pyro.plate("_simulation", size, dim=-1 - nesting):
            return model(*args, **kwargs)

    return many
