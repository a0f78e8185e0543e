"""What all tests share: the shipped model, loaded once, and examples that are the same in every run."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from patchioner import Patchioner

# No deadline: a busy machine is no fault. The same examples each time: a run fails for what was changed.
hypothesis.settings.register_profile(
    "steady", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("steady")
if "PYTEST_XDIST_WORKER" in os.environ:  # threads that wait for one another take the processors from the other tests
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector need not look at all of torch again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def unhurried() -> Iterator[None]:
    """No file of a test has to outlive a power cut: nothing waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session")
def shipped() -> Patchioner:
    """The model inside the package, on the CPU."""
    from patchioner import Patchioner

    return Patchioner.from_pretrained(device="cpu")


@pytest.fixture(scope="session")
def model() -> Patchioner:
    """A tiny model of random weights; nobody changes it."""
    from patchioner import Patchioner
    from tests.support.tiny import tiny_parts

    return Patchioner(tiny_parts(), device="cpu")


@pytest.fixture(scope="session")
def calibrated(model: Patchioner) -> Patchioner:
    """The same, which knows its false accepts and so describes photos."""
    from dataclasses import replace

    from patchioner import Patchioner
    from patchioner.detail.score import calibrate_model
    from tests.support.tiny import TEXTS, noise_photo

    pairs = [(noise_photo(seed=seed), (TEXTS[seed], TEXTS[seed + 6])) for seed in range(6)]
    known = {"detail": calibrate_model(model, pairs).to_json()}
    settings = replace(model.settings, calibration=known)
    return Patchioner(replace(model.parts, settings=settings), device="cpu")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder; made anew, since a file of tests may have a model of its own."""
    from patchioner import Patchioner
    from tests.support.tiny import tiny_parts

    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    Patchioner(tiny_parts(), device="cpu").save_pretrained(folder, storage="fp32")
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local Ray with room for two workers, and what it takes for a GPU, which find this checkout."""
    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    here = {"env_vars": {"PYTHONPATH": str(Path(__file__).parents[1])}}
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(num_cpus=4, num_gpus=1, runtime_env=here, **quiet)
    yield
    ray.shutdown()
