"""Enumeration in chunks that it chooses, against one task after another, and its peak memory."""

from __future__ import annotations

import multiprocessing
import resource
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from benchmarks.rows import ratio_rows
from gbi_pyro import Enumeration
from studies.core.table import Row, Target

SHAPES = ((10, 1), (10, 32), (100, 1), (100, 32), (1000, 1), (1000, 32))
WIDTH = 64
MEBIBYTES = 64
"""Limit on the memory that the largest of these calls takes above that of the process."""


def enumeration(seconds: float, largest: int = 32_000) -> list[Row]:
    """Compare perceptrons K-64-64, for K tasks and batches.

    Args:
        seconds: for each shape.
        largest: shapes with more tasks x batch than this are left out.
    """
    rows, auto, singly = [], Enumeration(check=False), Enumeration(chunk_size=None, check=False)
    for K, B in SHAPES:
        if largest < K * B:
            continue
        model, x = _model(K), torch.randn(B, WIDTH, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(auto(model, x).probs(), singly(model, x).probs())
        jobs = {"one by one": partial(singly, model, x)}
        limits = {"one by one": Target(1.0, at_least=True)}
        what = f"enumeration, K = {K}, batch {B}"
        rows += ratio_rows(what, partial(auto, model, x), jobs, seconds, limits, inverse=True)
    K, B = max(s for s in SHAPES if s[0] * s[1] <= largest)
    x = torch.randn(B, WIDTH)
    for name, infer in (("chunks", auto), ("one by one", singly)):
        peak = peak_memory(infer, _model(K), x)
        target = Target(MEBIBYTES) if infer is auto else None
        rows.append(Row.of("", f"{name}, K = {K}, batch {B}: peak memory in MiB", [peak], target))
    return rows


def _model(K: int) -> Any:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(K, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
    log_prior = torch.zeros(K)

    def model(x: Tensor) -> None:
        with pyro.plate("case", len(x)):
            prior = dist.OneHotCategorical(logits=log_prior)
            z = pyro.sample("z", prior, infer={"task": True})
            pyro.sample("x", dist.Normal(net(z), 0.5).to_event(1), obs=x)

    return model


def peak_memory(infer: Any, *args: Any) -> float:
    """Return what a call in a process of its own takes above what that had before, in MiB."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(send, infer, args))
    process.start()
    found: float = receive.recv()
    process.join()
    return found


def _measured(send: Any, infer: Any, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    infer(*args)
    send.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
