"""What can go wrong with a call, as a value, and the errors that a caller tells apart.

Knows: the two kinds of failure that matter to a caller. Does NOT know: protocols or libraries.
"""

from __future__ import annotations

from dataclasses import dataclass

from patchioner.base.errors import DetailError, FutileError


class EmptyAnswerError(DetailError):
    """A model answered, and said nothing; another sample may say something."""


@dataclass(frozen=True)
class Failure:
    """Why one attempt failed.

    Attributes:
        reason: in words, fit to be shown: no secrets.
        retry: whether the same request may succeed later.
        wait: seconds that the server asks to wait, where it does.
        futile: whether no other request would fare better.
    """

    reason: str
    retry: bool = False
    wait: float | None = None
    futile: bool = False

    def error(self, prefix: str = "") -> DetailError:
        """The exception that says so."""
        return (FutileError if self.futile else DetailError)(prefix + self.reason)
