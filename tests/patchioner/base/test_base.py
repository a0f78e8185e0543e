"""The error tree, names that are close, parts and packages that are imported when they are asked for."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from patchioner.base import errors, optional
from patchioner.base.errors import CheckpointError, MissingExtraError, UnknownNameError
from patchioner.base.optional import Registry, require
from patchioner.base.progress import progress
from tests.support import Capture, MonkeyPatch

PARTS: Registry[str] = Registry("part", {"far": "far_home:FOUND", "empty": "empty_home:FOUND"})


def test_errors_are_caught_by_the_root_and_their_standard_parent() -> None:
    for parent, names in {
        ValueError: "Region RegionFile Image Checkpoint MemoryBank Decoder Text Option",
        RuntimeError: "Detail Export Futile Server", MemoryError: "OutOfMemory",
        LookupError: "UnknownName", OSError: "Hub", ImportError: "MissingExtra",
    }.items():  # fmt: skip
        for name in names.split():
            kind = getattr(errors, f"{name}Error")
            assert issubclass(kind, errors.PatchionerError) and issubclass(kind, parent)


def test_unknown_name_offers_the_close_names_and_lists_all() -> None:
    error = UnknownNameError.among("model", "patchoner-mini", ["talk2dino", "patchioner-mini"])
    assert str(pickle.loads(pickle.dumps(error))) == (
        "unknown model 'patchoner-mini': did you mean 'patchioner-mini'? Known: 'patchioner-mini', 'talk2dino'"
    )


def test_a_part_is_imported_when_it_is_asked_for(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    (tmp_path / "far_home.py").write_text("FOUND = 'found'")
    monkeypatch.syspath_prepend(tmp_path)
    assert PARTS.names() == ("empty", "far")
    assert "far_home" not in sys.modules, "asking for the names imports nothing"
    assert PARTS.get("far") == PARTS.of_config({"type": "far"}, "there.json") == "found"
    with pytest.raises(UnknownNameError, match="unknown part 'fär': did you mean 'far'"):
        PARTS.get("fär")
    for config in list[object]([None, [], {}, {"type": 3}, {"type": "three"}]):
        with pytest.raises(CheckpointError, match="there.json must name its .type.*Known: 'empty'"):
            PARTS.of_config(config, "there.json")


@pytest.mark.parametrize(
    ("module", "came", "line"),
    [
        ("no_such_module_here", None, r"pip install -e '\.\[faiss\]'"),
        ("no_such_module_here.inner", "", r"pip install 'openpatchioner\[faiss\]'"),
        ("no_such_module_here", "{}", r"pip install 'openpatchioner\[faiss\]'"),
        ("no_such_module", '{"url": "file:///usr", "dir_info": {}}', r"install '/usr\[faiss\]'"),
    ],
    ids=["a checkout", "a wheel", "an archive", "installed from a folder"],
)
def test_missing_module_tells_the_line_that_installs_it_from_here(
    module: str, came: str | None, line: str, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    if came is not None:
        monkeypatch.setattr(optional, "_ROOT", tmp_path)
        told = SimpleNamespace(read_text=lambda name: came)
        monkeypatch.setattr(optional, "distribution", lambda name: told)
    with pytest.raises(MissingExtraError, match=f"{module}.*{line}") as caught:
        require(module, "faiss")
    assert caught.value.name == module
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_fault_inside_a_module_passes_through(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    (tmp_path / "broken_inside_module.py").write_text("import another_missing_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="another_missing_module") as caught:
        require("broken_inside_module", "faiss")
    assert not isinstance(caught.value, MissingExtraError)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("decoders.py", "patchioner"),
        ("memory_bank.py", "patchioner.cli"),
        ("decoders/__init__.py", "decoders, patchioner"),
    ],
)
def test_a_users_own_module_of_our_name_is_named(tmp_path: Path, name: str, first: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    root = Path(optional.__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", f"import {first}"]  # the working folder comes first
    run = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and str(tmp_path / name) in last and "rename" in last


def test_silent_when_stderr_is_no_terminal(capsys: Capture) -> None:
    assert list(progress(range(3), description="counting")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
