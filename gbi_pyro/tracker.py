"""What a long computation reports while it runs: stages in words, and numbers by name and step."""

from __future__ import annotations

from typing import Protocol


class Tracker(Protocol):
    """Takes what a training or a study reports; each method does nothing where it is not replaced.

    Subclass it, or write a class with both methods: see the recipes for TensorBoard, W&B and
    MLflow. ``Tracker.stage`` and ``Tracker.metric`` are called between steps, never inside a model.

    >>> class Printed(Tracker):
    ...     def metric(self, name, value, step):
    ...         print(f"{step}: {name} {value:g}")
    >>> Printed().metric("objective", -1.5, 3)
    3: objective -1.5
    >>> Printed().stage("training")
    """

    def stage(self, text: str) -> None:
        """Take note of what begins.

        Args:
            text: what it is, in words.
        """
        return

    def metric(self, name: str, value: float, step: int) -> None:
        """Take a number.

        Args:
            name: of the quantity.
            value: the number.
            step: when: steps of the optimiser, or epochs, from 1.
        """
        return


class _Untracked(Tracker):
    pass


UNTRACKED: Tracker = _Untracked()
"""Ignores everything: the default wherever a tracker may be given."""
