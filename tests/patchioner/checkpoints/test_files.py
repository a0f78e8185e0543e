"""Files of others: wrappings come off, nothing is executed, names that do not fit are listed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from patchioner.base.errors import CheckpointError
from patchioner.checkpoints.files import check_names, read_tensors, read_yaml

ROWS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


class Attack:
    """Unpickled, it would make a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def saved(tmp_path: Path, held: object) -> Path:
    torch.save(held, tmp_path / "w.pth")
    return tmp_path / "w.pth"


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == ROWS.keys() and all(
        torch.equal(found[name], ROWS[name]) for name in ROWS
    )


@pytest.mark.parametrize(
    "held",
    [
        ROWS,
        {"state_dict": ROWS, "epoch": 3},
        {"model": {"state_dict": ROWS}},
        {f"module.{name}": tensor for name, tensor in ROWS.items()},
        {name: tensor.half() for name, tensor in ROWS.items()},
        {name: torch.nn.Parameter(tensor) for name, tensor in ROWS.items()},
    ],
)
def test_wrappings_come_off(tmp_path: Path, held: dict[str, Any]) -> None:
    found = read_tensors(saved(tmp_path, held))
    assert same(found)
    assert all(t.dtype == torch.float32 and not t.requires_grad for t in found.values())


def test_safetensors_and_whole_numbers(tmp_path: Path) -> None:
    held = {f"module.{name}": tensor for name, tensor in ROWS.items()}
    save_file(held, tmp_path / "w.safetensors")
    assert same(read_tensors(tmp_path / "w.safetensors"))
    assert read_tensors(saved(tmp_path, {"n": torch.tensor(3)}))["n"].dtype == torch.int64


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({**ROWS, "module.c": torch.ones(1)}, "two files were mixed up"),
        ({**ROWS, "epoch": 3}, "'epoch' is no tensor"),
        ({}, "expected named tensors, found none"),
        ([torch.ones(1)], "expected named tensors, found list"),
        ({"a": torch.tensor([1.0, torch.inf])}, "w.pth: a has values that are not finite"),
    ],
)
def test_what_is_no_state_dict(tmp_path: Path, held: object, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        read_tensors(saved(tmp_path, held))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    path, held = tmp_path / "w.pth", {**ROWS, "evil": Attack()}
    if zipped:
        torch.save(held, path, pickle_protocol=protocol)
    else:
        path.write_bytes(pickle.dumps(held, protocol=protocol))
    with pytest.raises(CheckpointError, match="nothing was executed"):
        read_tensors(path)
    assert not (tmp_path / "executed").exists()


def test_names_that_do_not_fit_are_listed() -> None:
    with pytest.raises(CheckpointError) as caught:
        check_names(ROWS, {"a.weight": (3, 2), "b": (1,)}, "w.pth", "a thing")
    said = str(caught.value)
    assert "missing b" in said and "unexpected a.bias" in said
    assert "a.weight is (2, 3), expected (3, 2)" in said


pytest.importorskip("yaml")


def test_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: [1, 2.5, null]\nb: {c: caf\u00e9}\n", encoding="utf-8")
    assert read_yaml(path) == {"a": [1, 2.5, None], "b": {"c": "caf\u00e9"}}


@pytest.mark.parametrize(
    "held",
    [
        b"a: [",
        b"\xff\xfe\x00",
        b"a: !!python/object/apply:os.mkdir ['executed']",
        b"? [a, b]\n: 1",
        b"[" * 3000,
        b"a: " + b"9" * 5000,
        b"a: 2000-13-45",
    ],
)
def test_what_is_no_plain_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_bytes(held)
    with pytest.raises(CheckpointError, match="a.yaml: not a plain YAML file"):
        read_yaml(tmp_path / "a.yaml")
    assert not (tmp_path / "executed").exists()


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_yaml(path)
