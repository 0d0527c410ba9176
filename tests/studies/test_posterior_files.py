"""The posterior that each study writes comes back from netCDF as it was, everything in it named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pytest
import torch

from gbi_pyro.data.images import load_images
from gbi_pyro.data.text import CorpusText
from studies.ablations import study as controls
from studies.ablations.study import StudyConfig as ControlsStudyConfig
from studies.unsupervised import image_study as discover_images
from studies.unsupervised import study as discover
from studies.unsupervised.config import DiscoverConfig
from studies.unsupervised_images.config import DiscoverImagesConfig
from studies.told_or_not import study as fit
from studies.told_or_not.config import FitConfig
from studies.images import study as images
from studies.images.config import ImagesConfig
from studies.language import study as language
from studies.language.config import LanguageConfig
from studies.language.texts import Texts, corpora_texts
from studies.core.run_folder import RunFolder
from studies.toy import study as toy
from studies.toy.config import ToyConfig

IMAGES = ImagesConfig(
    seeds=1, epochs=1, hidden=16, latent=8, affine_hidden=16, codes=8, iterative_steps=(1,)
)
LANGUAGE = LanguageConfig(
    seeds=1,
    jobs=1,
    draws=0,
    vocabulary_size=30,
    embedding_size=6,
    hidden_size=8,
    length=10,
    updates=2,
    updates_all=2,
    every=1,
    lengths=(1, 20),
    fit_windows=10,
    judge_windows=20,
    iterative_steps=2,
    piece=10,
    pieces=6,
)


def texts() -> list[Texts]:
    """Return three corpora that like different words."""
    draw = np.random.default_rng(0)

    def text(k: int, length: int) -> tuple[str, ...]:
        weights = 1.0 + 5.0 * (np.arange(25) % 3 == k)
        return tuple(draw.choice([f"w{i}" for i in range(25)], length, p=weights / weights.sum()))

    corpora = [
        CorpusText(name, text(k, 2000), text(k, 900), text(k, 900))
        for k, name in enumerate(("chat", "mail", "news"))
    ]
    return corpora_texts(LANGUAGE, tuple(corpora))


STUDIES: dict[str, Callable[[Path], Any]] = {
    "toy": lambda path: toy.run(ToyConfig(seeds=1).fast(), path),
    "images": lambda path: images.run(IMAGES, load_images("digits"), path),
    "language": lambda path: language.run(LANGUAGE, texts(), path),
    "discover": lambda path: discover.run(DiscoverConfig(seeds=1).fast(), path),
    "controls": lambda path: controls.run(ControlsStudyConfig.of(1).fast(), path),
    "discover images": lambda path: discover_images.run_images(
        DiscoverImagesConfig("digits", 1).fast(), load_images("digits"), path
    ),
    "fit": lambda path: fit.run(FitConfig(seeds=2).fast(), path),
}


@pytest.mark.parametrize("study", STUDIES)
def test_a_posterior_comes_back_as_it_was_written(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    written: list[az.InferenceData] = []
    write = RunFolder.write_posterior

    def recorded(self: RunFolder, data: az.InferenceData) -> None:
        written.append(data)
        write(self, data)

    monkeypatch.setattr(RunFolder, "write_posterior", recorded)
    STUDIES[study](tmp_path)
    (data,) = written
    found = az.from_netcdf(tmp_path / "posterior.nc")
    assert {"posterior", "task_probs", "constant_data"} <= set(data.groups())
    assert found.groups() == data.groups()
    for group in data.groups():
        assert found[group].identical(data[group]), group  # values, names, coordinates, attributes
        for name, variable in found[group].data_vars.items():
            assert set(variable.coords) == set(variable.dims), (group, name)
            made_up = [dim for dim in variable.dims if "_dim_" in str(dim)]
            assert not made_up, (group, name)
    assert found.attrs == data.attrs
    assert found.attrs["study"] == study.split()[0]
    assert {"method", "settings", "passes_forward", "draws_seed"} <= set(found.attrs)
