"""How regions, numbers and texts are spelled on the command line.

Knows: the spelling of each. Does not know: which options there are, models, photos.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from patchioner.base.errors import PatchionerError, RegionFileError, TextError
from patchioner.regions import Box, Mask, Point, Polygon, RegionSet, Trace

T = TypeVar("T")


def argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Let our messages through: argparse replaces those of a plain ValueError by its own."""

    @functools.wraps(parse)
    def checked(text: str) -> T:
        try:
            return parse(text)
        except PatchionerError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return checked


def _numbers(text: str, count: int, form: str) -> list[float]:
    try:
        values = [float(value) for value in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form {form}")
    return values


def _points(text: str) -> list[list[float]]:
    return [_numbers(pair, 2, '"X,Y X,Y ..."') for pair in text.split()]


@argument
def parse_box(text: str) -> Box:
    """`X1,Y1,X2,Y2` in pixels."""
    return Box(*_numbers(text, 4, "X1,Y1,X2,Y2"))


@argument
def parse_point(text: str) -> Point:
    """`X,Y` in pixels."""
    return Point(*_numbers(text, 2, "X,Y"))


@argument
def parse_mask(text: str) -> Mask:
    """The path of a mask picture."""
    return Mask.from_file(text)


@argument
def parse_polygon(text: str) -> Polygon:
    """`X,Y X,Y X,Y`, in pixels; several outlines are separated by semicolons."""
    rings = [_points(ring) for ring in text.split(";") if ring.strip()]
    return Polygon(rings)


@argument
def parse_region_set(text: str) -> RegionSet:
    """Boxes separated by semicolons."""
    return RegionSet([parse_box(box) for box in text.split(";") if box.strip()])


@argument
def parse_trace(text: str) -> Trace:
    """`X,Y X,Y` in pixels, or the path of a file with a trace."""
    path = Path(text)
    if "," in text and not path.suffix.isalpha() and not _is_file(path):
        return Trace(_points(text))
    return read_trace(path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a long list of points is no possible file name
        return False


def read_trace(path: Path) -> Trace:
    """Read one trace from a JSON file.

    Takes `[[x, y], ...]` in pixels; `[{"x": .., "y": .., "t": ..}, ...]` in 0..1, as the traces of
    Localized Narratives are published; or `{"trace": either of them, "normalized": bool}`, which
    says so itself.

    Raises:
        RegionFileError: no such file, no JSON, or no trace in it.
        RegionError: the points make no trace.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RegionFileError(f"cannot read a trace from {str(path)!r} ({error})") from error
    points, normalized = content, None
    if isinstance(content, dict):
        points, normalized = content.get("trace"), content.get("normalized")
    if not isinstance(points, list) or not points:
        raise RegionFileError(
            f"{str(path)!r} holds no trace: write [[x, y], ...] in pixels or "
            '{"trace": [[x, y], ...], "normalized": true}'
        )
    if isinstance(points[0], dict):
        return Trace.from_points_xyt(points, normalized=normalized is not False)
    return Trace(points, normalized=bool(normalized))


@argument
def parse_texts(text: str) -> tuple[str, ...]:
    """Texts separated by semicolons, or those of a file: .txt with one per line, or what `read_captions` reads."""
    if _is_file(Path(text)):
        from patchioner.caption_files import read_captions

        texts = read_captions(text)
    else:
        texts = text.split(";")
    found = tuple(dict.fromkeys(stripped for one in texts if (stripped := one.strip())))
    if not found:
        raise TextError(f'{text!r} holds no text: write "a cat;a dog", or name a file')
    if found == (text,) and Path(text).suffix[1:].isalpha():
        raise TextError(f'no file {text!r}: check the path, or write texts as "a cat;a dog"')
    return found


def positive_int(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def positive(text: str) -> float:
    """A finite number above 0."""
    value = _numbers(text, 1, "a number above 0")[0]
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def not_negative(text: str) -> float:
    """A finite number from 0 on."""
    value = _numbers(text, 1, "a number from 0 on")[0]
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return value
