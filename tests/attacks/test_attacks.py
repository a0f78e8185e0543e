"""Attacks and accidents, and our answer: an error in our own words, nothing executed, allocated, lost or mixed.

An attack is a file that the test writes, and a reader; the campaigns are commands (`fuzz`, `failures`, `equality`).
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import train_text_decoder
from memory_bank import read_captions
from patchioner import Mask, Patchioner, PatchionerError, Polygon, read_regions
from patchioner.backbones import TimmViT
from patchioner.base.progress import guarded
from patchioner.base.weights import load_weights
from patchioner.checkpoints.stored import read_yaml
from patchioner.cli.main import main
from patchioner.detail import DetailCaptioner
from patchioner.detail.batch import describe_many, read_photo_list
from patchioner.geometry import fit_image
from patchioner.images import load_image
from patchioner.regions import read_trace, region_weights
from tests.attacks import equality, failures, fuzz
from tests.support import Capture, MonkeyPatch
from tests.support.failing import CALLS
from tests.support.tiny import Trap, noise_photo, tiny_parts

Read = Callable[[Path], object]
SIZE = (320, 240)


def regions(path: Path) -> object:
    """Of one photo, each with its weights."""
    found = [one.region for one in read_regions(path, SIZE)]
    return region_weights(found, fit_image(SIZE, mode="stretch", size=56, patch_size=14))


def changed(name: str, **values: Any) -> Callable[[Path], object]:
    """A sound checkpoint with other values in one config; made beside the attack's file."""

    def write(path: Path) -> None:
        config = json.loads((fuzz.tiny() / name).read_text()) | values
        path.write_text(json.dumps({"name": name, "config": config}))

    return write


def model(path: Path) -> None:
    """The checkpoint that `changed` describes."""
    held = json.loads(path.read_text())
    fuzz.config(json.dumps(held["config"]).encode(), path.parent, held["name"])


