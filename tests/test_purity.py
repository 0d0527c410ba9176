import contextlib
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroParam
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK
from pyro_models import TASK, gaussian
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_pre_hooks

from gbi_pyro import (
    Enumeration,
    IterativeGradient,
    OneStepGradient,
    TaskSiteError,
    find_task_sites,
    purity,
    relaxed_log_joint,
)
from gbi_pyro.learning.m_step import task_table
from gbi_pyro.purity import ONE_MODEL, module_of, pure

X = torch.tensor([[0.1], [0.7], [0.4], [0.9]])


class BoomError(Exception):
    """Raised by a model in the middle of its run."""


class Network(PyroModule):
    """Everything that a run can move: batch statistics, dropout, draws, parameters."""

    def __init__(self, boom: bool = False) -> None:
        super().__init__()
        self.boom = boom
        self.body = nn.Sequential(
            nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1)
        )
        self.sigma = PyroParam(torch.tensor(0.3), constraint=dist.constraints.positive)

    def model(self, x: Tensor) -> None:
        pyro.param("shift", torch.tensor(1.0), constraint=dist.constraints.positive)
        noise = torch.rand(()) + float(np.random.rand()) + random.random()  # noqa: NPY002
        with pyro.plate("sequence", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.tensor([0.3, 0.7])), infer=TASK)
            mean = self.body(z.reshape(-1, 2)).reshape(z.shape[:-1])
            if self.boom:
                raise BoomError
            pyro.sample("x", dist.Normal(mean + 0.01 * noise, self.sigma), obs=x[:, 0])

    forward = model


def as_module(net: Network) -> Callable[..., Any]:
    return net


def as_method(net: Network) -> Callable[..., Any]:
    return net.model


def as_partial(net: Network) -> Callable[..., Any]:
    return partial(net.model)


def as_closure(net: Network) -> Callable[..., Any]:
    return lambda x: net.model(x)


def with_handler(net: Network) -> Callable[..., Any]:
    return poutine.scale(net.model, scale=0.5)


CALLS: dict[str, Callable[..., Any]] = {
    "find_task_sites": find_task_sites,
    "relaxed_log_joint": lambda m, x: relaxed_log_joint(m, {"z": torch.full((4, 2), 0.5)}, x),
    "one step": OneStepGradient(),
    "second order": OneStepGradient(order=2),
    "enumeration": Enumeration(),
    "chunked enumeration": Enumeration(chunk_size=1, check=False),
    "iteration": IterativeGradient(num_steps=3),
}


def everything(net: Network) -> dict[str, Any]:
    """All that a run could change, as values that compare."""
    store = pyro.get_param_store()
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "names": list(store.keys()),
        "identity": {n: id(p) for n, p in store._params.items()},
        "values": {n: p.detach().clone().tolist() for n, p in store._params.items()},
        "constraints": {n: str(c) for n, c in store._constraints.items()},
        "weights": {n: (id(p), p.detach().tolist()) for n, p in net.named_parameters()},
        "grads": {
            n: None if p.grad is None else (id(p.grad), p.grad.tolist())
            for n, p in net.named_parameters()
        },
        "requires_grad": {n: p.requires_grad for n, p in net.named_parameters()},
        "buffers": {n: (id(b), b.tolist()) for n, b in net.named_buffers()},
        "training": {n: m.training for n, m in net.named_modules()},
        "torch": torch.get_rng_state().tolist(),
        "numpy": (numpy_state["state"]["pos"], numpy_state["state"]["key"].tolist()),
        "python": random.getstate(),
        "settings": pyro.settings.get(),
        "validation": torch.distributions.Distribution._validate_args,
        "handlers": list(_PYRO_STACK),
        "dimensions": list(_DIM_ALLOCATOR._stack),
        "hooks": len(_global_forward_pre_hooks),
        "flags": (
            torch.backends.cudnn.enabled,
            torch.backends.mkldnn.enabled,
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
        ),
    }


