"""The Dockerfiles' steps, without Docker: copies in an empty folder, pip's RUN lines in a virtual environment."""

import json
import os
import re
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENTRIES = {"Dockerfile": ["patchioner"], "Dockerfile.serve": ["patchioner", "serve", "--host", "0.0.0.0"]}
LINES = {name: (ROOT / name).read_text(encoding="utf-8").splitlines() for name in ENTRIES}


def environment(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The folder of the build with what COPY names, and the variables of an environment that sees our libraries."""
    venv.create(tmp_path / "venv")
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # torch, pip and what builds a wheel are there already: nothing is fetched
    (site / "outside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = tmp_path / "venv" / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec {pip.parent / "python"} -m pip "$@"\n')
    pip.chmod(0o755)
    source = tmp_path / "src"
    source.mkdir()
    for line in dict.fromkeys(line for lines in LINES.values() for line in lines):
        if line.startswith("COPY"):
            *given, to = line.split()[1:]
            for file in given:
                copy = shutil.copytree if (ROOT / file).is_dir() else shutil.copy
                copy(ROOT / file, source / (file if to == "./" else to))
    path = f"{pip.parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    quick = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_BUILD_ISOLATION": "0"}  # 0: none of it
    return source, {**kept, "PATH": path, **quick}


def test_the_steps_of_the_dockerfiles_make_a_command_that_runs(tmp_path: Path) -> None:
    """A step that both have is done once."""
    source, variables = environment(tmp_path)
    steps: dict[str, None] = {}
    for name, entry in ENTRIES.items():
        found = [line.removeprefix("RUN ") for line in LINES[name] if line.startswith("RUN pip ")]
        assert len(found) == 2
        steps |= dict.fromkeys(found)
        assert f"ENTRYPOINT {json.dumps(entry)}" in LINES[name]
    how: dict[str, Any] = {"env": variables, "capture_output": True, "text": True}
    for step in steps:
        done = subprocess.run(["sh", "-c", step], cwd=source, **how)
        if done.returncode and re.search("connection|resolve|network", done.stderr, re.IGNORECASE):
            pytest.skip("no package index can be reached")
        assert done.returncode == 0, done.stderr
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    for package in ("patchioner", "decoders", "memory_bank"):  # what a wheel holds
        held = [one for one in (source / package).rglob("*.*") if one.suffix != ".pyc"]
        assert [one for one in held if not (site / one.relative_to(source)).exists()] == []
    command = [str(tmp_path / "venv" / "bin" / "patchioner"), "--version"]
    told = subprocess.run(command, cwd=tmp_path, **how)
    assert told.returncode == 0 and re.search(r"\d+\.\d+\.\d+", told.stdout), told.stderr
