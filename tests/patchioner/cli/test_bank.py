"""`patchioner bank build | info | compact | index` on a tiny checkpoint."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from memory_bank import CompactionMethod, IndexOptions, MemoryBank, compact
from memory_bank.build import embed_texts
from patchioner import Patchioner
from patchioner.cli.main import main
from tests.support.tiny import DIM, TEXTS, noise_photo, tiny_parts

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    path = tmp_path / "captions.csv"
    rows = [f"{number},{text}." for number, text in enumerate((*TEXTS, TEXTS[0]))]
    path.write_text("\n".join(["id,words", *rows]))
    return path


def build(captions: Path, checkpoint: Path, out: Path, *more: str) -> int:
    words = ["--text-encoder", str(checkpoint), "--column", "words", "--device", "cpu"]
    return main(["bank", "build", str(captions), "--out", str(out), *words, *more])


def test_a_bank_is_built_and_used(
    captions: Path, checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert build(captions, checkpoint, tmp_path / "bank", "--lower", "--storage", "float32") == 0
    said = f"MemoryBank({len(TEXTS)} rows x {DIM}, float32, with texts) of 31"
    assert said in capsys.readouterr().out
    bank = MemoryBank.load(tmp_path / "bank")
    assert list(bank.texts or ()) == list(TEXTS) and bank.counts.tolist() == [2, *[1] * 29]
    model = Patchioner.from_pretrained(checkpoint, device="cpu")
    expected = F.normalize(model.embed_text(TEXTS), dim=1)
    torch.testing.assert_close(bank.embeddings(), expected, atol=1e-3, rtol=0)
    # The checkpoint's own bank has the same rows: the same captions through the new one.
    swapped = Patchioner.from_pretrained(checkpoint, device="cpu", bank=tmp_path / "bank")
    features = model.encode(noise_photo())
    assert swapped.explain(features, model.caption(features)[0].region).texts


def test_several_files_by_workers(
    captions: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one process does it, byte for byte; what is distinct is counted over all files."""

    def by_workers(make: Any, texts: Any, folder: Path, *, unit: bool, gpus: float) -> None:
        """Stands for Ray, which pickles what makes an encoder."""
        assert gpus == 0.0
        embed_texts(pickle.loads(pickle.dumps(make))(), texts, folder, unit=unit)

    monkeypatch.setattr("memory_bank.build.embed_on_ray", by_workers)
    second = tmp_path / "more.csv"
    second.write_text(captions.read_text(encoding="utf-8") + "\n40,a new one")
    for engine in ("local", "ray"):
        words = [str(second), "--text-encoder", str(checkpoint), "--column", "words"]
        out = ["--device", "cpu", "--out", str(tmp_path / engine), "--engine", engine]
        assert main(["bank", "build", str(captions), *words, *out]) == 0
        assert f"of 63 captions; {len(TEXTS) + 1} distinct" in capsys.readouterr().out
    for path in (tmp_path / "local").iterdir():
        assert path.read_bytes() == (tmp_path / "ray" / path.name).read_bytes()