def assert_untouched(before: dict[str, Any], net: Network) -> None:
    after = everything(net)
    changed = [key for key in before if before[key] != after[key]]
    assert not changed


@pytest.mark.parametrize("boom", [False, True], ids=["", "raises"])
@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
@pytest.mark.parametrize(
    "wrap", [as_module, as_method, as_partial, as_closure, with_handler], ids=lambda w: w.__name__
)
@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_inference_leaves_everything_as_it_was(
    call: Callable[..., Any], wrap: Callable[[Network], Callable[..., Any]], mode: str, boom: bool
) -> None:
    net = Network(boom)
    net.train(mode == "train")
    if mode == "mixed":  # batch statistics move though the network as a whole is in eval mode
        net.body[1].train()
    pyro.param("somebody else's", torch.tensor([1.0, 2.0]))
    net.body[0].weight.grad = torch.ones(8, 2)
    net.body[4].bias.requires_grad_(mode == "train")  # (of frozen ones in training Pyro warns)
    before = everything(net)
    raises = pytest.raises(BoomError) if boom else contextlib.suppress(TaskSiteError)
    with raises:  # (elements influence each other through batch statistics: enumeration says so)
        call(wrap(net), X)
    assert_untouched(before, net)


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_parameters_that_the_store_holds_already_are_kept(call: Callable[..., Any]) -> None:
    net = Network().eval()
    net(X)
    before = everything(net)
    assert before["names"]
    call(net, X)
    call(net, X)
    assert_untouched(before, net)


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_handlers_outside_see_nothing(call: Callable[..., Any]) -> None:
    net = Network().eval()
    with poutine.trace() as outer:
        call(net, X)
    assert not set(outer.trace.nodes) - {"_INPUT", "_RETURN"}


@pytest.mark.parametrize("name", ["outer", "sequence"])
@pytest.mark.parametrize(
    "infer", [OneStepGradient(), OneStepGradient(order=2), Enumeration(), IterativeGradient(3)]
)
def test_a_plate_outside_changes_nothing(infer: Callable[..., Any], name: str) -> None:
    args = (torch.tensor([0.3, 0.7]), torch.tensor([0.0, 1.0]), 0.5, torch.zeros(2))
    expected = infer(gaussian, *args)
    with pyro.plate(name, 5):
        inside = infer(gaussian, *args)
        assert pyro.sample("w", dist.Normal(0.0, 1.0)).shape == (5,)  # the plate goes on
    assert torch.equal(inside.probs(), expected.probs())
    assert not _DIM_ALLOCATOR._stack or set(_DIM_ALLOCATOR._stack) == {None}


@pytest.mark.parametrize("order", [1, 2])
def test_no_gradient_mode_outside_does_not_hinder(order: int) -> None:
    args = (torch.tensor([0.3, 0.7]), torch.tensor([0.0, 1.0]), 0.5, torch.zeros(2))
    expected = OneStepGradient(order=order)(gaussian, *args)
    with torch.no_grad():
        quiet = OneStepGradient(order=order)(gaussian, *args)
    assert torch.equal(quiet.probs(), expected.probs())


def test_results_hold_no_graph() -> None:
    net = Network().eval()
    for infer in (OneStepGradient(), OneStepGradient(order=2), Enumeration()):
        posterior = infer(net, X)
        assert not posterior.probs().requires_grad
        assert not posterior.sites["z"].log_prior.requires_grad


def test_the_same_draws_are_seen_by_every_run() -> None:
    """A model with noise of its own is one fixed model during one inference."""
    net = Network().eval()
    first, second = (OneStepGradient()(net, X) for _ in range(2))
    assert torch.equal(first.probs(), second.probs())


def test_weights_are_constants_inside() -> None:
    net = Network()
    with pure(net, freeze=True):
        assert not any(p.requires_grad for p in net.parameters())
    assert all(p.requires_grad for p in net.parameters())


