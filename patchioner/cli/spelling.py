"""How regions, numbers and texts are spelled on the command line."""

from __future__ import annotations

import argparse
import functools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from patchioner.base.errors import PatchionerError, TextError
from patchioner.regions import Box, Mask, Point, Polygon, RegionSet, Trace, read_trace

T = TypeVar("T")


def attach_negative_values(argv: Sequence[str]) -> list[str]:
    """Write `--box -5,0,9,9` as `--box=-5,0,9,9`, which argparse would take for two options."""
    result: list[str] = []
    for word in argv:
        if re.match(r"-[\d.]", word) and result and re.fullmatch(r"--[a-z-]+", result[-1]):
            result[-1] += f"={word}"
        else:
            result.append(word)
    return result


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
    return Polygon([_points(ring) for ring in text.split(";") if ring.strip()])


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
        from memory_bank import read_captions

        texts = read_captions(text)
    else:
        texts = text.split(";")
    found = tuple(dict.fromkeys(stripped for one in texts if (stripped := one.strip())))
    if len(found) == 1 and Path(text).suffix[1:].isalpha() and not _is_file(Path(text)):
        raise TextError(f'no file {text!r}: check the path, or write texts as "a cat;a dog"')
    if len(found) < 2:
        raise TextError(f'{text!r} holds no two texts: write "a cat;a dog", or name a file')
    return found


def positive_int(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def number(least: float, most: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """A parser of finite numbers from `least` (or `above` it) up to `most`."""
    wanted = f"a number {'above' if above else 'from'} {least:g}"
    wanted += (
        " on" if math.isinf(most) and not above else "" if math.isinf(most) else f" to {most:g}"
    )

    def parse(text: str) -> float:
        value = _numbers(text, 1, wanted)[0]
        if not (math.isfinite(value) and least <= value <= most) or (above and value == least):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return parse


positive, not_negative = number(0, above=True), number(0)
