"""Reads what a language model answered: JSON with numbers of statements, checked strictly.

Knows: the forms that `prompts` asks for. Does NOT know: what the statements say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patchioner.base.errors import DetailError

_LONGEST = 100_000


@dataclass(frozen=True)
class Sorted:
    """A sorting of n statements, by number from 1.

    Attributes:
        groups: every number once; those of a group say the same, the one to keep first.
        conflicts: groups of numbers that cannot all be true.
        order: the first number of every group, in order.
    """

    groups: tuple[tuple[int, ...], ...]
    conflicts: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]


@dataclass(frozen=True)
class Written:
    """One sentence of a rewriting, and the numbers of the statements that it says."""

    text: str
    ids: tuple[int, ...]


def read_sorted(answer: str, count: int) -> Sorted:
    """Read the answer to `prompts.SORT` about `count` statements.

    Raises:
        DetailError: no JSON object, other keys, an unknown number, one that is missing or used twice.

    Example:
        >>> read_sorted('{"groups": [[2, 1]], "conflicts": [], "order": [2]}', 2).groups
        ((2, 1),)
    """
    found = _object(answer, ("groups", "conflicts", "order"))
    groups = _groups(found["groups"], "groups", count)
    conflicts = _groups(found["conflicts"], "conflicts", count)
    order = _numbers(found["order"], "order", count)
    used = sorted(number for group in groups for number in group)
    if used != list(range(1, count + 1)):
        missing = sorted(set(range(1, count + 1)) - set(used))
        twice = sorted({number for number in used if used.count(number) > 1})
        raise DetailError(
            f"groups must hold every number once: missing {missing}, more than once {twice}"
        )
    firsts = sorted(group[0] for group in groups)
    if sorted(order) != firsts:
        raise DetailError(
            f"order is {list(order)}; it must hold the first of every group once: {firsts}"
        )
    return Sorted(groups, conflicts, order)


def read_written(answer: str, count: int) -> list[Written]:
    """Read the answer to `prompts.REWRITE` about `count` statements.

    Raises:
        DetailError: no JSON object, other keys, a sentence without text or without known numbers.

    Example:
        >>> read_written('{"sentences": [{"text": "A dog.", "ids": [1]}]}', 1)
        [Written(text='A dog.', ids=(1,))]
    """
    sentences = _object(answer, ("sentences",))["sentences"]
    if not isinstance(sentences, list) or not sentences:
        raise DetailError(f"sentences is {_short(sentences)}; give a list of at least one")
    return [_written(one, count) for one in sentences]


def _written(one: Any, count: int) -> Written:
    if not isinstance(one, Mapping) or set(one) != {"text", "ids"}:
        raise DetailError(f"the sentence {_short(one)} must have the keys text and ids alone")
    text = one["text"]
    if not isinstance(text, str) or not any(map(str.isalnum, text)):
        raise DetailError(f"the text {_short(text)} of a sentence must be words")
    ids = _numbers(one["ids"], f"ids of {_short(text)}", count)
    if not ids:
        raise DetailError(
            f"the sentence {_short(text)} has no ids: give the numbers of its statements"
        )
    return Written(" ".join(text.split()), ids)


def _object(answer: str, keys: Sequence[str]) -> dict[str, Any]:
    """The one JSON object of an answer; a code fence or words around it are no harm."""
    if len(answer) > _LONGEST:
        raise DetailError(f"the answer has {len(answer)} characters, more than {_LONGEST}")
    start, end = answer.find("{"), answer.rfind("}")
    if start < 0 or end < start:
        raise DetailError(f"the answer {_short(answer)} holds no JSON object")
    try:
        found = json.loads(answer[start : end + 1])
    except (ValueError, RecursionError) as error:
        raise DetailError(f"the answer is not valid JSON ({error})") from error
    if not isinstance(found, dict) or set(found) != set(keys):
        given = sorted(found) if isinstance(found, dict) else type(found).__name__
        raise DetailError(f"the object has the keys {given}; give {list(keys)} alone")
    return found


def _groups(value: Any, name: str, count: int) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, list):
        raise DetailError(f"{name} is {_short(value)}; give a list of lists of numbers")
    groups = tuple(_numbers(one, name, count) for one in value)
    if not all(groups):
        raise DetailError(f"{name} has an empty list: leave it out")
    return groups


def _numbers(value: Any, name: str, count: int) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise DetailError(f"{name} holds {_short(value)}; give a list of numbers")
    for one in value:
        if type(one) is not int or not 1 <= one <= count:  # bool is an int, and no number
            raise DetailError(f"{name} holds {_short(one)}; the numbers go from 1 to {count}")
    return tuple(dict.fromkeys(value))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
