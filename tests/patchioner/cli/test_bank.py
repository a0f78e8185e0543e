"""`patchioner bank build | info | compact | index` on a tiny checkpoint."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from memory_bank import IndexOptions, MemoryBank, compact
from memory_bank.build import embed_texts
from patchioner import Patchioner, WholeImage
from tests.patchioner.cli.conftest import Command
from tests.support import MonkeyPatch
from tests.support.tiny import DIM, TEXTS, noise_photo, tiny_parts

BUILD = "bank build captions.csv --column words --device cpu"
TINY = f"{BUILD} --text-encoder tiny --out"


@pytest.fixture(autouse=True)
def captions(desk: Path) -> None:
    rows = [f"{number},{text}." for number, text in enumerate((*TEXTS, TEXTS[0]))]
    Path("captions.csv").write_text("\n".join(["id,words", *rows]))


def test_a_bank_is_built_and_used(command: Command) -> None:
    done = command(f"{TINY} bank --lower --storage float32")
    said = f"MemoryBank({len(TEXTS)} rows x {DIM}, float32, with texts) of 31"
    assert done.status == 0 and said in done.out
    bank = MemoryBank.load("bank")
    assert list(bank.texts or ()) == list(TEXTS) and bank.counts.tolist() == [2, *[1] * 29]
    model = Patchioner.from_pretrained("tiny", device="cpu", bank="bank")
    expected = F.normalize(model.embed_text(TEXTS), dim=1)
    torch.testing.assert_close(bank.embeddings(), expected, atol=1e-3, rtol=0)
    assert model.explain(model.encode(noise_photo()), WholeImage()).texts


def test_files_by_workers(command: Command, monkeypatch: MonkeyPatch) -> None:
    """As one process does it, byte for byte; what is distinct is counted over all files."""

    def by_workers(make: Any, texts: Any, folder: Path, *, unit: bool, **how: Any) -> None:
        """Stands for Ray, which pickles what makes an encoder."""
        assert how == {"workers": 3, "device": "cpu"}
        embed_texts(pickle.loads(pickle.dumps(make))(), texts, folder, unit=unit)

    monkeypatch.setattr("memory_bank.build.embed_on_ray", by_workers)
    Path("more.csv").write_text(Path("captions.csv").read_text() + "\n40,a new one")
    for engine in ("local", "ray:3"):
        files = TINY.replace("captions.csv", "captions.csv more.csv")
        done = command(f"{files} {engine} --engine {engine}")
        assert f"of 63 captions; {len(TEXTS) + 1} distinct" in done.out
    for path in Path("local").iterdir():
        assert path.read_bytes() == Path("ray:3", path.name).read_bytes()


def test_a_yaml_file_lends_its_text_tower_alone(command: Command) -> None:
    """The backbone's weights need not even be there."""
    Path("encoder.yaml").write_text(
        "name: encoder\nbackbone: {type: timm, name: vit_tiny_patch16_224, weights: absent.pth}\n"
        "text_tower: tiny/text_tower\n"
    )
    assert command(f"{BUILD} --text-encoder encoder.yaml --out one").status == 0
    assert command(f"{TINY} other").status == 0
    assert MemoryBank.load("one").fingerprint() == MemoryBank.load("other").fingerprint()
    Patchioner(replace(tiny_parts(), tower=None), device="cpu").save_pretrained("mute")
    done = command(f"{BUILD} --text-encoder mute --out bank")
    assert done.status == 1 and "no text tower" in done.err and not Path("bank").exists()


def test_options_reach_the_build_that_a_second_one_resumes(command: Command) -> None:
    line = f"{TINY} bank --sample 20 --rows 6 --raw-norms --no-texts --seed 3"
    assert command(line).status == 0
    bank = MemoryBank.load("bank")
    assert (len(bank), bank.texts, bank.dtype) == (6, None, "float16")
    assert int(bank.counts.sum()) == 20 and float(bank.norms.std()) > 0
    again = command(line)
    assert again.status == 1 and "resume it" in again.err
    assert command(f"{line} --resume").status == 0


def test_what_is_in_a_bank_and_a_damaged_one_exits_1(command: Command) -> None:
    out = command("bank info tiny").out
    assert f"MemoryBank({len(TEXTS)} rows x {DIM}" in out and "stands for 30 captions" in out
    assert MemoryBank.load("tiny/memory_bank").fingerprint() in out
    assert f"row 0       {TEXTS[0]}" in out and f"row 29      {TEXTS[-1]}" in out
    MemoryBank(torch.eye(2), ["one", "two"]).save("two")
    (path,) = Path("two").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-3] + b"???")
    for name in ("two", "nowhere"):
        done = command(f"bank info {name}")
        assert done.status == 1 and done.err.startswith("patchioner: error:")


def test_compacting(command: Command) -> None:
    line = "bank compact tiny small --rows 7 --storage float32"
    assert "7 of 30 rows" in command(line).out
    expected = compact(MemoryBank.load("tiny/memory_bank"), 7)
    torch.testing.assert_close(MemoryBank.load("small").embeddings(), expected.embeddings())
    again = command(line)
    assert again.status == 1 and "exists already" in again.err


def test_eight_bits_and_equal_rows_merged(command: Command) -> None:
    # Upper case goes in the tower, so these captions are other texts with equal embeddings.
    with Path("captions.csv").open("a") as file:
        file.write(f"\n99,{TEXTS[3].upper()}.")
    for more in ("", "--resume"):
        assert command(f"{TINY} bank --storage int8 --merge-duplicates {more}").status == 0
        bank = MemoryBank.load("bank")
        assert bank.dtype == "int8" and len(bank) == len(bank.merge_duplicates())
        assert int(bank.counts.sum()) == len(TEXTS) + 2


def test_an_index_beside_a_bank(command: Command) -> None:
    pytest.importorskip("faiss")
    MemoryBank.load("tiny/memory_bank").save("bank")
    built = command("bank index bank --kind ivf --lists 6 --probes 2")
    assert "ivf, 6 lists, 2 probed, 0.0 MiB" in built.out
    assert "index      ivf, 6 lists, 2 probed" in command("bank info bank").out
    indexed = MemoryBank.load("bank")
    assert indexed.index is not None and indexed.index.options == IndexOptions("ivf", lists=6, probes=2)
    assert ": flat, 0.0 MiB" in command("bank index bank --kind flat").out
    shipped = command("bank index patchioner-mini --kind flat")  # which stays as it is
    assert shipped.status == 1 and "patchioner convert patchioner-mini COPY" in shipped.err
