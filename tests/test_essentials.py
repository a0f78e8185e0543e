"""What has to work with the lowest releases that setup.cfg names as with the newest (`.ci/run` runs both)."""

from __future__ import annotations

import os
import subprocess
import sys
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.version import Version

from patchioner import Box, Patchioner, WholeImage

ROOT = Path(__file__).resolve().parents[1]


def test_a_caption(shipped: Patchioner) -> None:
    rows, columns = np.mgrid[:120, :160]
    photo = np.stack([rows * 2, columns, (rows // 20 + columns // 20) % 2 * 200], -1)
    found = shipped.caption(photo.astype(np.uint8), [WholeImage(), Box(10, 10, 90, 90)])
    assert len(found) == 2 and all(one.text for one in found)


def test_a_bank(tmp_path: Path) -> None:
    from patchioner.cli.main import main

    captions = tmp_path / "captions.txt"
    captions.write_text("".join(f"a photo of {count} dogs on grass\n" for count in range(2, 40)))
    assert main(["bank", "build", str(captions), "--out", str(tmp_path / "bank")]) == 0
    model = Patchioner.from_pretrained(bank=tmp_path / "bank")
    why = model.explain(model.encode(np.zeros((64, 64, 3), np.uint8)), WholeImage())
    assert "dogs" in why.texts[0]


@pytest.mark.parametrize("kind", ["decap", "capdec", "viecap", "meacap"])
def test_a_published_folder(kind: str, tmp_path: Path) -> None:
    for library in ("yaml", "h5py", "open_clip", "transformers"):
        pytest.importorskip(library)
    from patchioner.checkpoints.published import read_published
    from tests.support import published
    from tests.support.tiny import noise_photo, tiny_backbone

    write: Any = getattr(published, f"write_{kind}")
    parts = read_published(write(tmp_path), backbone=tiny_backbone(mode="stretch", size=64))
    found = Patchioner(parts).caption(noise_photo(), [WholeImage(), Box(5, 5, 60, 50)])
    assert len(found) == 2 and all(np.isfinite(one.score) for one in found)


def test_every_module_but_the_servers_imports_with_what_is_installed() -> None:
    """The job of the lowest releases has few extras."""
    code = (
        "import importlib, pkgutil\n"
        "for name in ('patchioner', 'memory_bank', 'decoders'):\n"
        "    package = importlib.import_module(name)\n"
        "    for one in pkgutil.walk_packages(package.__path__, name + '.'):\n"
        "        if not one.name.endswith('__main__') and '.serve' not in one.name:\n"
        "            importlib.import_module(one.name)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.skipif(
    "PATCHIONER_LOWEST" not in os.environ, reason="for the job of the lowest releases"
)
def test_the_lowest_releases_are_those_of_setup_cfg() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    for line in config["options"]["install_requires"].split():
        name, _, least = line.partition(">=")
        found = Version(Version(metadata.version(name)).base_version)
        assert found == Version(least), name
