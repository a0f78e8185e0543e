"""Argument types of the benchmark commands.

Knows: what a value on the command line must look like. Does NOT know: what it is used for.
"""

from __future__ import annotations

import argparse
import math


def positive(text: str) -> int:
    """Read a whole number of at least 1, or make argparse say that it is none.

    Example:
        >>> positive("3")
        3
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def natural(text: str) -> int:
    """Read a whole number of at least 0, or make argparse say that it is none.

    Example:
        >>> natural("0")
        0
    """
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def name_template(text: str) -> str:
    """Read a prompt with `{name}` in it, such as "a photo of a {name}".

    Example:
        >>> name_template("{name}")
        '{name}'
    """
    try:
        named = text.format(name="dog") != text.format(name="cat")
    except (LookupError, ValueError, AttributeError):
        named = False
    if not named:
        raise argparse.ArgumentTypeError(f"{text!r} is no template: write '{{name}}' in it")
    return text


def not_negative(text: str) -> float:
    """Read a finite number of at least 0, or make argparse say that it is none.

    Example:
        >>> not_negative("0.5")
        0.5
    """
    number = float(text)
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return number


def positive_number(text: str) -> float:
    """Read a finite number above 0, or make argparse say that it is none.

    Example:
        >>> positive_number("0.01")
        0.01
    """
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number
