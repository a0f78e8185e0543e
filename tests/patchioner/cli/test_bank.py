"""`patchioner bank build | info | compact | index` on a tiny checkpoint."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from memory_bank import CompactionMethod, IndexOptions, MemoryBank, compact
from memory_bank.build import embed_texts
from patchioner import Patchioner, WholeImage
from patchioner.cli.main import main
from tests.support import Capture, MonkeyPatch
from tests.support.tiny import DIM, TEXTS, noise_photo, tiny_parts

Build = Callable[..., int]


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """A folder with the captions, as the working directory."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{number},{text}." for number, text in enumerate((*TEXTS, TEXTS[0]))]
    Path("captions.csv").write_text("\n".join(["id,words", *rows]))


@pytest.fixture
def build(checkpoint: Path) -> Build:
    def call(*more: str, captions: str = "captions.csv", out: str = "bank", by: str = "") -> int:
        words = ["--text-encoder", by or str(checkpoint), "--column", "words", "--device", "cpu"]
        return main(["bank", "build", *captions.split(), "--out", out, *words, *more])

    return call


def test_a_bank_is_built_and_used(build: Build, checkpoint: Path, capsys: Capture) -> None:
    assert build("--lower", "--storage", "float32") == 0
    said = f"MemoryBank({len(TEXTS)} rows x {DIM}, float32, with texts) of 31"
    assert said in capsys.readouterr().out
    bank = MemoryBank.load("bank")
    assert list(bank.texts or ()) == list(TEXTS) and bank.counts.tolist() == [2, *[1] * 29]
    model = Patchioner.from_pretrained(checkpoint, device="cpu", bank="bank")
    expected = F.normalize(model.embed_text(TEXTS), dim=1)
    torch.testing.assert_close(bank.embeddings(), expected, atol=1e-3, rtol=0)
    assert model.explain(noise_photo(), WholeImage()).texts


def test_files_by_workers(build: Build, capsys: Capture, monkeypatch: MonkeyPatch) -> None:
    """As one process does it, byte for byte; what is distinct is counted over all files."""

    def by_workers(make: Any, texts: Any, folder: Path, *, unit: bool, gpus: float) -> None:
        """Stands for Ray, which pickles what makes an encoder."""
        assert gpus == 0.0
        embed_texts(pickle.loads(pickle.dumps(make))(), texts, folder, unit=unit)

    monkeypatch.setattr("memory_bank.build.embed_on_ray", by_workers)
    Path("more.csv").write_text(Path("captions.csv").read_text() + "\n40,a new one")
    for engine in ("local", "ray"):
        assert build("--engine", engine, captions="captions.csv more.csv", out=engine) == 0
        assert f"of 63 captions; {len(TEXTS) + 1} distinct" in capsys.readouterr().out
    for path in Path("local").iterdir():
        assert path.read_bytes() == Path("ray", path.name).read_bytes()


def test_a_yaml_file_lends_its_text_tower_alone(
    build: Build, checkpoint: Path, capsys: Capture
) -> None:
    """The backbone's weights need not even be there."""
    Path("encoder.yaml").write_text(
        "name: encoder\nbackbone: {type: timm, name: vit_tiny_patch16_224, weights: absent.pth}\n"
        f"text_tower: {checkpoint / 'text_tower'}\n"
    )
    assert build(by="encoder.yaml", out="one") == build(out="other") == 0
    assert MemoryBank.load("one").fingerprint() == MemoryBank.load("other").fingerprint()
    Patchioner(replace(tiny_parts(), tower=None), device="cpu").save_pretrained("mute")
    assert build(by="mute") == 1
    assert "no text tower" in capsys.readouterr().err and not Path("bank").exists()


def test_options_reach_the_build_that_a_second_one_resumes(build: Build, capsys: Capture) -> None:
    words = ["--sample", "20", "--rows", "6", "--raw-norms", "--no-texts", "--seed", "3"]
    assert build(*words) == 0
    bank = MemoryBank.load("bank")
    assert (len(bank), bank.texts, bank.dtype) == (6, None, "float16")
    assert int(bank.counts.sum()) == 20 and float(bank.norms.std()) > 0
    assert build(*words) == 1
    assert "resume it" in capsys.readouterr().err
    assert build(*words, "--resume") == 0


def test_what_is_in_a_bank_and_a_damaged_one_exits_1(checkpoint: Path, capsys: Capture) -> None:
    assert main(["bank", "info", str(checkpoint)]) == 0
    out = capsys.readouterr().out
    assert f"MemoryBank({len(TEXTS)} rows x {DIM}" in out and "stands for 30 captions" in out
    assert MemoryBank.load(checkpoint / "memory_bank").fingerprint() in out
    assert f"row 0       {TEXTS[0]}" in out and f"row 29      {TEXTS[-1]}" in out
    MemoryBank(torch.eye(2), ["one", "two"]).save("two")
    (path,) = Path("two").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-3] + b"???")
    for name in ("two", "nowhere"):
        assert main(["bank", "info", name]) == 1
    assert capsys.readouterr().err.count("patchioner: error:") == 2


@pytest.mark.parametrize("method", ["k-means", "importance"])
def test_compacting(checkpoint: Path, capsys: Capture, method: CompactionMethod) -> None:
    words = ["--rows", "7", "--storage", "float32", "--method", method]
    assert main(["bank", "compact", str(checkpoint), "small", *words]) == 0
    assert "7 of 30 rows" in capsys.readouterr().out
    expected = compact(MemoryBank.load(checkpoint / "memory_bank"), 7, method=method)
    torch.testing.assert_close(MemoryBank.load("small").embeddings(), expected.embeddings())
    assert main(["bank", "compact", str(checkpoint), "small", *words]) == 1
    assert "exists already" in capsys.readouterr().err


def test_eight_bits_and_equal_rows_merged(build: Build) -> None:
    # Upper case goes in the tower, so these captions are other texts with equal embeddings.
    with Path("captions.csv").open("a") as file:
        file.write(f"\n99,{TEXTS[3].upper()}.")
    for more in ([], ["--resume"]):
        assert build("--storage", "int8", "--merge-duplicates", *more) == 0
        bank = MemoryBank.load("bank")
        assert bank.dtype == "int8" and len(bank) == len(bank.merge_duplicates())
        assert int(bank.counts.sum()) == len(TEXTS) + 2


def test_an_index_beside_a_bank(checkpoint: Path, capsys: Capture) -> None:
    pytest.importorskip("faiss")
    MemoryBank.load(checkpoint / "memory_bank").save("bank")
    assert main(["bank", "index", "bank", "--kind", "ivf", "--lists", "6", "--probes", "2"]) == 0
    assert main(["bank", "info", "bank"]) == 0
    said = capsys.readouterr().out
    assert "ivf, 6 lists, 2 probed, 0.0 MiB" in said and "index      ivf, 6 lists, 2 probed" in said
    indexed = MemoryBank.load("bank")
    assert indexed.index is not None
    assert indexed.index.options == IndexOptions("ivf", lists=6, probes=2)
    assert main(["bank", "index", "bank", "--kind", "flat"]) == 0
    assert ": flat, 0.0 MiB" in capsys.readouterr().out
    # The shipped one stays as it is.
    assert main(["bank", "index", "patchioner-mini", "--kind", "flat"]) == 1
    assert "patchioner convert patchioner-mini COPY" in capsys.readouterr().err
