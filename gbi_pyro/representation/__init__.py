"""Representations: activations in, numbers and warnings out.

Activity is any ``(samples, units)``: recorded from a network (``record``), or from a brain, trials
by neurons. How alike two representations are (``similarity``), their shape (``geometry``), what
units say of the task and share between tasks, how tasks are routed to modules (``routing``), and
whether a linear classifier finds the task (``linear_probe``).
"""

from gbi_pyro.representation.geometry import Geometry, geometry
from gbi_pyro.representation.probe import linear_probe
from gbi_pyro.representation.record import record
from gbi_pyro.representation.routing import Routing, routing
from gbi_pyro.representation.similarity import Similarity, similarity
from gbi_pyro.representation.units import (
    SharedUnits,
    normalised_task_variance,
    shared_unit_ratio,
    shared_unit_sweep,
    task_information,
    task_variance,
)

__all__ = [
    "Geometry",
    "Routing",
    "SharedUnits",
    "Similarity",
    "geometry",
    "linear_probe",
    "normalised_task_variance",
    "record",
    "routing",
    "shared_unit_ratio",
    "shared_unit_sweep",
    "similarity",
    "task_information",
    "task_variance",
]
