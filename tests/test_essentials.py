"""What has to work with the lowest releases that setup.cfg names as with the newest (`.ci/run` runs both)."""

import importlib
import os
import pkgutil
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.version import Version

from patchioner import Box, Patchioner, WholeImage
from tests.support.tiny import noise_photo

ROOT = Path(__file__).resolve().parents[1]


def test_a_caption_and_a_bank(tmp_path: Path) -> None:
    from patchioner.cli import main

    captions = tmp_path / "captions.txt"
    captions.write_text("".join(f"a photo of {count} dogs on grass\n" for count in range(2, 40)))
    assert main(["bank", "build", str(captions), "--out", str(tmp_path / "bank")]) == 0
    model = Patchioner.from_pretrained(bank=tmp_path / "bank")
    features = model.encode(noise_photo())
    found = model.caption(features, [WholeImage(), Box(10, 10, 60, 60)])
    assert len(found) == 2 and all(one.text for one in found)
    assert "dogs" in model.explain(features, WholeImage()).texts[0]


@pytest.mark.parametrize("kind", ["decap", "capdec", "viecap", "meacap"])
def test_a_published_folder(kind: str, tmp_path: Path) -> None:
    for library in ("yaml", "h5py", "open_clip", "transformers"):
        pytest.importorskip(library)
    from patchioner.checkpoints.published import read_published
    from tests.support import published
    from tests.support.tiny import tiny_backbone

    write: Any = getattr(published, f"write_{kind}")
    parts = read_published(write(tmp_path), backbone=tiny_backbone(mode="stretch", size=64))
    found = Patchioner(parts).caption(noise_photo(), [WholeImage(), Box(5, 5, 60, 50)])
    assert len(found) == 2 and all(np.isfinite(one.score) for one in found)


def test_every_module_but_the_servers_imports_with_what_is_installed() -> None:
    """The job of the lowest releases has few extras."""
    for name in ("patchioner", "memory_bank", "decoders"):
        package = importlib.import_module(name)
        for one in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not one.name.endswith("__main__") and ".serve" not in one.name:
                importlib.import_module(one.name)


@pytest.mark.skipif("PATCHIONER_LOWEST" not in os.environ, reason="for the lowest releases")
def test_the_lowest_releases_are_those_of_setup_cfg() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    for line in config["options"]["install_requires"].split():
        name, _, least = line.partition(">=")
        assert Version(metadata.version(name).partition("+")[0]) == Version(least), name
