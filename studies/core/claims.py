"""The claims that results speak to: a code, a few words for a table, and one plain sentence.

Codes M, T, I, L and C number claims of the paper (Hummos et al., arXiv 2407.17356) and the controls
that a claimed benefit needs; D numbers what this project states about learning without labels.
"""

from __future__ import annotations

from typing import NamedTuple


class Claim(NamedTuple):
    """A claim in words.

    Attributes:
        label: a few words, for the first column of a table.
        sentence: what is claimed, in one plain sentence.
        source: who claims it.
    """

    label: str
    sentence: str
    source: str


PAPER = "paper"
REPORTED = "paper, value reported elsewhere"
OURS = "this project"

CLAIMS: dict[str, Claim] = {
    "M1": Claim(
        "one model, three uses",
        "One Pyro model runs with its task observed (training), enumerated (exact inference) or "
        "clamped to a point of the simplex (gradient-based inference), and all three agree.",
        PAPER,
    ),
    "M2": Claim(
        "the objective",
        "At temperature 1 the maximum of E_q[log p(x, Z)] + T H(q) is the log evidence, and its "
        "maximiser the exact posterior.",
        PAPER,
    ),
    "M3": Claim(
        "weight update",
        "A weight update clamps the task, to its label or its estimate, and changes the weights "
        "alone.",
        PAPER,
    ),
    "M4": Claim(
        "frozen weights",
        "A latent update changes the task and leaves every weight as it was, bit for bit.",
        PAPER,
    ),
    "M5": Claim(
        "learning without labels",
        "Without labels the two updates alternate; with an exact E-step the log evidence never "
        "falls.",
        PAPER,
    ),
    "M6": Claim(
        "entropy and L2 penalty",
        "An L2 penalty on the logits stands in for the entropy; the two gradients agree only near "
        "maximum entropy.",
        REPORTED,
    ),
    "M7": Claim(
        "one gradient step",
        "One gradient step from the maximum-entropy point gives the posterior over tasks; it is "
        "exact where the log joint is affine in the task.",
        REPORTED,
    ),
    "M8": Claim(
        "causal in time",
        "What is inferred about the task at a step never depends on observations after it.",
        PAPER,
    ),
    "M10": Claim(
        "counted passes",
        "The cost of an inference is counted by the code: one step is one forward and one "
        "backward pass, enumeration K forward passes.",
        OURS,
    ),
    "M11": Claim(
        "two modes of a network",
        "At maximum entropy a trained network gives a middling output, and with its task optimised "
        "it performs the task.",
        PAPER,
    ),
    "M12": Claim(
        "recomposition",
        "Mixtures of task abstractions are legal inputs of a network and legal results of an "
        "inference.",
        PAPER,
    ),
    "M13": Claim(
        "vocabulary",
        "Task abstraction, block, weight update and latent update are the words of this field.",
        PAPER,
    ),
    "T1": Claim(
        "the switching stream",
        "A stream switches between K tasks in blocks and shows the mean of the current task "
        "with noise.",
        PAPER,
    ),
    "T2": Claim(
        "likelihood of each task",
        "The likelihood of each task is the normal density of the observation around its mean.",
        PAPER,
    ),
    "T3": Claim(
        "exact posterior",
        "The exact posterior over tasks applies the transition before each observation.",
        PAPER,
    ),
    "T4": Claim(
        "faster learning",
        "A network that is given its task learns the switching stream in fewer updates than the "
        "plain LSTM.",
        PAPER,
    ),
    "T5": Claim(
        "error per block",
        "On a stream learned block after block, a network that is given its task has the lower "
        "error in each block.",
        PAPER,
    ),
    "T6": Claim(
        "shared units",
        "A network that is given its task shares fewer hidden units between the tasks of "
        "neighbouring blocks.",
        PAPER,
    ),
    "T7": Claim(
        "forgetting",
        "A network that is given its task forgets less of the previous task while it learns the "
        "next one.",
        REPORTED,
    ),
    "T8": Claim(
        "gradients follow switches",
        "The gradient with respect to the task flips within a few steps of a switch, and the "
        "optimised task tracks the exact log odds.",
        PAPER,
    ),
    "T9": Claim(
        "unseen means",
        "With its task optimised, a network predicts blocks whose mean it never saw in training "
        "better than the plain LSTM does.",
        PAPER,
    ),
    "T10": Claim(
        "slope on unseen means",
        "The predicted mean of a block follows its true mean, also outside those seen in training.",
        PAPER,
    ),
    "T11": Claim(
        "default mode",
        "At maximum entropy the output lies in the middle of the tasks, and the gradient there "
        "tracks the log likelihood ratio.",
        PAPER,
    ),
    "T12": Claim(
        "one step in the Bayes filter",
        "Evidence of one gradient step, put into the Bayes filter, is close to the exact filter.",
        REPORTED,
    ),
    "T13": Claim(
        "predictors compared",
        "On the same streams, the exact filter, one step in the filter, plain networks and simple "
        "averages predict the next observation with these errors.",
        OURS,
    ),
    "I1": Claim(
        "class-conditioned autoencoder",
        "An autoencoder that is given the class of an image as its task can be inverted for the "
        "class.",
        PAPER,
    ),
    "I2": Claim(
        "classes of images",
        "One gradient step of a class-conditioned autoencoder infers the class of an image.",
        REPORTED,
    ),
    "I3": Claim(
        "confidence on unknown images",
        "The largest task probability is lower on images of another data set than on those of "
        "training.",
        PAPER,
    ),
    "I4": Claim(
        "out-of-distribution images",
        "The posterior over classes shows which images come from another data set.",
        REPORTED,
    ),
    "I5": Claim(
        "calibration and selective prediction",
        "The inferred class probabilities are calibrated, and abstaining where they are low "
        "lowers the risk.",
        OURS,
    ),
    "I6": Claim(
        "generation",
        "Each task, and each mixture of tasks, generates images of its kind.",
        PAPER,
    ),
    "I7": Claim(
        "task use by bottleneck",
        "A network whose latent is wide enough to hold the class ignores its task input.",
        REPORTED,
    ),
    "L1": Claim(
        "word-level language models",
        "A word-level LSTM is given the corpus of a text as its task and learns several corpora "
        "at once.",
        PAPER,
    ),
    "L2": Claim(
        "faster language learning",
        "A language model that is given its corpus reaches the plain model's final loss after "
        "fewer words.",
        PAPER,
    ),
    "L3": Claim(
        "corpus of a text",
        "One gradient step infers from a few words which corpus a text comes from.",
        PAPER,
    ),
    "L4": Claim(
        "unseen corpus",
        "A frozen language model adapts to an unseen corpus by optimising its task input.",
        PAPER,
    ),
    "C1": Claim(
        "task input against controls",
        "A benefit of the task input vanishes with shuffled, random or constant inputs of the same "
        "width.",
        OURS,
    ),
    "C2": Claim(
        "entropy against L2",
        "With the entropy as the penalty, the inferred task is closer to the exact posterior than "
        "with the L2 penalty on the logits.",
        OURS,
    ),
    "C3": Claim(
        "divergence over settings",
        "KL(exact || one step), total variation and calibration error depend on K, noise, "
        "hazard and step size like this.",
        OURS,
    ),
    "C4": Claim(
        "fraction of labels",
        "With all, half, a tenth, a hundredth or none of the labels, inference comes so close "
        "to the exact posterior.",
        OURS,
    ),
    "C5": Claim(
        "conditioning and baselines",
        "At equal size, the ways a task can enter a network, and other inferences of one pass, "
        "compare like this.",
        OURS,
    ),
    "C6": Claim(
        "adaptation and zero-shot",
        "Adaptation moves something at test time and zero-shot moves nothing; the two are "
        "reported apart.",
        OURS,
    ),
    "C7": Claim(
        "provenance",
        "Every saved result carries its seeds, configuration, versions, device, wall time and "
        "intervals.",
        OURS,
    ),
    "D1": Claim(
        "unsupervised, one stream",
        "Tasks learned online from one stream without labels are inferred as accurately as the "
        "exact filter infers the true ones.",
        OURS,
    ),
    "D2": Claim(
        "gradient E-step",
        "Learning online with the gradient E-step is as accurate as with K forward passes a step.",
        OURS,
    ),
    "D3": Claim(
        "all tasks found",
        "EM on a batch of sequences without labels finds every task.",
        OURS,
    ),
    "D4": Claim(
        "number of tasks",
        "Held-out log evidence, by the one-standard-error rule, chooses the true number of tasks.",
        OURS,
    ),
    "D5": Claim(
        "recurrent networks without labels",
        "A recurrent network finds its tasks without labels, or reports that it did not.",
        OURS,
    ),
    "D6": Claim(
        "few labels",
        "One per cent of the labels, clamped after the tasks are found, brings the filter to the "
        "exact posterior.",
        OURS,
    ),
    "D7": Claim(
        "speed of online learning",
        "The online learner takes so many time steps a second on one thread.",
        OURS,
    ),
    "D8": Claim(
        "images without labels",
        "EM on the codes of an autoencoder finds the classes of images without labels.",
        OURS,
    ),
    "D9": Claim(
        "images with few labels",
        "With one per cent of the labels, tasks found by EM infer classes better than a classifier "
        "of the same encoder.",
        OURS,
    ),
}


def in_table(code: str) -> str:
    """Return a claim as it stands in a table: in words, with its code in brackets.

    >>> in_table("T9")
    'unseen means (T9)'
    >>> in_table("")
    ''
    """
    return f"{CLAIMS[code].label} ({code})" if code else ""


def as_markdown() -> str:
    """Write the list of claims, for ``results/claims.md``."""
    lines = [
        "# Claims",
        "",
        "What the tables of results speak to. *Paper*: stated by Hummos et al., arXiv 2407.17356;",
        "*reported elsewhere*: a value of the paper that is known second-hand, a reference line,",
        "never a target; *this project*: a control or an extension.",
        "",
        "| claim | in one sentence | source |",
        "|---|---|---|",
    ]
    for code, claim in CLAIMS.items():
        anchor = f'<a id="{code.lower()}"></a>'
        lines.append(f"| {anchor}{in_table(code)} | {claim.sentence} | {claim.source} |")
    return "\n".join(lines) + "\n"
