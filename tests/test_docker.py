"""The Dockerfile's steps, without Docker: its copies in an empty folder, its RUN lines in a virtual environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINES = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def image(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The folder of the build with what COPY names, and the variables of an environment that sees our libraries."""
    venv.create(tmp_path / "venv", with_pip=True)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # torch and the rest are there already; nothing is fetched but what builds a wheel
    (site / "outside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    source = tmp_path / "src"
    source.mkdir()
    for line in LINES:
        if line.startswith("COPY"):
            *given, to = line.split()[1:]
            for name in given:
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, source / (name if to == "./" else to))
    path = f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return source, {**kept, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def test_the_steps_of_the_dockerfile_make_a_command_that_runs(
    image: tuple[Path, dict[str, str]],
) -> None:
    source, environment = image
    steps = [line.removeprefix("RUN ") for line in LINES if line.startswith("RUN ")]
    assert len(steps) == 2
    for step in steps:
        done = subprocess.run(
            ["sh", "-c", step], cwd=source, env=environment, capture_output=True, text=True
        )
        if done.returncode and re.search("connection|resolve|network", done.stderr, re.IGNORECASE):
            pytest.skip("no package index can be reached")
        assert done.returncode == 0, done.stderr
    (entry,) = (line for line in LINES if line.startswith("ENTRYPOINT"))
    assert entry == 'ENTRYPOINT ["patchioner"]'
    command = [str(source.parent / "venv" / "bin" / "patchioner"), "--version"]
    told = subprocess.run(
        command, cwd=source.parent, env=environment, capture_output=True, text=True
    )
    assert told.returncode == 0 and re.search(r"\d+\.\d+\.\d+", told.stdout), told.stderr
