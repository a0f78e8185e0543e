"""What `patchioner` writes: lines on standard output and error, results as text and as JSON."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from patchioner.base.errors import OptionError
from patchioner.results import Caption, Label


@dataclass(frozen=True)
class Answered:
    """What was said of one region.

    Attributes:
        answer: a caption or a label.
        name: of the region, where its file gives one.
        id: of the region in its file.
    """

    answer: Caption | Label
    name: str | None = None
    id: int | str | None = None


# ESC, BEL, C1 and the rest could drive a terminal; a line is one line.
_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with control characters, line feeds apart, escaped as JSON escapes them.

    Example:
        >>> printable(chr(27) + "[31m a cat") == chr(92) + "u001b[31m a cat"
        True
    """
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def write_line(text: str) -> None:
    """One line on standard output; what its encoding lacks becomes a question mark."""
    text = printable(text)
    if sys.stdout is None:
        raise OptionError("standard output is closed: send it to a file, or to /dev/null")
    if sys.stdout.isatty():
        _wipe_progress()
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    sys.stdout.flush()


def report_error(message: str) -> None:
    """One line on standard error, whatever line breaks the message has."""
    report(f"error: {message}")


def report(message: str) -> None:
    """One line on standard error that begins with the command's name."""
    if sys.stderr is None:
        return
    _wipe_progress()
    sys.stderr.write(f"patchioner: {printable(' '.join(message.split()))}\n")
    sys.stderr.flush()


def _wipe_progress() -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")  # the bar draws itself again
        sys.stderr.flush()


def as_text(photo: str, size: tuple[int, int], answered: Sequence[Answered]) -> str:
    """For people: a line for the photo, one for each region."""
    lines = [f"{photo} ({size[0]} x {size[1]})"]
    for place, one in enumerate(answered, start=1):
        name = f" [{one.name}]" if one.name else ""
        lines.append(f"  {place}. {one.answer.region.describe()}{name}: {_said(one.answer)}")
    return "\n".join(lines)


def shown_text(answer: Caption | Label) -> str:
    """What stands in lists and pictures; also where there is no text."""
    return answer.text or ("none of these" if isinstance(answer, Label) else "not sure")


def _said(answer: Caption | Label) -> str:
    text = shown_text(answer)
    if isinstance(answer, Label):
        return f"{text}  ({100 * answer.probability:.0f} %)"
    if answer.reason is not None:
        return f"{text}: {answer.reason}"
    if answer.confidence is not None:
        return f"{text}  ({100 * answer.confidence:.0f} %)"
    return text if math.isnan(answer.score) else f"{text}  ({answer.score:.2f})"


def as_patch_text(
    photo: str, size: tuple[int, int], grid: tuple[int, int], answered: Sequence[Answered]
) -> str:
    """`--patches` for people: what the map's legend says."""
    from patchioner.patch_map import cluster_captions

    lines = [f"{photo} ({size[0]} x {size[1]}), {grid[0]} x {grid[1]} patches"]
    for cluster in cluster_captions([shown_text(one.answer) for one in answered]):
        lines.append(f"  {100 * cluster.share:5.1f} %  {cluster.text or 'other'}")
    return "\n".join(lines)


def as_json(
    photo: str,
    size: tuple[int, int],
    grid: tuple[int, int],
    answered: Sequence[Answered],
    errors: Sequence[str] = (),
    texts: Sequence[str] = (),
) -> str:
    """For programs, on one line: the regions as `--regions` reads them; "errors" where regions failed."""
    captions = [_entry(one, texts) for one in answered]
    content = {"photo": photo, "size": size, "grid": grid, "captions": captions}
    return json.dumps(content | ({"errors": list(errors)} if errors else {}), allow_nan=False)


def _entry(one: Answered, texts: Sequence[str]) -> dict[str, Any]:
    said = one.answer.to_dict()
    for key in ("cosines", "probabilities") if isinstance(one.answer, Label) else ():
        said[key] = dict(zip(texts, said[key], strict=True))
    known = {"region": said.pop("region"), "label": one.name}
    return known | ({} if one.id is None else {"id": one.id}) | said