def test_an_lstm_has_second_derivatives_in_eval_mode() -> None:
    """OneDNN's and cuDNN's kernels have none; the flags come back."""
    lstm, head = nn.LSTM(2, 4).eval(), nn.Linear(4, 1).eval()

    def model() -> None:
        with pyro.plate("sequence", 3):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer=TASK)
            out = head(lstm(z.reshape(1, 3, 2))[0]).reshape(3)
            pyro.sample("x", dist.Normal(out, 0.5), obs=torch.tensor([0.1, 0.2, 0.9]))

    before = torch.backends.cudnn.enabled, torch.backends.mkldnn.enabled
    assert OneStepGradient(order=2)(model).probs().isfinite().all()
    assert (torch.backends.cudnn.enabled, torch.backends.mkldnn.enabled) == before


def test_the_network_is_found_behind_its_wrappings() -> None:
    net = Network()
    for wrap in (as_module, as_method, as_partial, with_handler):
        assert module_of(wrap(net)) is net
    assert module_of(gaussian) is None


# Interrupts and threads


class At:
    """Trace function that acts before the n-th line (or instruction) run in some files."""

    def __init__(self, n: int, act: Callable[[], None], files: set[str], event: str) -> None:
        self.left, self.act, self.files, self.event = n, act, files, event

    def __call__(self, frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in self.files:
            return None
        frame.f_trace_opcodes = self.event == "opcode"
        if event == self.event:
            self.left -= 1
            if self.left == -1:
                self.act()
        return self


def interrupt() -> None:
    raise KeyboardInterrupt


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def lock_is_held() -> bool:
    """Whether a run still keeps other threads from running models."""
    with ThreadPoolExecutor(1) as elsewhere:
        if elsewhere.submit(ONE_MODEL.acquire, blocking=False).result():
            elsewhere.submit(ONE_MODEL.release).result()
            return False
    return True


@contextlib.contextmanager
def elsewhere_inside() -> Iterator[None]:
    """Let another thread run a model meanwhile."""
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with pure(gaussian):
            entered.set()
            leave.wait()

    other = threading.Thread(target=stay)
    other.start()
    entered.wait()
    try:
        yield
    finally:
        leave.set()
        other.join()


OWN = {purity.__file__}
# What enters, leaves and puts back: Python's, torch's and Pyro's.
ALSO = {
    m.__file__ for m in (contextlib, warnings, signal, torch.random, pyro.util, nn.modules.module)
}
ALSO |= {pyro.params.param_store.__file__, poutine.messenger.__file__}


@pytest.mark.parametrize("boom", [False, True], ids=["", "raises"])
@pytest.mark.parametrize(
    ("act", "files", "event"),
    [
        pytest.param(interrupt, OWN, "line", id="any exception, every own line"),
        pytest.param(ctrl_c, OWN | {contextlib.__file__}, "line", id="ctrl-c, every line"),
        pytest.param(
            ctrl_c, OWN | ALSO, "opcode", id="ctrl-c, every instruction", marks=pytest.mark.slow
        ),
    ],
)
def test_an_interrupt_leaves_nothing(
    act: Callable[[], None], files: set[str], event: str, boom: bool
) -> None:
    net = Network(boom).train()
    before, handler = everything(net), signal.getsignal(signal.SIGINT)
    filters, left, lost, n = list(warnings.filters), [], 0, 0
    while True:
        at, outside = At(n, act, files, event), sys.gettrace()
        raised: BaseException | None = None  # kept, so that no garbage collection tidies up
        sys.settrace(at)
        try:
            with pure(net, freeze=True):
                net(X)
        except (KeyboardInterrupt, BoomError) as error:
            raised = error
        finally:
            sys.settrace(outside)
        if at.left >= 0:  # it ran to the end before
            break
        after = everything(net)
        left += [f"{n}: {key}" for key in before if before[key] != after[key]]
        left += [f"{n}: warnings"] * (warnings.filters != filters)
        left += [f"{n}: signal"] * (signal.getsignal(signal.SIGINT) is not handler)
        left += [f"{n}: lock"] * lock_is_held()
        lost += not isinstance(raised, KeyboardInterrupt)
        n += 1
    print(f"\n{event}s at which it was interrupted: {n}; left something: {len(left)}; lost: {lost}")
    assert n > 50
    assert not left
    assert not lost


def test_ctrl_c_inside_a_model_stops_it_at_once() -> None:
    reached = []

    def model() -> None:
        ctrl_c()
        reached.append(True)

    with pytest.raises(KeyboardInterrupt), pure(model):
        model()
    assert not reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_users_own_is_left_alone() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        mine = signal.getsignal(signal.SIGINT)
        with pure(gaussian):
            assert signal.getsignal(signal.SIGINT) is mine
            ctrl_c()
        assert seen == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def in_threads(num_threads: int, total: int) -> None:
    """Infer in several threads at once; each result is that of one thread alone."""
    prior, means = torch.tensor([0.3, 0.7]).log(), torch.tensor([0.0, 1.0])
    data = torch.randn(num_threads, 5, generator=torch.Generator().manual_seed(0))
    inferences = [OneStepGradient(), Enumeration(), Enumeration(chunk_size=2)]
    expected = [[f(gaussian, x, means, 0.5, prior).probs() for f in inferences] for x in data]

    def work(i: int) -> int:
        which = i % num_threads
        found = inferences[i % 3](gaussian, data[which], means, 0.5, prior).probs()
        return int(torch.equal(found, expected[which][i % 3]))

    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(num_threads) as pool:
            right = sum(pool.map(work, range(total)))
    finally:
        sys.setswitchinterval(switching)
    print(f"\n{right} of {total} inferences in {num_threads} threads are right")
    assert right == total
    assert not _PYRO_STACK
    assert not _DIM_ALLOCATOR._stack
    assert not _global_forward_pre_hooks


def test_threads_take_turns() -> None:
    in_threads(4, 120)


@pytest.mark.slow
def test_twelve_hundred_inferences_in_four_threads() -> None:
    in_threads(4, 1200)


def test_training_in_one_thread_does_not_disturb_inference_in_another() -> None:
    prior, means, x = torch.tensor([0.3, 0.7]).log(), torch.tensor([0.0, 1.0]), torch.randn(5)
    expected = Enumeration()(gaussian, x, means, 0.5, prior).probs()
    table = task_table(gaussian, (x, means, 0.5, prior)).likelihood

    def train(_: int) -> bool:
        return torch.equal(task_table(gaussian, (x, means, 0.5, prior)).likelihood, table)

    def infer(_: int) -> bool:
        return torch.equal(Enumeration()(gaussian, x, means, 0.5, prior).probs(), expected)

    with ThreadPoolExecutor(2) as pool:
        assert all([*pool.map(lambda i: (train, infer)[i % 2](i), range(60))])


def test_inference_inside_a_model_that_is_run_is_no_deadlock() -> None:
    prior, means, x = torch.tensor([0.3, 0.7]).log(), torch.tensor([0.0, 1.0]), torch.zeros(2)
    expected = OneStepGradient()(gaussian, x, means, 0.5, prior).probs()
    with pure(gaussian), pure(gaussian):
        assert torch.equal(OneStepGradient()(gaussian, x, means, 0.5, prior).probs(), expected)
    assert not lock_is_held()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_process_does_not_wait_for_a_thread_of_its_parent() -> None:
    with elsewhere_inside():
        child = os.fork()
        if child == 0:
            os._exit(0 if ONE_MODEL.acquire(timeout=10) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert lock_is_held()


def test_a_thread_that_waits_for_its_turn_can_be_interrupted() -> None:
    with elsewhere_inside():
        threading.Timer(0.2, ctrl_c_main).start()
        with pytest.raises(KeyboardInterrupt), pure(gaussian):
            pytest.fail("two models run at once")
    assert not lock_is_held()


def ctrl_c_main() -> None:
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
