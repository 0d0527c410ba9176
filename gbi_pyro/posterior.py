"""The result type of every inference: a posterior over tasks, with its provenance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from gbi_pyro._arrays import as_tensor, check_order
from gbi_pyro.joint import Joint, JointTable, Reordered, combinations, draw_tasks, product_log_prob
from gbi_pyro.logjoint import Passes
from gbi_pyro.sites import TaskSite, TaskSiteError, unknown_site

if TYPE_CHECKING:
    import pandas as pd


class PaddedSessions(Protocol):
    """What a posterior needs of sessions; see ``gbi_pyro.data.Sessions``."""

    @property
    def mask(self) -> Tensor:
        """Which steps are real, not padding: ``(S, T)``."""

    def to_frame(self, values: Mapping[str, Any]) -> pd.DataFrame:
        """Return values ``(S, T)`` as a data frame in the order of the table's rows."""


class Objective(NamedTuple):
    """The two parts of f_T(q) = E_q[log p(x, Z)] + T H(q), element by element.

    ``log_joint`` is the expectation, ``entropy`` is H(q) (or the penalty that stood in for it).
    """

    log_joint: Tensor
    entropy: Tensor
    temperature: float

    @property
    def total(self) -> Tensor:
        """f_T; for the exact posterior at temperature = 1 it is the log evidence."""
        return self.log_joint + self.temperature * self.entropy