def npz_bomb(path: Path) -> None:
    """12 MB that unpack to 12 GB, without the 12 MB."""
    head = b"{'descr': '|b1', 'fortran_order': False, 'shape': (12000, 1000, 1000), }"
    head += b" " * (63 - (10 + len(head)) % 64) + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("masks.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)


def tokenizer(path: Path) -> None:
    """One that Rust panics at, in place of the tower's."""
    held = json.loads((fuzz.tiny() / "text_tower/tokenizer.json").read_text())
    held["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    path.write_text(json.dumps({"name": "text_tower/tokenizer.json", "config": held}))


def crossing(path: Path) -> None:
    """A polygon of 20,000 points in disorder."""
    ring = [[(i * 7919) % 320, (i * 104729) % 240] for i in range(20_000)]
    path.write_text(json.dumps({"regions": [{"polygon": ring}]}))


def data(content: str | bytes) -> Callable[[Path], object]:
    """A file of that."""
    held = content.encode() if isinstance(content, str) else content
    return lambda path: path.write_bytes(held)


def piped(path: Path) -> None:
    """A mask that never ends."""
    os.mkfifo(path.parent / "pipe")
    path.write_text('[{"mask": "pipe"}]')


RLE = '{"mask": {"size": [16384, 16384], "counts": [0, 268435456]}}'
ATTACKS: dict[str, tuple[str, Callable[[Path], object], Read]] = {
    "pickle as regions": ("r.npy", data(pickle.dumps(Trap(Path("executed")))), regions),
    "pickle as weights": ("w.safetensors", data(pickle.dumps(Trap(Path("executed")))), load_weights),
    "pickle in an array": ("r.npy", lambda p: np.save(p, np.array([Trap(Path("executed"))])), regions),
    "pickle as a picture": ("p.png", data(pickle.dumps(Trap(Path("executed")))), load_image),
    "yaml that runs": ("c.yaml", data("!!python/object/apply:os.system ['touch executed']"), read_yaml),
    "yaml that grows": (
        "c.yaml",
        data("\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9 if i else ['1'])}]" for i in range(40)) + "\n- x"),
        read_yaml,
    ),
    "date that is none": ("c.yaml", data("a: 2024-13-45"), read_yaml),
    "deep json": ("r.json", data("[" * 100_000), regions),
    "deep trace": ("t.json", data("[" * 100_000), read_trace),
    "npz bomb": ("r.npz", npz_bomb, regions),
    "rle bomb": ("r.json", data(f'{{"regions": [{",".join([RLE] * 60)}]}}'), regions),
    "rle bomb in a set": ("r.json", data(f'[{{"set": [{",".join([RLE] * 60)}]}}]'), regions),
    "gzip bomb": ("c.txt.gz", lambda p: p.write_bytes(gzip.compress(b"a" * 2**27)), read_captions),
    "polygon in disorder": ("r.json", crossing, regions),
    "pipe as a mask": ("r.json", piped, regions),
    "pipe as a file": ("r.json", os.mkfifo, regions),
    "mask out of the folder": ("r.json", data('[{"mask": "../../etc/passwd"}]'), regions),
    "mask at an absolute path": ("r.json", data('[{"mask": "/etc/passwd"}]'), regions),
    "mask at a Windows path": ("r.json", data('[{"mask": "c:\\\\x.png"}]'), regions),
    "mask named by NUL": ("r.json", data('[{"mask": "\\u0000"}]'), regions),
    "mask named by half a character": ("r.json", data('[{"mask": "\\ud800"}]'), regions),
    "digits by the thousand": ("r.json", data(f'[{{"box": [1, 2, 3, {"9" * 5000}]}}]'), regions),
    "xml that grows": ("r.xml", data("<!DOCTYPE a [<!ENTITY b 'c'>]><annotations/>"), regions),
    "coordinates near infinity": ("r.json", data('[{"polygon": [[-1e308, 5], [1e308, 7], [50, 1e308]]}]'), regions),
    "layers by the million": ("m.json", changed("decoder/config.json", layers=10**7), model),
    "words by the billion": ("m.json", changed("decoder/config.json", vocab_size=10**9), model),
    "wide tower": ("m.json", changed("text_tower/config.json", inner=2**31), model),
    "input by the million": (
        "m.json",
        changed("backbone/config.json", preprocessing={"mode": "stretch", "size": 16 * 10**7, "patch_size": 16}),
        model,
    ),
    "weights out of the folder": ("m.json", changed("backbone/config.json", weights="../../x"), model),
    "type that cannot be hashed": ("m.json", changed("backbone/config.json", type=["a"]), model),
    "tokenizer that panics": ("m.json", tokenizer, model),
    "bank of other rows": (
        "b.json",
        lambda p: p.write_bytes((fuzz.tiny() / "memory_bank/bank.json").read_bytes().replace(b"30", b"10000000000")),
        lambda p: fuzz.bank(p.read_bytes(), p.parent, "bank.json"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack(name: str, tmp_path: Path, monkeypatch: MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    file, write, read = ATTACKS[name]
    write(tmp_path / file)
    # What hangs, hangs for good; a busy machine is slow.
    with pytest.raises(PatchionerError), fuzz.alarm(120):
        read(tmp_path / file)
    assert not (tmp_path / "executed").exists()
    assert capfd.readouterr() == ("", "")


def test_a_list_s_region_files_stay_in_its_folder(tmp_path: Path) -> None:
    names = ("../r.json", "/r.json", "\0", "\ud800")
    rows = [{"photo": "a.png", "regions": one} for one in names]
    (tmp_path / "l.json").write_text(json.dumps(rows))
    for _, reader in read_photo_list(tmp_path / "l.json"):
        assert reader is not None
        with pytest.raises(PatchionerError):
            reader(SIZE)


def test_pillow_s_warnings_stay_with_us(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    Image.fromarray(np.ones((10, 9), bool)).save(tmp_path / "m.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Mask.from_file(tmp_path / "m.png").image_size == (9, 10)


def test_a_hand_s_few_crossings_are_taken_apart() -> None:
    turn = np.linspace(0, 2 * np.pi, 6000, endpoint=False)
    ring = np.stack([160 + 100 * np.cos(turn), 120 + 100 * np.sin(2 * turn)], axis=1)
    geometry = fit_image(SIZE, mode="stretch", size=56, patch_size=14)
    assert Polygon(ring).patch_weights(geometry).sum() == pytest.approx(1)


ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def started(*command: str, **how: Any) -> subprocess.CompletedProcess[str]:
    given: dict[str, Any] = {"capture_output": True, "text": True, "env": ENVIRONMENT, **how}
    return subprocess.run(command, timeout=600, **given)


def command(words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`patchioner WORDS` through a shell; $TINY is the tiny model."""
    line = f'TINY={fuzz.tiny()}; exec "$0" -m patchioner {words}'
    return started("sh", "-c", line, sys.executable, cwd=folder)


@pytest.mark.parametrize("redirected", [">&-", ">/dev/full"], ids=["closed", "full"])
def test_without_room_for_output_it_ends_in_a_line(redirected: str, tmp_path: Path) -> None:
    noise_photo(8, 8).save(tmp_path / "p.png")
    done = command(f"caption *.png --model $TINY {redirected}", tmp_path)
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


def test_a_name_that_is_not_utf_8(tmp_path: Path, capfd: Capture) -> None:
    photo = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    noise_photo(8, 8).save(os.fsdecode(photo))
    assert main(["caption", os.fsdecode(photo), "--model", str(fuzz.tiny())]) == 0
    assert "caf" in capfd.readouterr().out


@pytest.mark.parametrize("module", ["benchmarks.region_set", "patchioner"])
def test_ctrl_c_in_the_first_moments_is_one_line(module: str) -> None:
    code = (
        "import os, signal, sys, runpy\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.argv = ['-m']; import {module.split('.')[0]}\n"
        "class Stop:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in ('torch', 'PIL', 'argparse', 'patchioner.cli.main'):\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Stop())\n"
        f"runpy.run_module('{module}', run_name='__main__', alter_sys=True)\n"
    )
    done = started(sys.executable, "-c", code)
    assert done.returncode in (130, -signal.SIGINT)
    assert done.stderr.strip().endswith("stopped")
    assert len(done.stderr.splitlines()) == 1


ESCAPES = "\x1b[31m\x07\x9b1m\u202e"


def test_terminals_are_safe(tmp_path: Path, monkeypatch: MonkeyPatch, capfd: Capture) -> None:
    """Names of files, labels, bank texts, splits and errors; of the log, of wrong usage and of the training script."""
    monkeypatch.chdir(tmp_path)
    noise_photo(60, 40).save(f"p{ESCAPES}.png")
    Path(f"q{ESCAPES}.png").write_bytes(b"no picture")
    boxes = [{"box": [1, 1, end, end], "label": ESCAPES} for end in (1, 30)]
    Path("r.json").write_text(json.dumps(boxes))
    lines = [*({"caption": f"a {ESCAPES} {word}"} for word in ("dog", "cat")), {"caption": None}]
    Path(f"c{ESCAPES}.json").write_text(json.dumps([*lines, {"split": ESCAPES}]))
    tiny = ["--model", str(fuzz.tiny())]
    photos = [f"p{ESCAPES}.png", f"q{ESCAPES}.png"]
    # With what the log says.
    built = command("bank build c* --out b --text-encoder $TINY", tmp_path)
    said = [built.stdout + built.stderr]
    for run, words in (
        (main, ["caption", *photos, "--regions", "r.json", "--labels", f"{ESCAPES};b", *tiny]),
        (main, ["caption", *photos, *tiny, f"--unknown{ESCAPES}"]),
        (main, ["bank", "info", "b"]),
        (train_text_decoder.main, ["--corpus", ESCAPES, "--out", "t"]),
    ):
        run(words)
        said.append("".join(capfd.readouterr()))
    for text in said:
        assert "1b[31m" in text
        assert not set(text) & set("\x1b\x07\x9b\u202e")


class OutOfMemoryError(RuntimeError):
    """As torch's of a GPU."""


OF_A_GPU = OutOfMemoryError("CUDA out of memory.\nTried")


@pytest.mark.parametrize(
    ("verb", "error"), [("caption", OF_A_GPU), ("batch", MemoryError()), ("detail", OF_A_GPU)]
)
def test_out_of_memory_costs_one_photo_of_a_folder(
    verb: str, error: Exception, tmp_path: Path, monkeypatch: MonkeyPatch, capfd: Capture
) -> None:
    for number, size in enumerate(((96, 64), (64, 64), (64, 96))):
        noise_photo(*size, seed=number).save(tmp_path / f"{number}.png")
    outputs, out = TimmViT.outputs, tmp_path / "out.jsonl"

    def full(self: TimmViT, pixels: torch.Tensor, grid: tuple[int, int]) -> Any:
        if grid[0] == grid[1]:
            raise error
        return outputs(self, pixels, grid)

    monkeypatch.setattr(TimmViT, "outputs", full)
    if verb == "detail":  # the command wants a calibrated model
        captioner = DetailCaptioner(Patchioner(tiny_parts(), device="cpu"), scorer=None)
        names = [str(path) for path in sorted(tmp_path.glob("*.png"))]
        ((_, failed),) = describe_many(captioner, names, out).failed
        said = str(failed)
    else:
        words = ["--json"] if verb == "caption" else ["--out", str(out)]
        assert main([verb, str(tmp_path), "--model", str(fuzz.tiny()), *words]) in (1, 3)
        said = "".join(capfd.readouterr())
    rows = said if verb == "caption" else out.read_text()
    assert sum(f"{number}.png" in row for number in (0, 2) for row in rows.splitlines()) >= 2
    assert "out of memory" in said + rows


@pytest.mark.parametrize("error", [MemoryError(), OF_A_GPU])
def test_a_command_that_runs_out_of_memory_ends_in_a_line(error: Exception, capfd: Capture) -> None:
    def work() -> None:
        raise error

    assert guarded(work, "p: ") == 1
    assert capfd.readouterr().err.startswith("p: error: out of memory")
    with pytest.raises(RuntimeError, match="a bug"):
        guarded(lambda: (_ for _ in ()).throw(RuntimeError("a bug")))


def test_broken_inputs_end_in_a_value_or_an_error_of_ours() -> None:
    ends, wrong = fuzz.campaign(count=150, seconds=60, seed=7)
    assert wrong == []
    assert min(ends["value"], ends["refused"]) > 0


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("work", failures.WORKS)
def test_a_failure_of_the_system_loses_nothing(work: str, kind: str) -> None:
    steps = {"rename": 23, "fsync": 23, "allocation": 499}
    made = failures.campaign(work, kind, step=steps.get(kind, 97))
    assert made > 0 or (work, kind) == ("detail", "rename")  # its rows are appended


def test_a_kill_loses_nothing() -> None:
    """By the command: a child of a process whose torch has had threads waits for them for ever."""
    works = ["save", "bank", "detail"]
    words = ["tests.attacks.failures", *works, "--kill", "--kinds", "open", "--step", "151"]
    done = started(sys.executable, "-m", *words)
    assert done.returncode == 0, done.stderr
    made = [int(line.split(": ")[1].split()[0]) for line in done.stdout.splitlines()[:-1]]
    assert len(made) == len(works) and min(made) > 0


def test_captions_do_not_depend_on_what_makes_them_fast() -> None:
    found = equality.differing(tiny_parts(), noise_photo(), 36)
    assert found and not any(found.values())
