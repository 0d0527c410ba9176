"""The device of a run: checked before anything is computed, written down, part of the keys."""

import pytest
import torch

from studies.baselines.config import BaselinesConfig
from studies.baselines.study import BaselinesStudy
from studies.core.cache import Cache
from studies.core.device import check_device, describe_device, run_device, running_on, seeded_noise
from studies.core.runner import run

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused_in_words(name):
    with pytest.raises(ValueError, match=f"expected one of cpu.* got '{name}'"):
        check_device(name)


def test_a_study_of_small_networks_refuses_other_devices(tmp_path, monkeypatch):
    monkeypatch.setattr("studies.core.runner.check_device", torch.device)
    with pytest.raises(ValueError, match="study baselines runs on the CPU alone"):
        run(BaselinesStudy(BaselinesConfig()), tmp_path, device="cuda")


def test_the_device_holds_within_the_run_alone():
    with running_on(META):
        assert run_device() == META
    assert run_device() == CPU
    assert describe_device(run_device()) == "cpu"


def test_units_of_another_device_are_not_reused(tmp_path):
    cache = Cache(tmp_path)
    cache.write("a", {}, list[float], [1.0], 0.0)
    with running_on(META):
        assert cache.read("a", {}, list[float]) is None
        cache.write("a", {}, list[float], [2.0], 0.0)
        assert cache.read("a", {}, list[float]) == [2.0]
    assert cache.read("a", {}, list[float]) is None


def test_noise_is_seeded_and_the_global_state_stays():
    before = torch.get_rng_state()
    draws = []
    for _ in range(2):
        with seeded_noise(3, CPU):
            draws.append(torch.rand(4))
    assert torch.equal(*draws)
    assert torch.equal(before, torch.get_rng_state())