@dataclass(frozen=True)
class TaskPosterior:
    """A posterior over each task site of a model: q(z | x), and how it was found.

    Attributes:
        log_probs: for each site its normalised log probabilities, ``batch_shape + (K,)``.
        sites: the task sites, with their priors and the names of their dimensions.
        method: the inference in words.
        settings: what the inference was asked for.
        passes: the compute used.
        num_observations: for each site how many observed values an element explains.
        log_evidence: log p(x) of each element of the outermost site, where the method knows it.
        log_outside: the log probability of what belongs to no element of any task: data, factors
            and priors outside of their plates.
        objective: the two parts of f_T, for methods that ascend it (for one site).
        points: where Z stands, if that is not the posterior itself: free values after iteration.
        path: the points after 0, 1, ... steps, ``(steps + 1,) + batch_shape + (K,)``.
        joint: the joint posterior of tasks that hang together: the smoothed steps of a chain, or
            several sites. Without one, elements and sites are independent of each other.
    """

    log_probs: dict[str, Tensor]
    sites: dict[str, TaskSite]
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    passes: Passes = Passes()
    num_observations: dict[str, Tensor] = field(default_factory=dict)
    log_evidence: Tensor | None = None
    log_outside: float = 0.0
    objective: Objective | None = None
    points: dict[str, Tensor] = field(default_factory=dict)
    path: dict[str, Tensor] = field(default_factory=dict)
    joint: Joint | None = field(default=None, repr=False)

    @property
    def total_log_evidence(self) -> float | None:
        """Log p(x) of the whole model, tasks summed out; None where the method does not know it."""
        if self.log_evidence is None:
            return None
        return self.log_evidence.double().sum().item() + self.log_outside

    def site_name(self, name: str | None = None) -> str:
        """Return the name of a site; the only one where none is given.

        Raises:
            TaskSiteError: for an unknown name, or none where there are several sites.
        """
        if name is None and len(self.log_probs) == 1:
            return next(iter(self.log_probs))
        if name is None:
            raise TaskSiteError(
                f"this posterior has {len(self.log_probs)} task sites, {list(self.log_probs)}; "
                "expected the name of one of them, got none: name it"
            )
        if name not in self.log_probs:
            raise unknown_site(name, list(self.log_probs))
        return name

    def logits(self, site: str | None = None) -> Tensor:
        """Return log q(z = k | x), ``batch_shape + (K,)``."""
        return self.log_probs[self.site_name(site)]

    def probs(self, site: str | None = None) -> Tensor:
        """Return q(z = k | x), ``batch_shape + (K,)``."""
        return self.logits(site).exp()

    def mode(self, site: str | None = None) -> Tensor:
        """Return the most probable task of each element, ``batch_shape``."""
        return self.logits(site).argmax(-1)

    def entropy(self, site: str | None = None) -> Tensor:
        """Return H(q) in nats, ``batch_shape``: log K at maximum entropy, 0 when sure."""
        return entropy(self.logits(site))

    def point(self, site: str | None = None) -> Tensor:
        """Return Z itself: the free value after iteration, else the probabilities."""
        name = self.site_name(site)
        return self.points.get(name, self.log_probs[name].exp())

    def padding(self, site: str | None = None) -> Tensor:
        """Return which elements are no steps at all, ``batch_shape``: all their data are masked.

        In a chain a step without data is one as long as data come after it. Nothing is padding
        where there are no data to tell by.
        """
        name = self.site_name(site)
        shape = self.log_probs[name].shape[:-1]
        empty = self.num_observations.get(name, torch.ones(())).expand(shape) == 0
        if bool(empty.all()):
            return torch.zeros_like(empty)
        if (time := self.settings.get("time")) is not None:
            empty = trailing(empty, self.sites[name].dims.index(time))
        return empty

    def reordered(self, order: Any, site: str | None = None) -> Self:
        """Return the posterior with the tasks of a site in another order; nothing else changes.

        Everything follows: probabilities, prior, joint draws, exports and data frames. See
        ``gbi_pyro.learning.order_tasks`` for an order by a rule, and ``match_labels`` for one that
        agrees with labels. Parameters with a dimension of tasks are indexed, ``means[order]``.

        Args:
            order: at k the present id of the task that becomes k, ``(K,)``.
            site: which task site; the only one if there is one.

        Raises:
            TaskSiteError: for an unknown site, or none where there are several.
            ValueError: for an order that does not hold each task once.

        >>> site = TaskSite("z", torch.tensor([0.5, 0.3, 0.2]).log(), ())
        >>> q = TaskPosterior({"z": torch.tensor([0.1, 0.2, 0.7]).log()}, {"z": site}, "example")
        >>> q.reordered([2, 0, 1]).probs()
        tensor([0.7000, 0.1000, 0.2000])
        """
        name = self.site_name(site)
        where = self.sites[name]
        ids = check_order(order, where.num_tasks)

        def moved(values: dict[str, Tensor]) -> dict[str, Tensor]:
            here = {name: values[name][..., ids.to(values[name].device)]} if name in values else {}
            return {**values, **here}

        return replace(
            self,
            log_probs=moved(self.log_probs),
            sites={**self.sites, name: where.reordered(ids)},
            points=moved(self.points),
            path=moved(self.path),
            joint=None if self.joint is None else Reordered(self.joint, name, ids),
        )

    def in_model_order(self) -> Self:
        """Return the posterior with its tasks numbered as in the model, however often reordered."""
        found = self
        for name, site in self.sites.items():
            if site.order is not None:
                found = found.reordered(torch.tensor(site.order).argsort(), name)
        return found

    def sample(self, n: int = 1, *, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw task ids, ``(n,) + batch_shape`` for each site, on the posterior's device.

        Draws are joint: of a smoothed chain they are paths. Filtered steps are posteriors given
        different data, without a joint one, and are drawn one by one, as are independent elements.

        Args:
            n: how many draws, 0 or more.
            generator: a seeded generator; torch's own random state without one.

        Raises:
            ValueError: for a negative number of draws.

        >>> site = TaskSite("z", torch.full((1, 2), 0.5).log(), (None,))
        >>> q = TaskPosterior({"z": torch.tensor([[0.0, -100.0]])}, {"z": site}, "example")
        >>> q.sample(3)["z"].flatten()
        tensor([0, 0, 0])
        """
        if n < 0:
            raise ValueError(f"n should be a number of draws, 0 or more; got {n}")
        draws = {} if self.joint is None or n == 0 else self.joint.sample(n, generator)
        for name, log_prob in self.log_probs.items():
            if name not in draws:
                draws[name] = draw_tasks(log_prob.expand(n, *log_prob.shape), generator)
        return {name: draws[name] for name in self.log_probs}

    def log_prob(self, ids: Mapping[str, Tensor]) -> Tensor:
        """Return log q(all tasks | x) of each element that the sites share.

        Of several sites it is the joint posterior, where there is one, else the product; a
        smoothed chain has a number for each path. Elements that only some sites have are summed.

        Args:
            ids: task ids of every site, ``lead + batch_shape``, with the same ``lead``.

        Returns:
            ``lead`` + the shape of the shared elements.

        Raises:
            TaskSiteError: for ids of other sites.
            ValueError: for what are no ids of tasks, or of other elements.

        >>> site = TaskSite("z", torch.full((2, 2), 0.5).log(), (None,))
        >>> q = TaskPosterior({"z": torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()}, {"z": site}, "")
        >>> q.log_prob({"z": torch.tensor([0, 1])}).exp()
        tensor([0.9000, 0.5000], dtype=torch.float64)
        """
        if ids.keys() != self.log_probs.keys():
            raise TaskSiteError(
                f"ids should name the task sites {list(self.log_probs)}; got {list(ids)}"
            )
        tasks = {n: _checked_ids(n, ids[n], q.shape) for n, q in self.log_probs.items()}
        if self.joint is not None:
            return self.joint.log_prob(tasks)
        return product_log_prob(self.sites, self.log_probs, tasks)

    def table(self, max_joint: int = 65536) -> JointTable:
        """Return the posterior of every combination of the tasks of its sites.

        Args:
            max_joint: the largest number of combinations that is written out.

        Raises:
            TaskSiteError: for sites whose elements differ, tasks of a chain, which hang together
                along time, and more combinations than ``max_joint``.
        """
        if isinstance(self.joint, JointTable):
            return self.joint.ordered(list(self.log_probs))
        shapes = {q.shape[:-1] for q in self.log_probs.values()}
        if len(shapes) > 1 or "chain" in self.settings:
            where = {n: tuple(q.shape[:-1]) for n, q in self.log_probs.items()}
            raise TaskSiteError(
                "a table of all tasks needs sites with the same elements, each by itself; got "
                f"{where}"
                + ", along a chain" * ("chain" in self.settings)
                + ": take .log_prob(ids)"
            )
        sizes = {n: q.shape[-1] for n, q in self.log_probs.items()}
        if (number := math.prod(sizes.values())) > max_joint:
            raise TaskSiteError(
                f"the sites {list(sizes)} have {number} combinations of tasks, more than max_joint "
                f"= {max_joint}: raise it, or take .log_prob(ids) of those that matter"
            )
        (batch,) = shapes
        ids = {
            n: k.reshape(-1, *[1] * len(batch)).expand(-1, *batch)
            for n, k in combinations(sizes).items()
        }
        log_probs = self.log_prob(ids).movedim(0, -1)
        return JointTable.of_scores(sizes, log_probs)

    def to_dataframe(
        self,
        site: str | None = None,
        *,
        names: Sequence[str] | None = None,
        sessions: PaddedSessions | None = None,
        time: str | None = None,
    ) -> pd.DataFrame:
        """Return one row for each element of a site, the last plate counting fastest.

        Elements that are no steps, all their data masked, are left out (see ``padding``).

        The columns are the index within each plate, called by its name (of a subsample the index in
        the whole; a dimension of size 1 that no plate declares is left out); ``task``, the most
        probable task; ``p_0`` .. ``p_{K-1}``, the probabilities; ``entropy``, in nats.

        With ``sessions`` there is a row for each row of their table instead, in its order and with
        its index; the columns that name a session, and the one that orders its steps, take the
        place of the plates' indices. Steps without data are rows as well.

        Args:
            site: which task site; the only one if there is one.
            names: K names of the tasks, for ``task`` and the columns ``p_<name>``.
            sessions: the ``gbi_pyro.Sessions`` that the model was called with: those of the plate,
                in its order (of a subsample ``sessions.select(...)``).
            time: with sessions the name of the plate over time; without it the plate that a chain
                ran along, or the one named ``"time"``.

        Raises:
            TaskSiteError: for an unknown site, or none where there are several; with sessions, for
                a site that is not in two plates, over sessions and over time.
            ValueError: for names that are not K different ones; for a plate, or a column of the
                sessions, that is called like another column; for sessions of other sizes.

        >>> from gbi_pyro.sites import Plate
        >>> log_probs = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).log()
        >>> site = TaskSite("z", log_probs, (Plate("trial", 2, 2),))
        >>> q = TaskPosterior({"z": log_probs}, {"z": site}, "example")
        >>> print(q.to_dataframe(names=["left", "right"]).round(2).to_string(index=False))
         trial task  p_left  p_right  entropy
             0 left    0.75     0.25     0.56
             1 left    0.50     0.50     0.69
        """
        import pandas as pd  # late: slow to load

        name = self.site_name(site)
        where, log_probs = self.sites[name], self.log_probs[name].detach().cpu()
        *shape, K = log_probs.shape
        tasks = list(range(K)) if names is None else list(names)
        if len(tasks) != K or len(set(tasks)) != K:
            raise ValueError(
                f"names should be {K} different names, one for each task of {name!r}; got {tasks}"
            )
        if sessions is not None:
            log_probs = self._by_session(name, time)
        elif time is not None:
            raise ValueError(f"time has an effect with sessions=... alone; got {time!r}: drop it")
        rows = log_probs.reshape(-1, K)
        columns = {
            "task": rows.argmax(-1).numpy(),
            **{f"p_{task}": p.numpy() for task, p in zip(tasks, rows.exp().T, strict=True)},
            "entropy": entropy(rows).numpy(),
        }
        if sessions is not None:
            if (found := log_probs.shape[:2]) != (wanted := sessions.mask.shape):
                raise ValueError(
                    f"task site {name!r} has {found[0]} sessions of {found[1]} steps; the sessions "
                    f"given are {wanted[0]}, of up to {wanted[1]} steps: give those that the model "
                    "was called with, of a part sessions.select(...)"
                )
            frame = sessions.to_frame({c: v.reshape(wanted) for c, v in columns.items()})
            frame["task"] = [tasks[k] for k in frame["task"]]
            return frame
        columns["task"] = [tasks[k] for k in columns["task"]]
        index = np.unravel_index(np.arange(np.prod(shape, dtype=int)), shape) if shape else ()
        dims = {
            dim: steps if plate is None or plate.indices is None else np.array(plate.indices)[steps]
            for dim, plate, size, steps in zip(where.dims, where.plates, shape, index, strict=True)
            if plate or size > 1
        }
        if clash := dims.keys() & columns.keys():
            raise ValueError(
                f"a plate of {name!r} should not be called {' or '.join(sorted(clash))}, like "
                "another column: rename the plate, or give other names"
            )
        kept = ~self.padding(name).cpu().numpy().flatten()
        return pd.DataFrame({**dims, **columns})[kept].reset_index(drop=True)

    def _by_session(self, name: str, time: str | None) -> Tensor:
        """Return the log probabilities of a site in plates over sessions and time, (S, T, K)."""
        site, log_probs = self.sites[name], self.log_probs[name].detach().cpu()
        *shape, K = log_probs.shape
        dims = [d for d, n in enumerate(shape) if site.plates[d] is not None or n > 1]
        if len(dims) != 2 or any(site.plates[d] is None for d in dims):
            raise TaskSiteError(
                f"task site {name!r} lies in {', '.join(map(repr, site.dims)) or 'no plate'}; "
                "expected two plates, one over sessions and one over time: declare them"
            )
        last = len(shape) + site.time_dim(time or self.settings.get("time"))
        (first,) = (d for d in dims if d != last)
        by_session = log_probs.movedim((first, last), (0, 1))
        return by_session.reshape(shape[first], shape[last], K)


def _checked_ids(name: str, ids: Any, shape: torch.Size) -> Tensor:
    """Return task ids ``lead + batch_shape`` of a site with log probabilities of some shape."""
    *batch, K = shape
    found = as_tensor(ids, f"ids[{name!r}]")
    fits = found.ndim >= len(batch) and list(found.shape[found.ndim - len(batch) :]) == batch
    whole = not found.is_floating_point() and found.dtype != torch.bool
    if not (fits and whole):
        raise ValueError(
            f"ids[{name!r}] should be integers, task ids of elements {tuple(batch)}; got "
            f"{found.dtype} {tuple(found.shape)}: take .argmax(-1) of one-hot tasks"
        )
    if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < K:
        raise ValueError(
            f"ids[{name!r}] should be task ids 0 .. {K - 1}; got {int(found.min())} .. "
            f"{int(found.max())}"
        )
    return found.long()


def trailing(empty: Tensor, dim: int) -> Tensor:
    """Return where nothing but empty steps follow, themselves empty, along a dimension.

    >>> trailing(torch.tensor([True, False, True, True]), 0)
    tensor([False, False,  True,  True])
    """
    return (~empty).flip(dim).cumsum(dim).flip(dim) == 0


def entropy(log_probs: Tensor) -> Tensor:
    """Return H(q) = - sum_k q_k log q_k in nats, over the last dimension.

    >>> entropy(torch.tensor([0.5, 0.5, 0.0]).log())
    tensor(0.6931)
    """
    terms: Tensor = torch.special.entr(log_probs.exp())
    return terms.sum(-1)


def detached(sites: Mapping[str, TaskSite]) -> dict[str, TaskSite]:
    """Return sites without gradients, as a result keeps them."""
    return {name: site.detached() for name, site in sites.items()}
