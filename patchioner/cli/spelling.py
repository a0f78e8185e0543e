"""How regions, numbers and texts are spelled on the command line.

Knows: the spelling of each. Does not know: which options there are, models, photos.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from patchioner.base.errors import PatchionerError, TextError
from patchioner.regions import Box, Mask, Point, Polygon, RegionSet, Trace, read_trace

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
