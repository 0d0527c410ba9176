"""Every way to name the class of an image, run on the same networks (I2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from studies.images.config import ImagesConfig
from studies.images.rivals import entropy_based, norm_based
from studies.images.training import ImageNetworks
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.iterative import IterativeGradient
from gbi_pyro.logjoint import Passes
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.relax import Model

Answer = tuple[Tensor, Passes]
"""Log probabilities of the classes, ``(N, K)``, and the passes spent on a batch."""


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: what it is called there.
        network: the kind of network it runs on.
        answer: from a batch of images to the classes' log probabilities.
        exact: the name of the method that is exact on the same network, if there is one.
        reported: its accuracy in the paper (MNIST, percent; reported elsewhere).
    """

    name: str
    network: str
    answer: Callable[[Tensor], Answer]
    exact: str | None = None
    reported: float | None = None


PAPER_ONE_STEP = "one step, paper's network"
PAPER_EXACT = "exhaustive likelihood, paper's network"
ONE_STEP = "one step, affine head"
EXACT = "exact in code space, affine head"
CLASSIFIER_ROW = "classifier of the same encoder"


def methods(config: ImagesConfig, networks: ImageNetworks) -> list[Method]:
    """Return every method on the networks of one seed, in the order of the table."""
    paper, affine = networks.paper, networks.affine

    def of(infer: Callable[..., TaskPosterior], model: Model) -> Callable[[Tensor], Answer]:
        def answer(x: Tensor) -> Answer:
            posterior = infer(model, x)
            return posterior.logits(), posterior.passes

        return answer

    def iterative(steps: int) -> IterativeGradient:
        return IterativeGradient(steps, config.iterative_rate, "sgd", temperature=0.0)

    def classify(x: Tensor) -> Answer:
        return networks.classifier(x), Passes(forward=1)

    each = Enumeration(check=False)  # images do not influence each other in eval mode
    return [
        Method(PAPER_ONE_STEP, "paper", of(OneStepGradient(), paper), PAPER_EXACT, 85.46),
        *(
            Method(
                f"iterative, {n} steps, paper's network",
                "paper",
                of(iterative(n), paper),
                PAPER_EXACT,
            )
            for n in config.iterative_steps
        ),
        Method(PAPER_EXACT, "paper", of(each, paper), PAPER_EXACT, 91.9),
        Method("EBI, paper's network", "paper", lambda x: entropy_based(paper, x), None, 27.37),
        Method("NBI, paper's network", "paper", lambda x: norm_based(paper, x), None, 78.78),
        Method(ONE_STEP, "affine", of(OneStepGradient(), affine), EXACT),
        Method("second order, affine head", "affine", of(OneStepGradient(order=2), affine), EXACT),
        Method(EXACT, "affine", of(OneStepGradient(), affine.exact), EXACT),
        Method("exhaustive likelihood, affine head", "affine", of(each, affine), EXACT),
        Method("pure generative", "generative", of(each, networks.generative)),
        Method(CLASSIFIER_ROW, "classifier", classify, None, 91.44),
    ]


def run_in_chunks(method: Method, x: Tensor, chunk: int) -> Answer:
    """Run a method on all images, some at a time; passes are those of one batch."""
    answers = [method.answer(part) for part in x.split(chunk)]
    return torch.cat([log_probs for log_probs, _ in answers]), answers[0][1]


def describe(passes: Passes) -> str:
    """Write passes as in the table: forward + backward."""
    return f"{passes.forward} + {passes.backward}"


def settings(config: ImagesConfig) -> dict[str, Any]:
    """Return what the iterative rows were asked for, for the files."""
    return {"rate": config.iterative_rate, "optim": "sgd", "steps": list(config.iterative_steps)}
