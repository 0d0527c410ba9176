"""The log joint of chosen combinations of tasks, each element of the plates with its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gbi_pyro.logjoint import LogJoint, RelaxedModel
from gbi_pyro.relax import points_at
from gbi_pyro.score import Factor, sum_to_element
from gbi_pyro.sites import TaskSite, TaskSiteError


def check_same_elements(sites: Mapping[str, TaskSite], what: str) -> torch.Size:
    """Return the batch shape of task sites that share their elements.

    Args:
        sites: the task sites.
        what: the inference that needs it, for the error.

    Raises:
        TaskSiteError: for sites in different plates.
    """
    shapes = {(site.batch_shape, site.plates) for site in sites.values()}
    if len(shapes) > 1:
        where = ", ".join(f"{n!r} in {s.dims or 'no plate'}" for n, s in sites.items())
        raise TaskSiteError(
            f"{what} takes task sites that lie in the same plates; got {where}: use Enumeration, "
            "which sums inner tasks out for each outer one, or OneStepGradient"
        )
    return next(iter(sites.values())).batch_shape


class Scorer:
    """Score combinations of tasks exactly: log p(x, z), element by element.

    Each element has combinations of its own, so that one run of the model scores one combination of
    every element, and a chunk of them side by side in a leading dimension scores several.

    Args:
        run: the model with its data; passes are counted there.
        joint: any run of it, for its sites and the shape of its factors.
        chunk_size: how many combinations are tried in one run, which the model has to broadcast
            over; None tries one after the other.
        check: whether independence of elements, and broadcasting, are checked by one more run.

    Raises:
        TaskSiteError: for sites in different plates; when called, for elements that influence each
            other, or a model that does not broadcast.
    """

    def __init__(
        self,
        run: RelaxedModel,
        joint: LogJoint,
        *,
        chunk_size: int | None = 64,
        check: bool = True,
        what: str = "scoring combinations of tasks",
    ) -> None:
        self.run, self.sites, self.nesting = run, joint.sites, joint.nesting
        self.batch_shape = check_same_elements(joint.sites, what)
        self.chunk_size, self.check = chunk_size, check
        self._outside = self._not_by_element(joint)

    def __call__(self, ids: Mapping[str, Tensor]) -> Tensor:
        """Return log p(x, z) of each element, ``(m,) + batch_shape``, float64.

        Args:
            ids: of every site, ``(m,) + batch_shape``.
        """
        stacked = torch.stack([ids[name] for name in self.sites])
        rows = [self._scored(part) for part in stacked.split(self.chunk_size or 1, 1)]
        scores = torch.cat(rows)
        if self.check and scores.numel():
            self._check(stacked, scores)
            self.check = False  # once is enough: another call scores other tasks of the same model
        return scores

    def with_gradient(self, ids: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return log p(x, z) as it is called, and its gradient at these corners of the simplex.

        Args:
            ids: of every site, ``(m,) + batch_shape``.

        Returns:
            ``(m,) + batch_shape``, float64, and for each site ``(m,) + batch_shape + (K,)``, its
            own prior included.
        """
        stacked = torch.stack([ids[name] for name in self.sites])
        scores, rows = [], []
        for part in stacked.split(self.chunk_size or 1, 1):
            m = part.shape[1]
            joint = self.log_joint(part.squeeze(1) if m == 1 else part, order=1)
            gradients = self.run.likelihood_gradient(joint)
            self.run.count(forward=m, backward=m - 1)
            total = self._by_element(joint, rounding=False).detach()
            scores.append(total.expand(m, *self.batch_shape))
            rows.append(
                {
                    n: (g + s.log_prior.detach()).reshape(m, *self.batch_shape, s.num_tasks)
                    for (n, g), s in zip(gradients.items(), joint.sites.values(), strict=True)
                }
            )
        return torch.cat(scores), {n: torch.cat([r[n] for r in rows]) for n in self.sites}

    def _scored(self, ids: Tensor) -> Tensor:
        """Score a chunk: ids ``(sites, m) + batch_shape``."""
        m = ids.shape[1]
        self.run.count(forward=m)
        joint = self.log_joint(ids.squeeze(1) if m == 1 else ids)
        if self.check:
            self._check_outside(joint)
        return self._by_element(joint, rounding=False).expand(m, *self.batch_shape)

    def log_joint(self, ids: Tensor, order: int = 0) -> LogJoint:
        """Run the model at combinations of tasks, and keep its factors apart.

        Args:
            ids: in the order of the sites, ``(sites, m) + batch_shape``, or ``(sites,) +
                batch_shape`` for one combination.
            order: how many derivatives with respect to the points will be asked for.
        """
        points = {}
        for (name, site), own in zip(self.sites.items(), ids, strict=True):
            point = one_hot(own, site.num_tasks).to(site.log_prior)
            if own.ndim > len(self.batch_shape):
                ones = (1,) * (self.nesting - len(self.batch_shape))
                point = point.reshape(len(own), *ones, *point.shape[1:])
            points[name] = point
        return self.run.log_joint(points_at(points), order=order)

    def _by_element(self, joint: LogJoint, *, rounding: bool) -> Tensor:
        site = next(iter(self.sites.values()))
        own = [f for f in joint.factors.values() if f.belongs(site)]
        terms = [(f.rounding if rounding else f.log_prob).double() for f in own]
        return sum_to_element(terms, site, self.nesting)

    def _not_by_element(self, joint: LogJoint) -> dict[str, Factor]:
        site = next(iter(self.sites.values()))
        return {n: f for n, f in joint.factors.items() if not f.belongs(site)}

    def _check(self, ids: Tensor, scores: Tensor) -> None:
        """Check by one run in which neighbours have different combinations."""
        m, size = len(scores), self.batch_shape.numel()
        at = (torch.arange(size, device=ids.device) % m).reshape(1, *self.batch_shape)
        alone = self.log_joint(ids.gather(1, at.expand(len(ids), 1, *self.batch_shape)).squeeze(1))
        self.run.count(check=1)
        found = self._by_element(alone, rounding=False)
        error = (found - scores.gather(0, at).squeeze(0)).abs()
        if bool((error > self._by_element(alone, rounding=True)).any()):
            raise self._dependent()
        self._check_outside(alone)

    def _check_outside(self, joint: LogJoint) -> None:
        """Check that what belongs to no element is the same under all tasks."""
        for name, factor in self._not_by_element(joint).items():
            known = self._outside.get(name)
            if known is None or bool(
                ((factor.log_prob - known.log_prob).abs() > factor.rounding).any()
            ):
                raise self._dependent()

    def _dependent(self) -> TaskSiteError:
        return TaskSiteError(
            f"the score of an element of task sites {list(self.sites)} changes with the tasks "
            "of others, or with the number of combinations tried at once; expected elements "
            "that do not influence each other, and a model that broadcasts over leading "
            "dimensions: keep '...' in front of each operation, or give chunk_size=None"
        )
