"""Broken inputs of every reader, made of a few sound ones: python -m tests.attacks.fuzz --minutes 10

Each ends in a value or an error of ours, within seconds and without a warning; anything else is printed.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from decoders import load_decoder
from memory_bank import MemoryBank, read_captions
from patchioner import Patchioner, PatchionerError
from patchioner.base.weights import load_weights
from patchioner.checkpoints.folder import read_checkpoint
from patchioner.detail import read_reply
from patchioner.geometry import fit_image
from patchioner.images import load_image
from patchioner.regions import Mask, RegionFile, read_trace, region_weights
from tests.support.tiny import tiny_parts

SIZE = (64, 48)
GEOMETRY = fit_image(SIZE, mode="stretch", size=56, patch_size=14)
SECONDS = 20
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 10**400, -1e308, 1e308, float("nan"), float("inf"), "", "\0", "\ud800",
    "../x", "1", [], [[]], {}, [1], {"a": 1}, [[0, 0], [1, 1]], "9" * 5000, [[[[[]]]]],
)  # fmt: skip
WORDS = (
    b"\0", b"\xff\xfe", b"[" * 2000, b"9" * 400, b"-1", b"1e999", b"NaN", b'"', b"{", b"}", b",", b"\n", b"\x80\x04",
)  # fmt: skip


@cache
def tiny() -> Path:
    folder = Path(tempfile.mkdtemp()) / "tiny"
    Patchioner(tiny_parts(), device="cpu").save_pretrained(folder)
    return folder


def written(data: bytes, folder: Path, name: str) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def regions(data: bytes, folder: Path, name: str = "r.json") -> None:
    """A file of regions, with the weights of what is in it."""
    for one in RegionFile(written(data, folder, name)).entries(SIZE, "a.jpg"):
        if not isinstance(one, PatchionerError):
            region_weights([one.region], GEOMETRY)


def rle(data: bytes, folder: Path) -> None:
    Mask.from_rle({"size": [48, 64], "counts": data.decode("latin1")})


def weights(data: bytes, folder: Path) -> None:
    load_weights(written(data, folder, "w.safetensors"))


def changed_copy(source: Path, copy: Path, name: str, data: bytes) -> Path:
    """The folder with other content in one of its files."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    (copy / name).write_bytes(data)
    return copy


def config(data: bytes, folder: Path, name: str) -> None:
    copy = changed_copy(tiny(), folder / "model", name, data)
    if name.startswith("decoder"):
        load_decoder(copy / "decoder")
    else:
        assert read_checkpoint(copy).text_tower


def bank(data: bytes, folder: Path, name: str) -> None:
    copy = changed_copy(tiny() / "memory_bank", folder / "bank", name, data)
    read = MemoryBank.load(copy, memory_map=bool(data[-1:] < b"\x80"))
    read.nearest(np.ones((1, 64), np.float32), 2)


def captions(data: bytes, folder: Path, name: str) -> None:
    read_captions(written(data, folder, name))


def trace(data: bytes, folder: Path) -> None:
    region_weights([read_trace(written(data, folder, "t.json"))], GEOMETRY)


def reply(data: bytes, folder: Path) -> None:
    read_reply(data.decode("utf-8", "replace"), {"messages": [{"content": "What is it?"}]})


def image(data: bytes, folder: Path) -> None:
    load_image(data)


class Target(NamedTuple):
    read: Callable[[bytes, Path], None]
    seeds: tuple[bytes, ...]


def _pictures() -> tuple[bytes, ...]:
    found = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA"):
        stream = io.BytesIO()
        Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(stream, kind)
        found.append(stream.getvalue())
    return tuple(found)


