"""The published config.yaml, key by key; the files around it; HDF5 banks: rows, lengths and texts, damage named."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import h5py
import huggingface_hub
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from patchioner.base.errors import CheckpointError, MemoryBankError
from patchioner.checkpoints.published import files as reading
from patchioner.checkpoints.published.files import PublishedConfig, PublishedFiles, read_bank
from tests.support import MonkeyPatch, randn
from tests.support.published import DIM, as_hub_snapshot, memory, write_bank, write_config

LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {}, "chunked": {"chunks": (4, 8)}, "compressed": {"chunks": (4, 8), "compression": "gzip"},
    "half": {"dtype": "float16"}, "big endian": {"dtype": ">f4"},
}  # fmt: skip
ROWS = np.ones((3, 4), np.float32)


def written(tmp_path: Path, layout: str = "contiguous") -> Path:
    """A bank of 10 rows with an unfilled one among them and two at its end."""
    rows, texts = memory()
    rows = torch.cat([rows[:3], torch.zeros(1, DIM), rows[3:]])
    texts = [*texts[:3], "of no row", *texts[3:]]
    write_bank(tmp_path / "bank.h5", rows, texts, 13, **LAYOUTS[layout])
    return tmp_path / "bank.h5"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_lengths_and_texts(tmp_path: Path, layout: str) -> None:
    embeddings, texts = memory()
    path, error = written(tmp_path, layout), 1e-3 if layout == "half" else 1e-6
    before = path.read_bytes()
    for unit, expected in ((False, embeddings), (True, F.normalize(embeddings, dim=1))):
        bank = read_bank(path, dim=DIM, unit_rows=unit)
        assert list(bank.texts or ()) == texts  # those of zero rows are gone
        torch.testing.assert_close(bank.embeddings(), expected, rtol=error, atol=error)
    assert path.read_bytes() == before
    path.write_bytes(before[:100])  # the bank holds its rows itself
    assert bank.project(torch.ones(1, DIM)).isfinite().all()


def test_dinotxt_columns(tmp_path: Path) -> None:
    rows = randn(3, 2048, seed=1)
    write_bank(tmp_path / "b.h5", rows, ["a", "b", "c"], 3)
    bank = read_bank(tmp_path / "b.h5", dim=1024)
    torch.testing.assert_close(bank.embeddings(), rows[:, 1024:], rtol=1e-5, atol=1e-5)
    assert read_bank(tmp_path / "b.h5", dim=2048).dim == 2048


@pytest.mark.parametrize("layout", ["contiguous", "compressed"])
def test_a_file_cut_short(tmp_path: Path, layout: str) -> None:
    path = written(tmp_path, layout)
    data = path.read_bytes()
    for kept in (0.0, 0.3, 0.6, 0.95):
        path.write_bytes(data[: int(kept * len(data))])
        with pytest.raises(MemoryBankError, match="bank.h5: cut short"):
            read_bank(path)


@pytest.mark.parametrize(
    ("datasets", "said"),
    [
        (None, "no such memory bank"),
        (b"not HDF5", "no HDF5 memory bank"),
        ({"weights": np.ones(3)}, "found none among weights"),
        ({"coco-embeddings": ROWS}, "no dataset 'coco-text'"),
        ({"coco-embeddings": ROWS, "coco-text": [b"a", b"b"]}, "3 rows, but texts of shape"),
        ({"coco-embeddings": ROWS, "coco-text": [1, 2, 3]}, "'coco-text' is int64, not texts"),
        ({"coco-embeddings": ROWS * np.nan, "coco-text": [b"a"] * 3}, "rows that are not finite"),
        ({"coco-embeddings": ROWS, "coco-text": [b"a"] * 3}, "width 4, .*prefix_size 768"),
    ],
)
def test_files_of_something_else(tmp_path: Path, datasets: Any, said: str) -> None:
    path = tmp_path / "bank.h5"
    if isinstance(datasets, bytes):
        path.write_bytes(datasets)
    elif datasets is not None:
        with h5py.File(path, "w") as file:
            file.update(datasets)
    with pytest.raises(MemoryBankError, match=f"bank.h5: .*{said}"):
        read_bank(path, dim=768 if "768" in said else 4)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "coco_captions_text_embeddings-B16-ViT-B.16-500000.h5"),
        ({"dino_model": "vit_base_patch16_clip_224.openai", "use_talk2dino_project": False},
         "clip-coco_captions_text_embeddings-ViT-B.16-500000.h5"),
        ({"talk2dino_attn_type": "kkv", "linear_talk2dino": True},
         "coco_captions_text_embeddings_kkv-B16-linear-ViT-B.16-500000.h5"),
        ({"projection_type": "/data/dataset_karpathy.json"}, "coco_captions_text_embeddings-B16-ViT-B.16-500000.h5"),
    ],
)  # fmt: skip
def test_file_names(values: dict[str, Any], name: str) -> None:
    config = PublishedConfig(768, 500000, **{"dino_model": "dinov2_vitb14_reg", **values})
    assert reading.bank_file_name(config) == name


def test_the_only_bank_in_the_folder_is_the_bank(tmp_path: Path) -> None:
    write_config(tmp_path)
    files, config = PublishedFiles.of(tmp_path), PublishedConfig(64, 9, dino_model="dinov2_vitb14")
    with pytest.raises(CheckpointError, match="memory bank 'coco_captions.*-9.h5' is not beside"):
        reading.find_bank(files, config)
    (tmp_path / "mine.h5").touch()
    assert reading.find_bank(files, config).name == "mine.h5"
    own = tmp_path / reading.bank_file_name(config)
    own.touch()
    assert reading.find_bank(files, config) == own
    own.rename(tmp_path / "other.h5")
    with pytest.raises(CheckpointError, match="which of mine.h5, other.h5"):
        reading.find_bank(files, config)


def test_keys_that_are_null_are_not_given(tmp_path: Path) -> None:
    absent = "".join(f"{key}: null\n" for key in ("viecap", "alphaclip_config", "clipcap"))
    (tmp_path / "a.yaml").write_text(f"prefix_size: 768\nsupport_memory_size: 0\n{absent}")
    assert reading.read_config(tmp_path / "a.yaml") == PublishedConfig(768, 0)


def test_where_files_are_looked_up(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    failure = ConnectionError("no route\nand much more")
    download = Mock(side_effect=[str(tmp_path / "b.pt"), failure, failure])
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    files = PublishedFiles.of(write_config(tmp_path / "model"), "owner/model")
    (tmp_path / "weights").mkdir()
    for folder in ("model", "weights"):
        (tmp_path / folder / "a.pt").touch()
    for given, place in (
        ("/raid/somebody/a.pt", "model/a.pt"), ("..\\somebody\\a.pt", "model/a.pt"),
        ("../weights/a.pt", "weights/a.pt"), ("/raid/b.pt", "b.pt"),
    ):  # fmt: skip
        assert files.find(given, "decoder").resolve() == tmp_path / place
    download.assert_called_once_with("owner/model", "b.pt")
    for name in ("c.pt", ""):
        with pytest.raises(CheckpointError, match=f"'{name}' is not beside .*no route") as caught:
            files.find(name, "decoder")
        assert "\n" not in str(caught.value)


def test_a_name_out_of_a_config_is_no_pattern(tmp_path: Path) -> None:
    files = PublishedFiles.of(write_config(tmp_path))
    (tmp_path / "other.pth").touch()
    for given in ("weights[1]", "/raid/x/**", "a?b", "[", "../../up", "C:\\x\\y"):
        assert files.any_of([f"{reading.as_pattern(given)}.pth"]) is None
        wanted = tmp_path / f"{reading.base_name(given)}.pth"
        wanted.touch()
        assert files.any_of([f"{reading.as_pattern(given)}.pth"]) == wanted


def test_names(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "mine")
    assert PublishedFiles.of(folder).name == "mine"
    write_config(tmp_path / "mine", "mlp.k.yaml")
    assert PublishedFiles.of(folder / "mlp.k.yaml").name == "mlp.k"
    snapshot = as_hub_snapshot(folder, tmp_path / "cache", "owner/mine")
    assert PublishedFiles.of(snapshot).name == "owner/mine"
