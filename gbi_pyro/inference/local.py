"""A recogniser of many coupled task sites, trained by a local objective on their graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gbi_pyro.inference._combinations import Scorer
from gbi_pyro.inference._conditionals import Parents
from gbi_pyro.inference._factor_graph import (
    Scopes,
    colouring,
    elimination_parents,
    factor_scopes,
    neighbours,
)
from gbi_pyro.inference._joint_training import JointTraining
from gbi_pyro.inference._options import check_numbers
from gbi_pyro.inference.autoregressive_joint import AutoregressiveJoint, chosen
from gbi_pyro.inference.joint_losses import (
    LARGEST_GAP,
    JointLoss,
    TrainingBatch,
    check_exploration,
)
from gbi_pyro.inference.joint_recogniser import JointRecogniser
from gbi_pyro.inference.simulator import Simulator
from gbi_pyro.joint import draw_tasks
from gbi_pyro.logjoint import LogJoint, RelaxedModel
from gbi_pyro.score import sum_to_element
from gbi_pyro.sites import TaskSite, TaskSiteError


@dataclass(frozen=True, eq=False)
class LocalRecogniser(JointTraining):
    r"""Learn to infer many coupled task sites whose log joint is a sparse sum of factors.

    The graph is read off the model: two sites are neighbours where one factor (a sample site or a
    ``pyro.factor``) depends on both. Eliminating sites one by one gives each a few parents,

        log q(z | x) = \sum_i log_softmax(a_i(features(x), z_parents(i)) + log pi_i)[z_i],

    and the local objective (Delta-AI: Falet et al. 2024, arXiv 2310.02423) compares tasks z with
    z', where one site has another task:

        (log q(z' | x) - log q(z | x) - log p(x, z') + log p(x, z))^2

    Only the site and its children stand in the first difference, only the factors of the site in
    the second. Sites of which no two are neighbours change in one run of the model, so an update
    takes as many runs as the graph has colours and one more, however many sites there are. A
    factor of everything, such as one vector of likelihoods that all sites enter, makes all sites
    neighbours: write a factor for each term.

    Args:
        encoder: features of the data, see ``AutoregressiveRecogniser``; every site sees them all.
        hidden, updates, batch_size, learning_rate, max_joint, num_draws, seed: likewise.
        chunk_size: likewise, for the check that elements do not influence each other.
        exploration: the probability with which a site's task is drawn uniformly.

    Raises:
        TypeError: for an encoder that cannot be called, options that are no numbers.
        ValueError: for numbers that are not positive, or an exploration that is no probability.

    >>> import pyro, pyro.distributions as dist
    >>> from gbi_pyro.problems import Drawn, Problem
    >>> def model(x):
    ...     with pyro.plate("case", len(x)):
    ...         task = dist.OneHotCategorical(torch.ones(2))
    ...         a, b = (pyro.sample(n, task, infer={"task": True})[..., 0] for n in "ab")
    ...         pyro.sample("x", dist.Normal(a + b, 0.3), obs=x)
    >>> def draw(n, generator):
    ...     a, b = torch.randint(2, (2, n), generator=generator)
    ...     x = 2 - a - b + 0.3 * torch.randn(n, generator=generator)
    ...     return Drawn((x,), {"a": a, "b": b})
    >>> learner = LocalRecogniser(lambda x: x.unsqueeze(-1), hidden=16, updates=200)
    >>> infer = learner.fit(Problem("sum", model, draw), torch.Generator().manual_seed(0))
    >>> infer.parents
    {'a': (), 'b': ('a',)}
    >>> q = infer(model, torch.tensor([1.0])).table()  # one of the two is on, either as likely
    >>> bool((q.flat.exp() - torch.tensor([0.0, 0.5, 0.5, 0.0])).abs().max() < 0.1)
    True
    """

    hidden: int = 64
    updates: int = 1500
    batch_size: int = 256
    exploration: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "exploration")
        check_exploration(self.exploration)

    def fit(self, problem: Simulator, generator: torch.Generator) -> JointRecogniser:
        """Train on draws from a problem; nothing of the problem or of this object changes.

        Args:
            problem: the model, and draws from it.
            generator: a seeded generator, for draws and for first weights.

        Returns:
            The inference, called as ``infer(model, *args)``.

        Raises:
            TaskSiteError: for task sites in different plates, factors outside of them, elements
                that influence each other.
            ValueError: for what the encoder returns, if it does not fit.
        """

        def plan(run: RelaxedModel, at: LogJoint) -> tuple[Parents, JointLoss]:
            scopes = factor_scopes(run, generator)
            parents = elimination_parents(
                {name: site.num_tasks for name, site in at.sites.items()}, scopes
            )
            return parents, LocalBalance(scopes, parents, self.exploration)

        return self._fit(problem, generator, plan, "local recogniser")


@dataclass(frozen=True)
class LocalBalance:
    """The local objective over the sites of a graph, the mean over sites and elements.

    Attributes:
        scopes: the sites of each factor.
        parents: those of each site in q.
        exploration: the probability with which a site's task is drawn uniformly.
    """

    scopes: Scopes
    parents: Parents
    exploration: float

    @cached_property
    def colours(self) -> list[list[str]]:
        """Groups of sites that change in one run of the model."""
        return colouring(neighbours(list(self.parents), self.scopes))

    def __call__(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the loss in nats squared."""
        joint, score = batch.joint, batch.score
        with torch.no_grad():
            drawn, _ = joint.draw(1, generator, exploration=self.exploration)
        ids = {name: k.squeeze(0) for name, k in drawn.items()}
        others = {n: _other(score.sites[n], k, generator) for n, k in ids.items()}
        changed = {name: other != ids[name] for name, other in others.items()}
        of_p = self._model_ratios(score, ids, others)
        if score.check:
            score({n: torch.stack([k, others[n]]) for n, k in ids.items()})
        of_q = self._ratios(joint, ids, others)
        terms = []
        for name, target in of_p.items():
            counts = changed[name] & ~target.isnan()  # two impossible tasks have no ratio
            bound = target.nan_to_num().clamp(-LARGEST_GAP, LARGEST_GAP)
            gap = of_q[name] - bound.to(of_q[name].device)
            # Beyond the largest gap q may be as sure as it likes.
            gap = torch.where(bound == LARGEST_GAP, gap.clamp_max(0.0), gap)
            gap = torch.where(bound == -LARGEST_GAP, gap.clamp_min(0.0), gap)
            terms.append(torch.where(counts, gap, 0.0).square())
        return torch.stack(terms).mean()

    def _ratios(
        self, joint: AutoregressiveJoint, ids: Mapping[str, Tensor], others: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return log q(z') - log q(z) for a change of each site."""
        log_q = {name: joint.conditionals(name, ids) for name in self.parents}
        at_ids = {name: chosen(log_q[name], ids[name]) for name in self.parents}
        found = {n: chosen(log_q[n], others[n]) - at_ids[n] for n in self.parents}
        for child, given in self.parents.items():
            for name in given:
                moved = joint.conditionals(child, {**ids, name: others[name]})
                found[name] = (
                    found[name] + chosen(moved, ids[child]) - chosen(log_q[child], ids[child])
                )
        return found

    def _model_ratios(
        self, score: Scorer, ids: Mapping[str, Tensor], others: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return log p(x, z') - log p(x, z) for a change of each site."""
        rows = [torch.stack([ids[name] for name in score.sites])]
        for group in self.colours:
            rows.append(torch.stack([(others if n in group else ids)[n] for n in score.sites]))
        parts = torch.stack(rows, 1).split(score.chunk_size or 1, 1)
        scores = [self._own_factors(score, part) for part in parts]
        found = {}
        for i, group in enumerate(self.colours):
            for name in group:
                of_rows = torch.cat([part[name] for part in scores])
                found[name] = of_rows[1 + i] - of_rows[0]
        return found

    def _own_factors(self, score: Scorer, ids: Tensor) -> dict[str, Tensor]:
        """Return the sum of the factors that depend on each site, ``(m,) + batch_shape``."""
        m = ids.shape[1]
        joint = score.log_joint(ids.squeeze(1) if m == 1 else ids)
        score.run.count(forward=m)
        found = {}
        for name, site in score.sites.items():
            own = {n: f for n, f in joint.factors.items() if name in self.scopes.get(n, ())}
            for factor, term in own.items():
                if not term.belongs(site):
                    raise TaskSiteError(
                        f"factor {factor!r} depends on task site {name!r} and lies outside of its "
                        f"plates {site.dims}; expected factors with a term for each element: "
                        "move it into the plates, or use Enumeration"
                    )
            total = sum_to_element([f.log_prob.double() for f in own.values()], site, score.nesting)
            found[name] = total.expand(m, *site.batch_shape)
        return found


def _other(site: TaskSite, ids: Tensor, generator: torch.Generator) -> Tensor:
    """Draw another task that the prior allows, for each element; the same where there is none."""
    here = one_hot(ids, site.num_tasks).bool().to(site.log_prior.device)
    possible = ~(site.log_prior.isneginf() | here)
    possible = possible | (here & ~possible.any(-1, keepdim=True))
    return draw_tasks(possible.double().log(), generator)
