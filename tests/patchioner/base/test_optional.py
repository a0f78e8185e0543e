"""Optional imports: present, missing, and broken inside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from patchioner.base import MissingExtraError, optional, require


@pytest.mark.parametrize("module", ["no_such_module_here", "no_such_module_here.inner"])
@pytest.mark.parametrize("checkout", [True, False])
def test_missing_module_tells_the_line_that_installs_it_from_here(
    module: str, checkout: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not checkout:
        monkeypatch.setattr(optional, "_ROOT", tmp_path)
    line = r"pip install -e '\.\[faiss\]'" if checkout else r"pip install 'openpatchioner\[faiss\]'"
    with pytest.raises(MissingExtraError, match=f"{module}.*{line}") as caught:
        require(module, "faiss")
    assert caught.value.name == module
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_failure_inside_an_installed_module_passes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_inside_module.py").write_text("import another_missing_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="another_missing_module") as caught:
        require("broken_inside_module", "faiss")
    assert not isinstance(caught.value, MissingExtraError)


@pytest.mark.parametrize("name", ["decoders.py", "memory_bank.py", "decoders/__init__.py"])
@pytest.mark.parametrize("first", ["patchioner", "patchioner.cli.main", "the module"])
def test_a_users_own_module_of_our_name_is_named(tmp_path: Path, name: str, first: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    module = name.split("/")[0].removesuffix(".py")
    script = tmp_path / "script.py"
    script.write_text(
        f"import {module}, patchioner" if first == "the module" else f"import {first}"
    )
    root = Path(optional.__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, str(script)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and str(tmp_path / name) in last and "rename" in last
