"""Files of others: wrappings come off, nothing is executed, names that do not fit are listed."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from patchioner.base.errors import CheckpointError
from patchioner.checkpoints import read_tensors, read_yaml
from tests.support import MonkeyPatch
from tests.support.tiny import Trap

ROWS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def test_wrappings_come_off(tmp_path: Path) -> None:
    prefixed = {f"module.{name}": tensor for name, tensor in ROWS.items()}
    save_file(prefixed, tmp_path / "w.safetensors")
    for held in (
        ROWS, {"state_dict": ROWS, "epoch": 3}, {"model": {"state_dict": ROWS}}, prefixed,
        {name: tensor.half() for name, tensor in ROWS.items()},
        {name: torch.nn.Parameter(tensor) for name, tensor in ROWS.items()}, None,
    ):  # fmt: skip
        torch.save(held, tmp_path / "w.pth")
        found = read_tensors(tmp_path / ("w.pth" if held else "w.safetensors"))
        torch.testing.assert_close(found, ROWS, rtol=0, atol=0)
        assert not any(tensor.requires_grad for tensor in found.values())


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({**ROWS, "module.c": torch.ones(1)}, "two files were mixed up"),
        ({**ROWS, "epoch": 3}, "'epoch' is no tensor"),
        ({}, "expected named tensors, found none"),
        ([torch.ones(1)], "expected named tensors, found list"),
        ({"a": torch.tensor([1.0, torch.inf])}, "w.pth: a has 1 values that are not finite"),
        ({"a": torch.eye(3).to_sparse()}, "w.pth: a is sparse"),
        ({"a": torch.ones(1, device="meta")}, "w.pth: a is sparse"),
        ({"a": torch.ones(1).expand(2**40)}, "w.pth: a is sparse, quantised or expanded"),
    ],
)
def test_what_is_no_state_dict(tmp_path: Path, held: object, said: str) -> None:
    path = tmp_path / "w.pth"
    torch.save(held, path)
    with pytest.raises(CheckpointError, match=said):
        read_tensors(path)
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 30):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="truncated"):
            read_tensors(path)
    with pytest.raises(CheckpointError, match="no such file"):
        read_tensors(tmp_path / "none.pth")


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_is_executed(tmp_path: Path, protocol: int) -> None:
    path, held = tmp_path / "w.pth", {**ROWS, "evil": Trap(tmp_path / "executed")}
    torch.save(held, tmp_path / "zipped.pth", pickle_protocol=protocol)
    path.write_bytes(pickle.dumps(held, protocol=protocol))
    for name in ("zipped.pth", "w.pth"):
        with pytest.raises(CheckpointError, match="nothing was executed"):
            read_tensors(tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "held",
    [
        b"a: [", b"\xff\xfe\x00", b"a: !!python/object/apply:os.mkdir ['executed']", b"? [a, b]\n: 1", b"[" * 1000,
        b"a: " + b"9" * 5000, b"a: 2000-13-45", b"!!timestamp x",
    ],
)  # fmt: skip
def test_what_is_no_plain_yaml(tmp_path: Path, monkeypatch: MonkeyPatch, held: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_bytes(held)
    with pytest.raises(CheckpointError, match="a.yaml: not a plain YAML file"):
        read_yaml(tmp_path / "a.yaml")
    assert not (tmp_path / "executed").exists()
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_yaml(path)
    path = tmp_path / "a.yaml"  # merged keys are no repeats
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: *a}\n")
    both = {"x": 1, "y": 2}
    assert read_yaml(path) == {"a": both, "b": {"x": 1, "y": 3}, "c": both}
