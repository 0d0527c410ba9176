"""The rat's sessions: what is read of the file, and which sessions serve for what.

One rat (W053 of Akrami et al. 2018, Posterior parietal cortex represents sensory history and
mediates its effects on behaviour, Nature 554) hears two tones and says by a poke to the left or the
right which was louder: 20,000 trials in 80 sessions, as published with psytrack (Roy et al. 2021,
Extracting the dynamics of behavior in sensory decision-making experiments, Neuron 109).
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gbi_pyro.data import Sessions

FOLDER_VARIABLE = "GBI_PYRO_SEQUENCES"
FILE = "rat_w053.csv.gz"
SHIPPED = Path(__file__).resolve().parents[2] / "notebooks" / "data"
COVARIATES = {
    "bias": "bias",
    "s1": "first tone",
    "s2": "second tone",
    "s_avg_previous": "mean tone of the previous trial",
    "choice_previous": "previous choice",
    "answer_previous": "previous answer",
}
"""The columns that a choice may depend on, in words; 1 is to the right, -1 to the left."""
S1, S2 = 1, 2  # where the tones stand among the covariates
OUTCOMES = ("choice_previous", "answer_previous", "reward_previous")
"""What may drive a change of state: what happened in the trial that is left."""
EVERY = 4  # sessions: one of so many is held out, and again one for validation


class Trials(NamedTuple):
    """The arguments of a model of choices, S sessions of up to T trials.

    Attributes:
        covariates: ``(S, T, D)``.
        right: whether the choice was to the right, ``(S, T)``.
        mask: which trials are real, ``(S, T)``.
        outcomes: of the trial before, ``(S, T, 3)``.
    """

    covariates: Tensor
    right: Tensor
    mask: Tensor
    outcomes: Tensor


class Split(NamedTuple):
    """Sessions by what they serve for; training sessions are those of the next two."""

    every: Sessions
    training: Sessions
    fitting: Sessions
    validation: Sessions
    held_out: Sessions


def data_file(folder: Path | None) -> Path:
    """Return where the rat's trials lie.

    Args:
        folder: of the file; None is the one that ``GBI_PYRO_SEQUENCES`` names, or the lessons'.

    Raises:
        ValueError: where it is not there.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    path = (folder or (Path(named) if named else SHIPPED)) / FILE
    if not path.exists():
        raise ValueError(
            f"{path.parent} should hold {FILE}, which is not there: give --data, or set "
            f"{FOLDER_VARIABLE}, or neither for the file in notebooks/data"
        )
    return path


@functools.lru_cache(maxsize=2)
def read_sessions(path: Path) -> Sessions:
    """Read the file; nothing may be written into its tensors, which later calls return too."""
    table = pd.read_csv(path).assign(bias=1.0)
    table["right"] = table["choice"] == 2
    return Sessions.from_frame(
        table,
        by="session",
        columns={
            "covariates": list(COVARIATES),
            "outcomes": list(OUTCOMES),
            "right": "right",
            "correct": "correct",
        },
        dtype=torch.float64,
    )


def checksum(path: Path) -> str:
    """Return the SHA-256 of the file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def split(sessions: Sessions, max_sessions: int = 0) -> Split:
    """Hold every fourth session out, and take every fourth of the others for validation.

    >>> parts = split(read_sessions(data_file(None)))
    >>> [part.num_steps for part in parts]
    [20000, 14718, 10872, 3846, 5282]
    """
    if max_sessions:
        sessions = sessions.select(slice(max_sessions))
    place = np.arange(len(sessions))
    held_out = place % EVERY == EVERY - 1
    training = sessions.select(~held_out)
    validation = np.arange(len(training)) % EVERY == EVERY - 1
    return Split(
        sessions,
        training,
        training.select(~validation),
        training.select(validation),
        sessions.select(held_out),
    )


def trials(sessions: Sessions) -> Trials:
    """Return the arguments of a model of choices."""
    return Trials(sessions["covariates"], sessions["right"], sessions.mask, sessions["outcomes"])
