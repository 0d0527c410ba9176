import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import fake_device as fake

fake.register()  # before the first backward pass of the process: torch counts devices then


@pytest.fixture
def fake_device() -> torch.device:
    """The device that computes on the CPU and raises what CUDA raises."""
    return torch.device(fake.NAME, 0)


@pytest.fixture(params=["fake", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The fake device, and the GPU of this machine if there is one."""
    return torch.device(request.param, 0)
