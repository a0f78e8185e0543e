"""Broken inputs of every reader, made of a few sound ones."""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from decoders import load_decoder
from memory_bank import MemoryBank, read_captions
from patchioner.base.weights import load_weights
from patchioner.checkpoints.folder import read_checkpoint
from patchioner.detail import read_reply
from patchioner.geometry import fit_image
from patchioner.images import load_image
from patchioner.regions import Mask, read_regions, read_trace, region_weights
from tests.support.server import picture_bytes

TOOLS = Path(__file__).parents[1] / "patchioner" / "regions" / "cases" / "tools"
SIZE = (200, 100)
GEOMETRY = fit_image(SIZE, mode="stretch", size=56, patch_size=14)
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 10**400, -1e308, 1e308, float("nan"), float("inf"), "", "\0", "\ud800",
    "../x", "1", [], [[]], {}, [1], {"a": 1}, [[0, 0], [1, 1]], "9" * 5000, [[[[[]]]]],
)  # fmt: skip
WORDS = (
    b"\0", b"\xff\xfe", b"[" * 2000, b"9" * 400, b"-1", b"1e999", b"NaN", b'"', b"{", b"}", b",", b"\n", b"\x80\x04",
)  # fmt: skip


def regions(path: Path) -> None:
    """A file of regions, with their weights."""
    region_weights([one.region for one in read_regions(path, SIZE, "a.jpg")], GEOMETRY)


def trace(path: Path) -> None:
    region_weights([read_trace(path)], GEOMETRY)


def rle(path: Path) -> None:
    Mask.from_rle({"size": [48, 64], "counts": path.read_text("latin1")})


def reply(path: Path) -> None:
    asked: Any = {"messages": [{"content": "What is it?"}]}
    read_reply(path.read_text("utf-8", "replace"), asked)


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
            ("p", partial(part, name=name, model=model), ((model / name).read_bytes(),))
            for name in (*configs, *banks)
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
