"""Attacks and accidents, and our answer: an error in our own words, nothing executed, allocated, lost or mixed.

An attack is a file and a reader; `failures` is a command, too.
"""

import base64
import gzip
import io
import itertools
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch
from PIL import Image

import train_text_decoder
from decoders import load_decoder
from memory_bank import MemoryBank, read_captions
from patchioner import Patchioner, PatchionerError, Polygon
from patchioner.backbones import TimmViT
from patchioner.base.progress import guarded
from patchioner.base.weights import load_weights
from patchioner.checkpoints import read_yaml
from patchioner.checkpoints.folder import read_checkpoint
from patchioner.cli import main
from patchioner.detail import DetailCaptioner, read_reply
from patchioner.detail.batch import describe_many
from patchioner.geometry import fit_image
from patchioner.images import load_image
from patchioner.regions import Mask, read_regions, read_trace, region_weights
from tests.attacks import failures
from tests.support import Capture, MonkeyPatch
from tests.support.failing import CALLS
from tests.support.server import picture_bytes
from tests.support.tiny import Trap, noise_photo, tiny_parts

SIZE = (200, 100)
GEOMETRY = fit_image(SIZE, mode="stretch", size=56, patch_size=14)


def regions(path: Path) -> None:
    """A file of regions, with their weights."""
    region_weights([one.region for one in read_regions(path, SIZE, "a.jpg")], GEOMETRY)


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """TimeoutError within it after some seconds."""

    def late(*_: object) -> None:
        raise TimeoutError(f"over {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def part(path: Path, name: str, model: Path) -> None:
    """The file as one of a checkpoint's."""
    copy = path.parent / "model"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(model, copy)
    shutil.copy(path, copy / name)
    if name.startswith("decoder"):
        load_decoder(copy / "decoder")
    elif name.startswith("memory_bank"):
        bank = MemoryBank.load(copy / "memory_bank", memory_map=path.read_bytes()[-1:] < b"\x80")
        bank.nearest(np.ones((1, 64), np.float32), 2)
    else:
        assert read_checkpoint(copy).text_tower


def piped(path: Path) -> None:
    """A mask that never ends."""
    os.mkfifo(path.parent / "pipe")
    path.write_text('[{"mask": "pipe"}]')


CROSSING = [[(i * 7919) % 320, (i * 104729) % 240] for i in range(20_000)]
PICKLE = pickle.dumps(Trap(Path("executed")))
ATTACKS: dict[str, tuple[str, bytes | str | Callable[[Path], object], Callable[[Path], object]]] = {
    "pickle as regions": ("r.npy", PICKLE, regions),
    "pickle as weights": ("w.safetensors", PICKLE, load_weights),
    "pickle in an array": ("r.npy", lambda p: np.save(p, np.array([Trap(Path("executed"))])), regions),
    "pickle as a picture": ("p.png", PICKLE, load_image),
    "deep json": ("r.json", "[" * 100_000, regions),
    "deep trace": ("t.json", "[" * 100_000, read_trace),
    "gzip bomb": ("c.txt.gz", lambda p: p.write_bytes(gzip.compress(b"a" * 2**27)), read_captions),
    "polygon in disorder": ("r.json", json.dumps([{"polygon": CROSSING}]), regions),
    "pipe as a mask": ("r.json", piped, regions),
    "pipe as a file": ("r.json", os.mkfifo, regions),
}  # fmt: skip
for _case in sorted((Path(__file__).parent / "cases").iterdir()):
    _read: Callable[[Path], object] = read_yaml if _case.suffix == ".yaml" else regions
    ATTACKS[_case.name] = (f"r{_case.suffix}", _case.read_bytes(), _read)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack(name: str, tmp_path: Path, monkeypatch: MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    file, content, read = ATTACKS[name]
    if callable(content):
        content(tmp_path / file)
    else:
        (tmp_path / file).write_bytes(content.encode() if isinstance(content, str) else content)
    # What hangs, hangs for good; a busy machine is slow.
    with pytest.raises(PatchionerError), alarm(120):
        read(tmp_path / file)
    assert not (tmp_path / "executed").exists()
    assert capfd.readouterr() == ("", "")


PARTS = json.loads((Path(__file__).parent / "parts.json").read_text())


@pytest.mark.parametrize(("file", "values"), PARTS, ids=str)
def test_an_attack_by_a_part_of_a_checkpoint(
    file: str, values: Any, tmp_path: Path, checkpoint: Path, capfd: Capture
) -> None:
    held = json.loads((checkpoint / file).read_text())
    (tmp_path / "part").write_text(json.dumps(held | values))
    with pytest.raises(PatchionerError), alarm(120):
        part(tmp_path / "part", file, checkpoint)
    assert capfd.readouterr() == ("", "")


def test_a_hand_s_few_crossings_are_taken_apart() -> None:
    turn = np.linspace(0, 2 * np.pi, 6000, endpoint=False)
    ring = np.stack([100 + 60 * np.cos(turn), 50 + 40 * np.sin(2 * turn)], axis=1)
    assert Polygon(ring).patch_weights(GEOMETRY).sum() == pytest.approx(1)


def started(*command: str, **how: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    given: dict[str, Any] = {"capture_output": True, "text": True, "env": environment, **how}
    return subprocess.run(command, timeout=600, **given)


def command(words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`patchioner WORDS` through a shell."""
    return started("sh", "-c", f'exec "$0" -m patchioner {words}', sys.executable, cwd=folder)


@pytest.mark.parametrize("redirected", [">&-", ">/dev/full"], ids=["closed", "full"])
def test_without_room_it_ends_in_a_line(redirected: str, tmp_path: Path, checkpoint: Path) -> None:
    noise_photo(8, 8).save(tmp_path / "p.png")
    done = command(f"caption *.png --model {checkpoint} {redirected}", tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr


def test_a_name_that_is_not_utf_8(tmp_path: Path, checkpoint: Path, capfd: Capture) -> None:
    photo = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    noise_photo(8, 8).save(os.fsdecode(photo))
    assert main(["caption", os.fsdecode(photo), "--model", str(checkpoint)]) == 0
    assert "caf" in capfd.readouterr().out


STOPPED = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
module, sys.argv = sys.argv[1], ["-m"]
__import__(module.split(".")[0])
class Stop:
    def find_spec(self, name, *_):
        if name in ("torch", "PIL", "argparse", "patchioner.cli"):
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Stop())
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["benchmarks.region_set", "patchioner"])
def test_ctrl_c_in_the_first_moments_is_one_line(module: str) -> None:
    done = started(sys.executable, "-c", STOPPED, module)
    assert done.returncode in (130, -signal.SIGINT)
    (line,) = done.stderr.splitlines()
    assert line.endswith("stopped")


ESCAPES = "\x1b[31m\x07\x9b1m\u202e"


def test_terminals_are_safe(tmp_path: Path, checkpoint: Path, monkeypatch: MonkeyPatch, capfd: Capture) -> None:
    """Names of files, labels, bank texts, splits and errors; of the log, of wrong usage and of the training script."""
    monkeypatch.chdir(tmp_path)
    noise_photo(60, 40).save(f"p{ESCAPES}.png")
    Path(f"q{ESCAPES}.png").write_bytes(b"no picture")
    boxes = [{"box": [1, 1, end, end], "label": ESCAPES} for end in (1, 30)]
    lines = [{"caption": f"a {ESCAPES} {word}"} for word in ("dog", "cat")]
    left_out = [{"caption": None}, {"split": ESCAPES}]
    for name, content in (("r", boxes), (f"c{ESCAPES}", [*lines, *left_out])):
        Path(f"{name}.json").write_text(json.dumps(content))
    # With what the log says.
    built = command(f"bank build c* --out b --text-encoder {checkpoint}", tmp_path)
    said = [built.stdout + built.stderr]
    photos = ["caption", f"p{ESCAPES}.png", f"q{ESCAPES}.png", "--model", str(checkpoint)]
    for run, words in (
        (main, [*photos, "--regions", "r.json", "--labels", f"{ESCAPES};b"]),
        (main, [*photos, f"--unknown{ESCAPES}"]),
        (main, ["bank", "info", "b"]),
        (train_text_decoder.main, ["--corpus", ESCAPES, "--out", "t"]),
    ):
        run(words)
        said.append("".join(capfd.readouterr()))
    for text in said:
        assert "1b[31m" in text
        assert not set(text) & set("\x1b\x07\x9b\u202e")


OF_A_GPU = torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried")


def test_out_of_memory_costs_one_photo_of_a_folder(tmp_path: Path) -> None:
    names = [str(tmp_path / f"{number}.png") for number in range(3)]
    for name, size in zip(names, ((96, 64), (64, 64), (64, 96)), strict=True):
        noise_photo(*size).save(name)
    outputs, out = TimmViT.outputs, tmp_path / "out.jsonl"

    def full(self: TimmViT, pixels: torch.Tensor, grid: tuple[int, int]) -> Any:
        if grid[0] == grid[1]:
            raise OF_A_GPU
        return outputs(self, pixels, grid)

    captioner = DetailCaptioner(Patchioner(tiny_parts(), device="cpu"), scorer=None)
    with patch.object(TimmViT, "outputs", full):
        ((name, failed),) = describe_many(captioner, names, out).failed
    assert name == names[1] and "out of memory" in str(failed)
    assert len(out.read_text().splitlines()) == 2


@pytest.mark.parametrize("error", [MemoryError(), OF_A_GPU])
def test_a_command_that_runs_out_of_memory_ends_in_a_line(error: Exception, capfd: Capture) -> None:
    assert guarded(Mock(side_effect=error), "p: ") == 1
    assert capfd.readouterr().err.startswith("p: error: out of memory")
    with pytest.raises(RuntimeError, match="a bug"):
        guarded(Mock(side_effect=RuntimeError("a bug")))


# Broken inputs of every reader, made of a few sound ones.

TOOLS = Path(__file__).parents[1] / "patchioner" / "regions" / "cases" / "tools"
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 10**400, -1e308, 1e308, float("nan"), float("inf"), "", "\0", "\ud800",
    "../x", "1", [], [[]], {}, [1], {"a": 1}, [[0, 0], [1, 1]], "9" * 5000, [[[[[]]]]],
)  # fmt: skip
WORDS = (
    b"\0", b"\xff\xfe", b"[" * 2000, b"9" * 400, b"-1", b"1e999", b"NaN", b'"', b"{", b"}", b",", b"\n", b"\x80\x04",
)  # fmt: skip


def trace(path: Path) -> None:
    region_weights([read_trace(path)], GEOMETRY)


def rle(path: Path) -> None:
    Mask.from_rle({"size": [48, 64], "counts": path.read_text("latin1")})


def reply(path: Path) -> None:
    asked: Any = {"messages": [{"content": "What is it?"}]}
    read_reply(path.read_text("utf-8", "replace"), asked)


Reader = tuple[str, Callable[[Path], object], tuple[bytes, ...]]
"""A file's name, what reads it, and sound contents."""


def _arrays(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def _json(*values: Any) -> tuple[bytes, ...]:
    return tuple(json.dumps(value).encode() for value in values)


def _of_tools(ending: str) -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for path in sorted(TOOLS.glob(f"*.{ending}")))


RING = [[1, 1], [40, 1], [40, 40], [1, 40]]
RUNS = {"size": [100, 200], "counts": [10, 19990]}
OURS = [{"box": [1, 1, 30, 30], "label": "a"}, {"polygon": RING}, {"trace": RING}, {"mask": RUNS}]
SETS = {"images": {"a.jpg": [{"set": [{"point": [3, 4]}]}]}}
TRACES = ([[1, 1], [30, 30]], {"trace": RING, "normalized": False}, {"traces": [[{"x": 0.1, "y": 0.2}]]})  # fmt: skip
ANSWER = {"message": {"content": "A red box."}, "finish_reason": "stop"}
REPLY = {"choices": [ANSWER], "usage": {"prompt_tokens": 1}}


def readers(model: Path) -> list[Reader]:
    configs = [f"{part}config.json" for part in ("", "backbone/", "text_tower/", "decoder/")]
    banks = [f"memory_bank/{name}" for name in ("bank.json", "bank.safetensors", "texts.jsonl")]
    picture = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    kinds = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA")
    masks, boxes = _arrays(masks=np.ones((2, 100, 200), bool)), _arrays(boxes=[[1.0, 1, 9, 9]])
    tensors = (model / "decoder/weights.safetensors").read_bytes()[:4096]
    return [
        ("r.json", regions, _json({"regions": OURS}, SETS)),
        ("r.json", regions, _of_tools("json")),
        ("r.xml", regions, _of_tools("xml")),
        ("a.txt", regions, _of_tools("txt")),
        ("r.npz", regions, (masks, boxes)),
        ("runs", rle, (b"PPYo1", b"0P^1")),
        ("w.safetensors", load_weights, (tensors,)),
        ("t.json", trace, _json(*TRACES)),
        ("reply", reply, _json(REPLY, {"error": {"message": "no"}})),
        ("image", load_image, tuple(picture_bytes(picture, kind) for kind in kinds)),
        ("c.txt", read_captions, (b"a dog\na cat\n", b"image,caption\na.jpg,a dog\n")),
        ("c.csv", read_captions, (b'caption;x\n"a dog";1\n',)),
        ("c.json", read_captions, _json(["a dog"], {"annotations": [{"caption": "a"}]})),
        ("c.txt.gz", read_captions, (gzip.compress(b"a dog\na cat\n", mtime=0),)),
        *(
            (n.replace("/", "-"), partial(part, name=n, model=model), ((model / n).read_bytes(),))
            for n in (*configs, *banks)
        ),
    ]


def broken(seed: bytes, draw: random.Random) -> bytes:
    """A sound input with one to three faults."""
    held = None
    if draw.random() < 0.7:
        with suppress(ValueError):
            held = json.loads(seed)
    for _ in range(draw.randint(1, 3)):
        if held is not None:
            held = _with_odd_value(held, draw)
        else:
            seed = _with_odd_bytes(seed, draw)
    return seed if held is None else json.dumps(held).encode("utf-8", "surrogatepass")


def _with_odd_value(held: Any, draw: random.Random) -> Any:
    if not isinstance(held, (dict, list)) or not held or draw.random() < 0.15:
        return draw.choice(ODD)
    places: list[Any] = list(held) if isinstance(held, dict) else list(range(len(held)))
    place = draw.choice(places)
    if isinstance(held, dict) and draw.random() < 0.1:
        return {key: value for key, value in held.items() if key != place}
    changed = dict(held) if isinstance(held, dict) else list(held)
    changed[place] = _with_odd_value(held[place], draw)
    return changed


def _with_odd_bytes(data: bytes, draw: random.Random) -> bytes:
    place = draw.randint(0, len(data))
    length = draw.choice((0, 1, 1, 2, 4, 16))
    twice = data[place : place + length] * 2
    put = draw.choice((b"", draw.randbytes(length), draw.choice(WORDS), twice))
    return data[:place] + put + data[place + length :]


def test_broken_inputs_end_in_a_value_or_an_error_of_ours(tmp_path: Path, checkpoint: Path) -> None:
    count, draw, values = int(os.environ.get("FUZZ", "150")), random.Random(7), 0
    for file, read, seeds in itertools.islice(itertools.cycle(readers(checkpoint)), count):
        data = broken(draw.choice(seeds), draw)
        (tmp_path / file).write_bytes(data)
        try:
            with alarm(20):
                read(tmp_path / file)
            values += 1
        except PatchionerError as error:
            # A late answer is an OSError, which readers take for the disk's.
            assert not isinstance(error.__cause__, TimeoutError), f"{file}: {data[:300]!r}"
        except Exception as error:
            raise AssertionError(f"{file}: {data[:300]!r}") from error
    assert 0 < values < count


CORPUS = json.loads((Path(__file__).parent / "corpus.json").read_text())


@pytest.mark.parametrize("file", CORPUS)
def test_what_fuzzing_found(file: str, tmp_path: Path, checkpoint: Path) -> None:
    """A value, or an error that is raised at a line of its own: of each the shortest input."""
    read = {name: read for name, read, _ in readers(checkpoint)}[file]
    for answer, inputs in CORPUS[file].items():
        for data in inputs:
            (tmp_path / file).write_bytes(zlib.decompress(base64.b85decode(data)))
            with alarm(120), nullcontext() if answer == "value" else pytest.raises(PatchionerError):
                read(tmp_path / file)


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("work", failures.WORKS)
def test_a_failure_of_the_system_loses_nothing(work: str, kind: str) -> None:
    steps = {"rename": 23, "fsync": 61, "allocation": 997}
    made = failures.campaign(work, kind, step=steps.get(kind, 97))
    assert made > 0 or (work, kind) == ("detail", "rename")  # its rows are appended


def test_a_kill_loses_nothing() -> None:
    # By the command: a child of a process whose torch has had threads waits for them for ever.
    works = ["save", "bank", "detail"]
    words = ["tests.attacks.failures", *works, "--kill", "--kinds", "open", "--step", "151"]
    done = started(sys.executable, "-m", *words)
    assert done.returncode == 0, done.stderr
    made = [int(line.split(": ")[1].split()[0]) for line in done.stdout.splitlines()]
    assert len(made) == len(works) and min(made) > 0
