"""Streams that are learned block after block, and what simple predictors score on them."""

from __future__ import annotations

from collections.abc import Sequence

LEFT_OUT = 20  # the first predictions of a block, while the plain LSTM finds out (Figure 2B)
WINDOW = 10  # steps that a weight update looks back on


def reference_errors(means: Sequence[float], sigma: float) -> dict[str, float]:
    """Return what simple predictors score on two tasks: expected squared errors.

    Knowing the task leaves the noise; predicting the middle adds the squared half distance of the
    means, and always predicting the wrong mean adds the squared distance.

    >>> {name: round(e, 2) for name, e in reference_errors((0.2, 0.8), 0.1).items()}
    {'knows the task': 0.01, 'always the middle': 0.1, 'always the wrong mean': 0.37}
    """
    low, high, noise = min(means), max(means), sigma**2
    return {
        "knows the task": noise,
        "always the middle": noise + ((high - low) / 2) ** 2,
        "always the wrong mean": noise + (high - low) ** 2,
    }
