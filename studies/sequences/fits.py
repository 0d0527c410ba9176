"""Fits of models of choices, and how well they predict other sessions one trial ahead."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import pyro
import torch
from torch import Tensor
from torch.nn.functional import pad

from gbi_pyro.data import Sessions
from gbi_pyro.inference import LearnedChain, TaskChain, marginalize
from gbi_pyro.inference.chain_posterior import ChainPosterior
from gbi_pyro.inference.marginal import Marginal
from gbi_pyro.learning import fit_marginal, order_tasks
from studies.sequences.models import TIME, ChoiceModel
from studies.sequences.sessions import S1, S2, trials

STAY = 0.5, 0.99  # probabilities of keeping a state that fits start from, drawn between
AGREE = 1.0  # nats in all training trials: starts that differ by less have found the same optimum
DRIVEN_BY: Literal["entered"] = (
    "entered"  # outcomes of the trial before belong to the row of the trial after
)


@dataclass(frozen=True)
class Fitted:
    """A fitted model of choices; states in the order of how much the tones count in them.

    Attributes:
        num_states: K.
        precision: of the prior over the weights.
        hidden: tanh units of each state; 0 for linear states.
        weights: of the model, by site.
        errors: their standard errors, likewise, by the Hessian; empty where not asked for.
        initial: log p(z_1), ``(K,)``.
        transition: log A, ``(K, K)``.
        slopes: what outcomes add to log A, ``(3, K, K)``; None for constant transitions.
        log_likelihood: log p(choices) of the training sessions, nats.
        num_parameters: free ones.
        objectives: log joint at the end of each start.
        num_agree: how many starts ended within a nat of the best.
        converged: whether the best start met its criterion.
        seconds: of the processor, for all starts.
    """

    num_states: int
    precision: float
    hidden: int
    weights: dict[str, Tensor]
    errors: dict[str, Tensor]
    initial: Tensor
    transition: Tensor
    slopes: Tensor | None
    log_likelihood: float
    num_parameters: int
    objectives: Tensor
    num_agree: int
    converged: bool
    seconds: float

    @property
    def model(self) -> ChoiceModel:
        """The model, whose weights are still to be given."""
        return ChoiceModel(self.num_states, self.precision, self.hidden)

    def bic(self, num_trials: int) -> float:
        """Return -2 log p + p log n."""
        return -2 * self.log_likelihood + self.num_parameters * math.log(num_trials)

    def chain(self, sessions: Sessions) -> TaskChain:
        """Return the chain over states, with what drives it in these sessions."""
        if self.slopes is None:
            return TaskChain(self.initial, self.transition, time=TIME)
        return TaskChain(
            self.initial,
            self.transition,
            slopes=self.slopes,
            inputs=trials(sessions).outcomes,
            of=DRIVEN_BY,
            time=TIME,
        )

    def marginal(self, sessions: Sessions) -> Marginal:
        """Return the marginal at the estimates, for these sessions."""
        return marginalize(self.model, self.chain(sessions)).condition(self.weights)

    def infer(self, sessions: Sessions) -> ChainPosterior:
        """Return the exact posterior over the states of these sessions."""
        found = self.marginal(sessions).infer(*trials(sessions))
        assert isinstance(found, ChainPosterior)
        return found

    def score(self, sessions: Sessions) -> Tensor:
        """Return log p(choices) of each session in nats, ``(S,)``.

        It is the sum of log p(x_t | x_1..t-1), every trial predicted one step ahead.
        """
        scores = self.infer(sessions).log_evidence
        assert scores is not None
        return scores


def fit_choices(
    model: ChoiceModel,
    sessions: Sessions,
    *,
    starts: int,
    seed: int,
    tolerance: float,
    driven: bool = False,
    errors: bool = False,
) -> Fitted:
    """Fit a model of choices to sessions, its weights and its chain, from several starts.

    Args:
        model: the model.
        sessions: to fit it to.
        starts: how many; one for a GLM, whose objective is concave.
        seed: of the starts.
        tolerance: of the gradient, per trial.
        driven: whether the outcomes of a trial drive the change of state after it.
        errors: whether to find the standard errors of the weights.
    """
    K = model.num_states
    chain = LearnedChain(
        K,
        inputs=_outcomes if driven and K > 1 else None,
        of=DRIVEN_BY,
        time=TIME,
    )
    marginal, begin = marginalize(model, chain), time.process_time()
    with pyro.get_param_store().scope(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the first start is a draw from the prior
        fit = fit_marginal(
            marginal,
            *trials(sessions),
            starts=1 if K == 1 and not model.hidden else starts,
            seed=seed,
            draw_start=lambda draw: {**model.draw_start(draw), **_draw_chain(K, draw)},
            num_observations=sessions.num_steps,
            tolerance=tolerance,
        )
        seconds = time.process_time() - begin
        spread = fit.standard_errors() if errors else {}
    found = fit.estimates
    weights = {name: found[name] for name in model.shapes}
    one = torch.zeros(1, dtype=torch.float64)
    initial, transition, slopes = one, one.unsqueeze(0), None
    if K > 1:
        initial, transition = found["chain_initial"].log(), found["chain_transition"].log()
    if "chain_slopes" in found:
        slopes = pad(found["chain_slopes"], (1, 0))
    order = order_tasks(sensitivity(model, weights, sessions), descending=True)
    fitted = Fitted(
        num_states=K,
        precision=model.precision,
        hidden=model.hidden,
        weights={name: weight[order] for name, weight in weights.items()},
        errors={name: spread[name][order] for name in weights if name in spread},
        initial=initial[order],
        transition=transition[order][:, order],
        slopes=None if slopes is None else slopes[:, order][:, :, order],
        log_likelihood=0.0,
        num_parameters=fit.num_parameters,
        objectives=fit.objectives,
        num_agree=int((fit.objectives > fit.objectives.max() - AGREE).sum()),
        converged=fit.converged,
        seconds=seconds,
    )
    return replace(fitted, log_likelihood=fitted.score(sessions).sum().item())


def sensitivity(model: ChoiceModel, weights: Mapping[str, Tensor], sessions: Sessions) -> Tensor:
    """Return how far the order of the tones moves the log odds of each state, ``(K,)``.

    The mean over trials of f_k(u), its sign turned where the second tone was the louder one.
    """
    covariates, _, mask, _ = trials(sessions)
    louder = (covariates[..., S1] - covariates[..., S2]).sign() * mask
    log_odds = model.log_odds(weights, covariates)
    return (louder.unsqueeze(-1) * log_odds).sum((0, 1)) / sessions.num_steps


def _draw_chain(num_states: int, draw: torch.Generator) -> dict[str, Tensor]:
    """Draw how long states last at a start: some optima have states of few trials."""
    if num_states == 1:
        return {}
    low, high = STAY
    stay = low + (high - low) * torch.rand(num_states, generator=draw, dtype=torch.float64)
    leave = ((1 - stay) / (num_states - 1)).unsqueeze(-1).repeat(1, num_states)
    return {"chain_transition": torch.where(torch.eye(num_states) > 0, stay.unsqueeze(-1), leave)}


def _outcomes(_covariates: Tensor, _right: Tensor, _mask: Tensor, outcomes: Tensor) -> Tensor:
    return outcomes
