"""The Dockerfiles' steps, without Docker: copies in an empty folder, pip's RUN lines in a virtual environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENTRIES = {
    "Dockerfile": ["patchioner"],
    "Dockerfile.serve": ["patchioner", "serve", "--host", "0.0.0.0"],
}


def lines_of(name: str) -> list[str]:
    return (ROOT / name).read_text(encoding="utf-8").splitlines()


@pytest.fixture
def image(name: str, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The folder of the build with what COPY names, and the variables of an environment that sees our libraries."""
    venv.create(tmp_path / "venv")
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # torch, pip and the rest are there already; nothing is fetched but what builds a wheel
    (site / "outside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = tmp_path / "venv" / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec {pip.parent / "python"} -m pip "$@"\n')
    pip.chmod(0o755)
    source = tmp_path / "src"
    source.mkdir()
    for line in lines_of(name):
        if line.startswith("COPY"):
            *given, to = line.split()[1:]
            for file in given:
                copy = shutil.copytree if (ROOT / file).is_dir() else shutil.copy
                copy(ROOT / file, source / (file if to == "./" else to))
    path = f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return source, {**kept, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@pytest.mark.parametrize("name", ENTRIES)
def test_the_steps_of_a_dockerfile_make_a_command_that_runs(
    name: str, image: tuple[Path, dict[str, str]]
) -> None:
    (source, environment), lines = image, lines_of(name)
    steps = [line.removeprefix("RUN ") for line in lines if line.startswith("RUN pip ")]
    assert len(steps) == 2
    for step in steps:
        done = subprocess.run(
            ["sh", "-c", step], cwd=source, env=environment, capture_output=True, text=True
        )
        if done.returncode and re.search("connection|resolve|network", done.stderr, re.IGNORECASE):
            pytest.skip("no package index can be reached")
        assert done.returncode == 0, done.stderr
    (entry,) = (line for line in lines if line.startswith("ENTRYPOINT"))
    assert json.loads(entry.removeprefix("ENTRYPOINT ")) == ENTRIES[name]
    command = [str(source.parent / "venv" / "bin" / "patchioner"), "--version"]
    told = subprocess.run(
        command, cwd=source.parent, env=environment, capture_output=True, text=True
    )
    assert told.returncode == 0 and re.search(r"\d+\.\d+\.\d+", told.stdout), told.stderr