def _arrays(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def _json(*values: Any) -> tuple[bytes, ...]:
    return tuple(json.dumps(value).encode() for value in values)


RING = [[1, 1], [40, 1], [40, 40], [1, 40]]
FLAT = [1, 1, 40, 1, 40, 40]
RUNS = {"size": [48, 64], "counts": [10, 3062]}
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
    "categories": [{"id": 1, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 30, 30], "segmentation": [FLAT]},
        {"id": 2, "image_id": 1, "category_id": 1, "segmentation": RUNS},
    ],
}
LABELME = {
    "shapes": [{"label": "a", "points": RING, "shape_type": "polygon"}], "imageWidth": 64, "imageHeight": 48,
}  # fmt: skip
BRUSH = {"type": "brushlabels", "original_width": 64, "value": {"rle": [0, 0, 48, 0] * 9}}
STUDIO = [{"data": {"image": "a.jpg"}, "annotations": [{"result": [BRUSH]}]}]
XML = (
    b'<annotations><image name="a.jpg"><polygon label="x" points="1,1;9,1;9,9"/>'
    b'<mask rle="0,4" left="1" top="1" width="2" height="2"/></image></annotations>'
)
NAMED = {"x1": 1, "y1": 1, "x2": 30, "y2": 30}
DETECTED = [{"name": "a", "box": NAMED}, {"name": "b.jpg", "labels": [{"box2d": NAMED}]}]
REPLY = {
    "choices": [{"message": {"content": "A red box."}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1},
}  # fmt: skip
BOX = {"box": [1, 1, 30, 30], "label": "a"}
OURS = {"regions": [BOX, {"polygon": RING}, {"trace": RING}, {"mask": RUNS}]}
SAMPLES = {"traces": [[{"x": 0.1, "y": 0.2}]]}
TRACES = ([[1, 1], [30, 30]], {"trace": RING, "normalized": False}, SAMPLES)


def targets() -> dict[str, Target]:
    arrays = _arrays(masks=np.ones((2, 48, 64), bool)), _arrays(boxes=[[1.0, 1, 9, 9]])
    yolo = b"0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.9 0.1 0.9 0.9\n"
    texts = {
        "c.txt": (b"a dog\na cat\n", b"image,caption\na.jpg,a dog\n"), "c.csv": (b'caption;x\n"a dog";1\n',),
        "c.json": _json(["a dog"], {"annotations": [{"caption": "a"}]}),
        "c.txt.gz": (gzip.compress(b"a dog\na cat\n", mtime=0),),
    }  # fmt: skip
    configs = [f"{part}config.json" for part in ("", "backbone/", "text_tower/", "decoder/")]
    banks = ("bank.json", "bank.safetensors", "texts.jsonl")
    return {
        "regions": Target(regions, _json(OURS, {"images": {"a.jpg": [{"set": [{"point": [3, 4]}]}]}})),
        "coco": Target(regions, _json(COCO, COCO["annotations"], LABELME, STUDIO, DETECTED)),
        "xml": Target(partial(regions, name="r.xml"), (XML,)),
        "yolo": Target(partial(regions, name="a.txt"), (yolo,)),
        "arrays": Target(partial(regions, name="r.npz"), arrays),
        "rle": Target(rle, (b"PPYo1", b"0P^1")),
        "weights": Target(weights, ((tiny() / "decoder/weights.safetensors").read_bytes()[:4096],)),
        "trace": Target(trace, _json(*TRACES)),
        "reply": Target(reply, _json(REPLY, {"error": {"message": "no"}})),
        "image": Target(image, _pictures()),
        **{name: Target(partial(captions, name=name), seeds) for name, seeds in texts.items()},
        **{n: Target(partial(config, name=n), ((tiny() / n).read_bytes(),)) for n in configs},
        **{n: Target(partial(bank, name=n), ((tiny() / "memory_bank" / n).read_bytes(),)) for n in banks},
    }  # fmt: skip


def broken(seed: bytes, draw: random.Random) -> bytes:
    """A sound input with one to three faults."""
    try:
        held = json.loads(seed) if draw.random() < 0.7 else None
    except ValueError:
        held = None
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
def alarm(seconds: int = SECONDS) -> Iterator[None]:
    """TimeoutError within it after some seconds."""

    def late(*_: object) -> None:
        raise TimeoutError(f"over {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(target: Target, data: bytes, folder: Path) -> str:
    """ "value", "refused", or what should not be: the name of a foreign error or warning, or of being late."""
    try:
        with warnings.catch_warnings(), alarm():
            warnings.simplefilter("error")
            target.read(data, folder)
        return "value"
    except PatchionerError as error:
        # A late answer is an OSError, which readers take for the disk's.
        return "TimeoutError" if isinstance(error.__cause__, TimeoutError) else "refused"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {error!s:.120}"


def campaign(count: int, seconds: float, seed: int) -> tuple[Counter[str], list[str]]:
    """Up to `count` inputs, in turn for every reader; how they ended, and a line for each that ended wrong."""
    draw, ends, wrong = random.Random(seed), Counter[str](), list[str]()
    stop, readers = time.monotonic() + seconds, targets()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            if time.monotonic() > stop:
                break
            name = list(readers)[number % len(readers)]
            data = broken(draw.choice(readers[name].seeds), draw)
            end = outcome(readers[name], data, Path(folder))
            ends[end if end in ("value", "refused") else "wrong"] += 1
            if end not in ("value", "refused"):
                wrong.append(f"{name}: {end}: {data[:300]!r}")
    return ends, wrong


def main() -> int:
    """Run a campaign; exit status 1 where an input ended wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--count", type=int, default=10**9, help="most inputs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ends, wrong = campaign(options.count, options.minutes * 60, options.seed)
    sys.stdout.write("".join(f"{line}\n" for line in wrong))
    counts = ", ".join(f"{ends[kind]} {kind}" for kind in ("value", "refused", "wrong"))
    sys.stdout.write(f"{sum(ends.values())} inputs: {counts}\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
