"""Every way to infer the class of an image, run on the same networks (one gradient step, I2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.iterative import IterativeGradient
from gbi_pyro.logjoint import Passes
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.relax import Model
from studies.core.device import run_device
from studies.images.baselines import entropy_based, norm_based
from studies.images.config import ImagesConfig
from studies.images.networks import ImageNetworks

Answer = tuple[Tensor, Passes]
"""Log probabilities of the classes, ``(N, K)``, and the passes that a batch cost."""


class Method(NamedTuple):
    """A method on the networks of one seed.

    Attributes:
        answer: from a batch of images to the classes' log probabilities.
        exact: the name of the method that is exact on the same network, if there is one.
    """

    answer: Callable[[Tensor], Answer]
    exact: str | None = None

    def run(self, x: Tensor, chunk: int) -> Answer:
        """Answer for all images, some at a time; passes are those of one batch."""
        answers = [self.answer(part.to(run_device())) for part in x.split(chunk)]
        return torch.cat([log_probs.cpu() for log_probs, _ in answers]), answers[0][1]


def posterior_of(infer: Callable[..., TaskPosterior], model: Model) -> Callable[[Tensor], Answer]:
    """Return an inference on a model as a function of images."""

    def answer(x: Tensor) -> Answer:
        posterior = infer(model, x)
        return posterior.logits(), posterior.passes

    return answer


PAPER_ONE_STEP = "one step, paper's network"
PAPER_EXACT = "exhaustive likelihood, paper's network"
ONE_STEP = "one step, affine head"
EXACT = "exact in code space, affine head"
ENTROPY_BASED, NORM_BASED = "EBI, paper's network", "NBI, paper's network"
CLASSIFIER_ROW = "classifier of the same encoder"
REPORTED = {
    PAPER_ONE_STEP: 85.46,
    PAPER_EXACT: 91.9,
    ENTROPY_BASED: 27.37,
    NORM_BASED: 78.78,
    CLASSIFIER_ROW: 91.44,
}
"""Accuracies of the paper (MNIST, per cent; reported elsewhere)."""


def methods(config: ImagesConfig, networks: ImageNetworks) -> dict[str, Method]:
    """Return every method on the networks of one seed, in the order of the table."""
    paper, affine = networks.paper, networks.affine

    def iterative(steps: int) -> IterativeGradient:
        return IterativeGradient(steps, config.iterative_rate, "sgd", temperature=0.0)

    def classify(x: Tensor) -> Answer:
        return networks.classifier(x), Passes(forward=1)

    of, each = (
        posterior_of,
        Enumeration(check=False),
    )  # images do not influence each other in eval mode
    one_step, second = OneStepGradient(), OneStepGradient(order=2)
    return {
        PAPER_ONE_STEP: Method(of(one_step, paper), PAPER_EXACT),
        **{
            f"iterative, {n} steps, paper's network": Method(of(iterative(n), paper), PAPER_EXACT)
            for n in config.iterative_steps
        },
        PAPER_EXACT: Method(of(each, paper), PAPER_EXACT),
        ENTROPY_BASED: Method(lambda x: entropy_based(paper, x)),
        NORM_BASED: Method(lambda x: norm_based(paper, x)),
        ONE_STEP: Method(of(one_step, affine), EXACT),
        "second order, affine head": Method(of(second, affine), EXACT),
        EXACT: Method(of(one_step, affine.exact), EXACT),
        "exhaustive likelihood, affine head": Method(of(each, affine), EXACT),
        "pure generative": Method(of(each, networks.generative)),
        CLASSIFIER_ROW: Method(classify),
    }