def test_a_model_that_is_still_to_get_its_bank_lends_its_text_tower(
    captions: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Of a YAML file only the text tower is read: the backbone's weights need not even be there."""
    text = (
        "name: encoder\nbackbone: {type: timm, name: vit_tiny_patch16_224, weights: absent.pth}\n"
        f"text_tower: {checkpoint / 'text_tower'}\n"
    )
    (tmp_path / "encoder.yaml").write_text(text)
    assert build(captions, tmp_path / "encoder.yaml", tmp_path / "one") == 0
    assert build(captions, checkpoint, tmp_path / "other") == 0
    one, other = (MemoryBank.load(tmp_path / name).fingerprint() for name in ("one", "other"))
    assert one == other


def test_options_reach_the_build_and_a_second_one_needs_resume(
    captions: Path, checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    words = ["--sample", "20", "--rows", "6", "--raw-norms", "--no-texts", "--seed", "3"]
    assert build(captions, checkpoint, tmp_path / "bank", *words) == 0
    bank = MemoryBank.load(tmp_path / "bank")
    assert (len(bank), bank.texts, bank.dtype) == (6, None, "float16")
    assert int(bank.counts.sum()) == 20 and float(bank.norms.std()) > 0
    assert build(captions, checkpoint, tmp_path / "bank", *words) == 1
    assert "resume it" in capsys.readouterr().err
    assert build(captions, checkpoint, tmp_path / "bank", *words, "--resume") == 0


def test_a_model_without_a_text_tower_is_refused(
    captions: Path, tmp_path: Path, capsys: Capture
) -> None:
    model = Patchioner(replace(tiny_parts(), tower=None), device="cpu")
    model.save_pretrained(tmp_path / "mute")
    assert build(captions, tmp_path / "mute", tmp_path / "bank") == 1
    assert "no text tower" in capsys.readouterr().err
    assert not (tmp_path / "bank").exists()


def test_what_is_in_a_bank_and_a_damaged_one_exits_1(
    checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["bank", "info", str(checkpoint)]) == 0
    out = capsys.readouterr().out
    assert f"MemoryBank({len(TEXTS)} rows x {DIM}" in out and "stands for 30 captions" in out
    bank = MemoryBank.load(checkpoint / "memory_bank")
    assert bank.fingerprint() in out
    assert f"row 0       {TEXTS[0]}" in out and f"row 29      {TEXTS[-1]}" in out
    MemoryBank(torch.eye(2), ["one", "two"]).save(tmp_path / "two")
    assert main(["bank", "info", str(tmp_path / "two")]) == 0
    assert capsys.readouterr().out.count("row ") == 2
    (path,) = (tmp_path / "two").glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-3] ^= 0xFF
    path.write_bytes(data)
    for name in ("two", "nowhere"):
        assert main(["bank", "info", str(tmp_path / name)]) == 1
    assert capsys.readouterr().err.count("patchioner: error:") == 2


@pytest.mark.parametrize("method", ["k-means", "importance"])
def test_compacting(
    checkpoint: Path, tmp_path: Path, capsys: Capture, method: CompactionMethod
) -> None:
    words = ["--rows", "7", "--storage", "float32", "--method", method]
    assert main(["bank", "compact", str(checkpoint), str(tmp_path / "small"), *words]) == 0
    assert "7 of 30 rows" in capsys.readouterr().out
    expected = compact(MemoryBank.load(checkpoint / "memory_bank"), 7, method=method)
    small = MemoryBank.load(tmp_path / "small")
    torch.testing.assert_close(small.embeddings(), expected.embeddings())
    assert main(["bank", "compact", str(checkpoint), str(tmp_path / "small"), *words]) == 1
    assert "exists already" in capsys.readouterr().err


def test_eight_bits_and_equal_rows_merged(
    captions: Path, checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    words = ["--storage", "int8", "--merge-duplicates"]
    # Upper case goes in the tower, so these captions are other texts with equal embeddings.
    shouted = tmp_path / "shouted.csv"
    shouted.write_text(captions.read_text() + f"\n99,{TEXTS[3].upper()}.")
    assert build(shouted, checkpoint, tmp_path / "bank", *words) == 0
    bank = MemoryBank.load(tmp_path / "bank")
    assert bank.dtype == "int8" and len(bank) == len(bank.merge_duplicates())
    assert int(bank.counts.sum()) == len(TEXTS) + 2
    # Again, and it stays as it is.
    assert build(shouted, checkpoint, tmp_path / "bank", *words, "--resume") == 0
    assert MemoryBank.load(tmp_path / "bank").fingerprint() == bank.fingerprint()


def test_an_index_beside_a_bank(checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("faiss")
    MemoryBank.load(checkpoint / "memory_bank").save(tmp_path / "bank")
    words = ["--kind", "ivf", "--lists", "6", "--probes", "2"]
    assert main(["bank", "index", str(tmp_path / "bank"), *words]) == 0
    assert "ivf, 6 lists, 2 probed, 0.0 MiB" in capsys.readouterr().out
    assert main(["bank", "info", str(tmp_path / "bank")]) == 0
    assert "index      ivf, 6 lists, 2 probed" in capsys.readouterr().out
    indexed = MemoryBank.load(tmp_path / "bank")
    assert indexed.index is not None
    assert indexed.index.options == IndexOptions("ivf", lists=6, probes=2)
    assert main(["bank", "index", str(tmp_path / "bank"), "--kind", "flat"]) == 0
    assert ": flat, 0.0 MiB" in capsys.readouterr().out
    assert main(["bank", "index", str(tmp_path / "bank"), "--kind", "tree"]) == 2
    assert (
        main(["bank", "index", "patchioner-mini", "--kind", "flat"]) == 1
    )  # shipped: it stays as it is
    assert "patchioner convert patchioner-mini COPY" in capsys.readouterr().err
