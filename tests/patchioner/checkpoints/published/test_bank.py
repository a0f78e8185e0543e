"""Published HDF5 banks: rows, lengths and texts as written; damage named."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from memory_bank import MemoryBank
from patchioner.base.errors import CheckpointError, MemoryBankError
from patchioner.checkpoints.published.bank import bank_file_name, find_bank, read_bank
from patchioner.checkpoints.published.config import PublishedConfig, PublishedFiles
from tests.support.published import DIM, memory, write_bank, write_config

LAYOUTS = {
    "contiguous": {},
    "chunked": {"chunks": (4, 8)},
    "compressed": {"chunks": (4, 8), "compression": "gzip"},
    "half": {"dtype": "float16"},
    "big endian": {"dtype": ">f4"},
}


def written(tmp_path: Path, layout: str = "contiguous") -> Path:
    """A bank of 10 rows and 3 unfilled ones."""
    embeddings, texts = memory()
    rows = np.zeros((13, DIM), np.float32)
    rows[:10] = embeddings
    options = dict(LAYOUTS[layout])
    with h5py.File(tmp_path / "bank.h5", "w") as file:
        file.create_dataset(
            "coco-embeddings", data=rows.astype(options.pop("dtype", "float32")), **options
        )
        text = file.create_dataset("coco-text", (13,), dtype=h5py.string_dtype(encoding="utf-8"))
        text[:10] = texts
    return tmp_path / "bank.h5"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_lengths_and_texts(tmp_path: Path, layout: str) -> None:
    embeddings, texts = memory()
    bank = read_bank(written(tmp_path, layout), dim=DIM)
    assert (
        list(bank.texts or ()) == texts
    )  # variable length, not ASCII alone; those of zero rows are gone
    error = 1e-3 if layout == "half" else 1e-6
    torch.testing.assert_close(bank.embeddings(), embeddings, rtol=error, atol=error)
    assert bank.norms.std() > 0.1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unit_rows_for_models_of_the_clip_family(tmp_path: Path, layout: str) -> None:
    bank = read_bank(written(tmp_path, layout), unit_rows=True)
    torch.testing.assert_close(bank.norms, torch.ones(10))
    torch.testing.assert_close(
        bank.embeddings(), torch.nn.functional.normalize(memory()[0], dim=1), rtol=1e-3, atol=1e-3
    )


def test_the_projection_equals_the_published_formula(tmp_path: Path) -> None:
    bank, (rows, _) = read_bank(written(tmp_path)), memory()
    queries = torch.randn(4, DIM, generator=torch.Generator().manual_seed(0))
    units = torch.nn.functional.normalize(queries, dim=1)
    keys = torch.nn.functional.normalize(rows, dim=1)
    expected = (units @ keys.T / 0.01).softmax(1) @ rows
    torch.testing.assert_close(
        bank.project(queries, normalize=False), expected, rtol=1e-5, atol=1e-5
    )


def test_zero_rows_in_the_middle_go_with_their_texts(tmp_path: Path) -> None:
    embeddings, texts = memory()
    embeddings[3] = 0
    write_bank(tmp_path / "b.h5", embeddings, texts)
    assert list(read_bank(tmp_path / "b.h5").texts or ()) == texts[:3] + texts[4:]


def test_the_file_is_left_as_it_was(tmp_path: Path) -> None:
    path = written(tmp_path)
    before = path.read_bytes()
    bank = read_bank(path)
    path.write_bytes(before[:100])  # the bank holds its rows itself
    assert isinstance(bank.project(torch.ones(1, DIM)), torch.Tensor)
    path.write_bytes(before)
    assert path.read_bytes() == before


def test_dinotxt_columns(tmp_path: Path) -> None:
    rows = torch.randn(3, 2048, generator=torch.Generator().manual_seed(1))
    write_bank(tmp_path / "b.h5", rows, ["a", "b", "c"])
    bank = read_bank(tmp_path / "b.h5", dim=1024)
    torch.testing.assert_close(bank.embeddings(), rows[:, 1024:], rtol=1e-5, atol=1e-5)
    assert read_bank(tmp_path / "b.h5", dim=2048).dim == 2048


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("layout", ["contiguous", "compressed"])
def test_a_file_cut_short(tmp_path: Path, kept: float, layout: str) -> None:
    path = written(tmp_path, layout)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(MemoryBankError, match="bank.h5: cut short"):
        read_bank(path)


def test_another_width_is_named(tmp_path: Path) -> None:
    with pytest.raises(MemoryBankError, match="bank.h5: rows have width 64, .*prefix_size 768"):
        read_bank(written(tmp_path), dim=768)


def test_files_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "bank.h5"
    with pytest.raises(MemoryBankError, match="no such memory bank"):
        read_bank(path)
    path.write_text("not HDF5")
    with pytest.raises(MemoryBankError, match="no HDF5 memory bank"):
        read_bank(path)
    with h5py.File(path, "w") as file:
        file["weights"] = np.ones(3)
    with pytest.raises(MemoryBankError, match="found none among weights"):
        read_bank(path)
    with h5py.File(path, "w") as file:
        file["coco-embeddings"] = np.ones((3, 4), np.float32)
    with pytest.raises(MemoryBankError, match="no dataset 'coco-text'"):
        read_bank(path)
    with h5py.File(path, "a") as file:
        file["coco-text"] = [b"a", b"b"]
    with pytest.raises(MemoryBankError, match="3 rows, but texts of shape"):
        read_bank(path)


def test_rows_that_are_not_finite_and_texts_that_are_no_texts(tmp_path: Path) -> None:
    embeddings, texts = memory()
    embeddings[2, 5] = torch.nan
    write_bank(tmp_path / "b.h5", embeddings, texts)
    with pytest.raises(MemoryBankError, match="b.h5: embedding rows that are not finite: 2"):
        read_bank(tmp_path / "b.h5")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["coco-embeddings"], file["coco-text"] = np.ones((2, 4), np.float32), [1, 2]
    with pytest.raises(MemoryBankError, match="text 0 is .*1.*not a string"):
        read_bank(tmp_path / "c.h5")


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (
            {"dino_model": "dinov2_vitb14_reg"},
            "coco_captions_text_embeddings-B16-ViT-B.16-500000.h5",
        ),
        (
            {"dino_model": "vit_base_patch16_clip_224.openai", "use_talk2dino_project": False},
            "clip-coco_captions_text_embeddings-ViT-B.16-500000.h5",
        ),
        (
            {
                "dino_model": "dinov2_vitb14_reg",
                "talk2dino_attn_type": "kkv",
                "linear_talk2dino": True,
            },
            "coco_captions_text_embeddings_kkv-B16-linear-ViT-B.16-500000.h5",
        ),
        (
            {"dino_model": "dinov2_vitb14_reg", "projection_type": "/data/dataset_karpathy.json"},
            "coco_captions_text_embeddings-B16-ViT-B.16-500000.h5",
        ),
    ],
)
def test_file_names(values: dict[str, object], name: str) -> None:
    assert bank_file_name(PublishedConfig(768, 500000, **values)) == name  # type: ignore[arg-type]


def test_the_only_bank_in_the_folder_is_the_bank(tmp_path: Path) -> None:
    write_config(tmp_path)
    files, config = PublishedFiles.of(tmp_path), PublishedConfig(64, 9, dino_model="dinov2_vitb14")
    with pytest.raises(CheckpointError, match="memory bank 'coco_captions.*-9.h5' is not beside"):
        find_bank(files, config)
    (tmp_path / "mine.h5").touch()
    assert find_bank(files, config).name == "mine.h5"
    (tmp_path / bank_file_name(config)).touch()
    assert find_bank(files, config).name == bank_file_name(config)
    (tmp_path / bank_file_name(config)).unlink()
    (tmp_path / "other.h5").touch()
    with pytest.raises(CheckpointError, match="which of mine.h5, other.h5"):
        find_bank(files, config)


def test_a_bank_is_ours_afterwards(tmp_path: Path) -> None:
    bank = read_bank(written(tmp_path))
    bank.save(tmp_path / "ours", dtype="float32")
    assert MemoryBank.load(tmp_path / "ours").fingerprint() == bank.fingerprint()
