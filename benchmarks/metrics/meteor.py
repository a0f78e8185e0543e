"""METEOR 1.5 through its Java program, kept running as one process.

Knows: the program inside pycocoevalcap, its line protocol and how it is watched and closed.
Does NOT know: other metrics, or who tokenised the captions.

Source: Denkowski, Lavie, "Meteor Universal: Language Specific Translation Evaluation for Any Target Language" (2014);
the command line is that of the COCO caption evaluation (English, `-norm`).
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.java import JavaError, as_bytes, find_java, jar_of, last_lines, one_line
from benchmarks.metrics.ngrams import check_pairs

JAR = "meteor-1.5.jar"

# Questions under way at once: enough that neither side waits for the other, few enough that both pipes (64 KiB on
# Linux) hold them, since a full pipe in both directions would be a deadlock.
_AHEAD_CHARACTERS = 8_000
_AHEAD_LINES = 64


class Meteor:
    """One running METEOR program; a context manager.

    Starting takes some seconds (a paraphrase table of 60 MB is read), a pair well under a millisecond afterwards. Not
    for several threads at once.

    Args:
        heap: largest Java heap (the evaluation's own 2 GB; about 1 GB is used).

    Raises:
        JavaError: no usable Java, or the program died; then the object is closed and a new one may be made.
        MissingExtraError: pycocoevalcap is not installed.

    Example:
        >>> with Meteor() as meteor:  # doctest: +SKIP
        ...     corpus, samples = meteor.score(["a red bus"], [["the red bus"]])
    """

    def __init__(self, *, heap: str = "2G") -> None:
        jar = jar_of("meteor", JAR)
        head = find_java("METEOR").arguments(heap=heap)
        command = [*head, "-jar", JAR, "-", "-", "-stdio", "-l", "en", "-norm"]
        # A file, not a pipe: nobody reads it while the program runs, and a full pipe would stop it.
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                command, cwd=jar.parent,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints,
            )  # fmt: skip
        except OSError as error:
            self._complaints.close()
            raise JavaError(f"METEOR cannot be started ({error}): check `java -version`") from error

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> tuple[float, NDArray[np.float64]]:
        """Score captions by METEOR, times 100.

        Args:
            predictions: n captions, as text. The program's own normalisation splits them into words; already tokenised
                captions (words joined by spaces) are what the COCO evaluation gives it.
            references: n lists of at least one reference each.

        Returns:
            The score of the set (from pooled statistics, so not the mean of the samples) and the n scores of the
            samples as a float64 array of shape (n,).

        Raises:
            OptionError: the lists cannot be paired.
            JavaError: the program died.

        Example:
            >>> meteor.score(["a red bus"], [["the red bus"]])[1]  # doctest: +SKIP
        """
        return self.evaluate(self.statistics(predictions, references))

    def statistics(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> NDArray[np.float64]:
        """What METEOR counts of each sample, (n, 23) float64; sums of rows are the counts of a set.

        Args, errors: as `score`.

        Example:
            >>> meteor.statistics(["a red bus"], [["the red bus"]]).shape  # doctest: +SKIP
            (1, 23)
        """
        check_pairs(predictions, references)
        questions = [
            " ||| ".join(["SCORE", *map(clean, group), clean(text)])
            for text, group in zip(predictions, references, strict=True)
        ]
        answers = self._ask_many(questions)
        try:
            return np.array([answer.split() for answer in answers], dtype=np.float64)
        except ValueError:
            raise self._died(f"it answered {answers[0][:80]!r} where statistics were due") from None

    def evaluate(self, statistics: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """METEOR, times 100, of all rows (or sums of rows) of `statistics` pooled, and of each row.

        Raises:
            JavaError: the program died.

        Example:
            >>> meteor.evaluate(statistics)[0]  # doctest: +SKIP
        """
        rows = (" ".join(map(repr, row)) for row in statistics.tolist())
        self._write(" ||| ".join(["EVAL", *rows]))
        scores = [100.0 * self._number() for _ in statistics]
        return 100.0 * self._number(), np.array(scores, dtype=np.float64)

    def _ask_many(self, questions: Sequence[str]) -> list[str]:
        """One answer line per question, a handful of questions ahead."""
        answers: list[str] = []
        for group in _handfuls(questions):
            self._write("\n".join(group))
            answers.extend(self._read() for _ in group)
        return answers

    def _number(self) -> float:
        said = self._read()
        try:
            return float(said)
        except ValueError:
            raise self._died(f"it answered {said[:80]!r} where a score was due") from None

    def _write(self, line: str) -> None:
        stream = self._process.stdin
        if stream is None or stream.closed:
            raise JavaError("this METEOR is closed: make a new one")
        try:
            stream.write(as_bytes(f"{line}\n"))
            stream.flush()
        except OSError as error:
            raise self._died("its input is closed") from error

    def _read(self) -> str:
        stream = self._process.stdout
        assert stream is not None
        line = stream.readline()
        if not line.endswith(b"\n"):
            raise self._died("its output ended")
        return line.decode("utf-8", "replace").strip()

    def _died(self, what: str) -> JavaError:
        """Close everything and say why, with the last lines that the program wrote."""
        self._stop()
        status = self._process.returncode
        self._complaints.seek(0)
        said = last_lines(self._complaints.read().decode("utf-8", "replace"))
        self._complaints.close()
        return JavaError(
            f"METEOR died ({what}; exit status {status}): {said or 'it said nothing'}. It needs about 1 GB of memory;"
            " free some, or leave METEOR out"
        )

    def _stop(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not stream.closed:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # bytes still in our buffer for a program that is gone
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the program; closing twice does nothing."""
        self._stop()
        self._complaints.close()

    def __enter__(self) -> Meteor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _handfuls(lines: Sequence[str]) -> Iterator[list[str]]:
    """Groups of lines that both pipes hold; a longer line goes alone."""
    group: list[str] = []
    size = 0
    for line in lines:
        if group and (size + len(line) > _AHEAD_CHARACTERS or len(group) == _AHEAD_LINES):
            yield group
            group, size = [], 0
        group.append(line)
        size += len(line)
    if group:
        yield group


def clean(text: str) -> str:
    """`text` as the line protocol can carry it: on one line, without the separator "|||".

    Example:
        >>> clean("a ||| red\\nbus")
        'a red bus'
    """
    return one_line(text.replace("|||", " "))
