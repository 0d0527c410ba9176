"""Clean state, validation on, no global left changed; warnings are errors (pyproject.toml)."""

import signal
from collections.abc import Iterator

import pyro
import pytest
import torch


def pytest_configure() -> None:
    """Have interrupts raised, which a shell has its background jobs ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked ``gpu`` where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.fixture(autouse=True)
def clean_state() -> Iterator[None]:
    """Every test starts from an empty parameter store and leaves torch's globals as they were."""
    pyro.clear_param_store()
    pyro.enable_validation(True)
    torch.set_num_threads(1)
    before = torch.get_default_dtype(), torch.is_grad_enabled()
    yield
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == before, (
        "the test left a torch global changed"
    )
    assert not pyro.poutine.runtime._PYRO_STACK, "the test left an effect handler on Pyro's stack"


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator of the test's own."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(
    params=[
        "cpu",
        pytest.param("cuda", marks=pytest.mark.gpu),
    ]
)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device that this machine has."""
    return torch.device(request.param)
