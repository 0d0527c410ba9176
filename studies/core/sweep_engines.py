"""Engines: where the units of a sweep run. A unit that fails, or is killed, ends no other one."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from studies.core.sweep_units import Outcome, Unit, attempt, failed

Engine = Callable[[Iterable[Unit]], Iterator[Outcome]]
"""Gives the outcome of each unit once, as they are finished."""
ATTEMPTS = 3  # of a unit whose process is killed
PATIENCE = 30.0  # seconds that a scheduler has to answer


def in_this_process(units: Iterable[Unit]) -> Iterator[Outcome]:
    """Run units one after another."""
    return map(attempt, units)


@contextlib.contextmanager
def processes(jobs: int) -> Iterator[Engine]:
    """Run units in processes of this machine, one thread each.

    The unit of a process that is killed, for its memory for instance, is done again by another.

    Args:
        jobs: how many.
    """
    idle: list[_Process] = []
    running: dict[Any, tuple[_Process, Unit, int]] = {}

    def run(units: Iterable[Unit]) -> Iterator[Outcome]:
        todo = deque((unit, 1) for unit in units)
        while todo or running:
            while todo and len(running) < jobs:
                process = idle.pop() if idle else _Process()
                unit, attempts = todo.popleft()
                with contextlib.suppress(OSError):  # killed while it was idle: seen below
                    process.connection.send(unit)
                running[process.connection] = process, unit, attempts
            for connection in wait([*running]):
                process, unit, attempts = running.pop(connection)
                try:
                    outcome = process.connection.recv()
                except (EOFError, OSError):
                    process.end()
                    if attempts < ATTEMPTS:
                        todo.append((unit, attempts + 1))
                        continue
                    outcome = failed(unit, RuntimeError(f"its process was killed {ATTEMPTS} times"))
                else:
                    idle.append(process)
                yield outcome

    try:
        yield run
    finally:
        for process in [*idle, *(process for process, _, _ in running.values())]:
            process.end()


class _Process:
    """A process that measures the units it is sent."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self.connection, other = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(other,))
        self.process.start()
        other.close()  # so that its end is seen

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the sweep, which ends this process
    with contextlib.suppress(EOFError):
        while True:
            connection.send(attempt(connection.recv()))


@contextlib.contextmanager
def dask_workers(workers: int | None = None, scheduler: str | None = None) -> Iterator[Engine]:
    """Run units on Dask workers: of a cluster of this machine, or of the scheduler at an address.

    Args:
        workers: how many of a local cluster.
        scheduler: the address of a running one, such as ``tcp://host:8786``.

    Raises:
        ImportError: without Dask.
        OSError: where no scheduler answers.
    """
    try:
        import distributed
    except ImportError as error:
        raise ImportError(
            "--workers and --scheduler need Dask: install gbi-pyro[cluster], or use --jobs"
        ) from error
    with contextlib.ExitStack() as stack:
        address: Any = scheduler
        if scheduler is None:
            address = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=workers, threads_per_worker=1, dashboard_address=None
                )
            )
        client = stack.enter_context(distributed.Client(address, timeout=PATIENCE))

        def run(units: Iterable[Unit]) -> Iterator[Outcome]:
            futures = {client.submit(attempt, unit, pure=False): unit for unit in units}
            for future in distributed.as_completed([*futures]):
                unit = futures.pop(future)
                error = future.exception()
                yield failed(unit, error) if error else future.result()

        yield run
