"""What a client is told of what went wrong: always in our own words, never in a library's."""

from __future__ import annotations

from typing import Any

from patchioner.base import errors
from patchioner.base.errors import PatchionerError


class RequestError(PatchionerError):
    """A request without an answer: HTTP's status, a word for programs, seconds after which to try again."""

    def __init__(
        self, status: int, kind: str, message: str, *, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.retry_after = status, kind, retry_after

    def to_dict(self) -> dict[str, Any]:
        """As it stands in answers, under "error"."""
        return {"type": self.kind, "message": str(self)}


# The last column replaces messages that quote a library.
_TOLD: tuple[tuple[type[PatchionerError], int, str, str | None], ...] = (
    (errors.RegionError, 400, "bad_region", None),
    (errors.RegionFileError, 400, "bad_region", None),
    (errors.OptionError, 400, "bad_option", None),
    (errors.DecoderError, 400, "bad_option", None),
    (errors.TextError, 400, "bad_text", None),
    (errors.UnknownNameError, 404, "unknown_model", None),
    (errors.ImageError, 400, "bad_image", "the photo is damaged, or of no known kind"),
    (errors.OutOfMemoryError, 413, "too_large", "too little memory: give fewer regions"),
)


def told(error: BaseException) -> RequestError:
    """What a client is told of an error; of one that nobody foresaw, nothing but that.

    Example:
        >>> told(ZeroDivisionError("secret")).to_dict()
        {'type': 'failed', 'message': 'the server failed at this request; its log says more'}
    """
    if isinstance(error, RequestError):
        return error
    for sort, status, kind, words in _TOLD:
        if isinstance(error, sort):
            return RequestError(status, kind, words or str(error))
    return RequestError(500, "failed", "the server failed at this request; its log says more")


def bad_request(message: str) -> RequestError:
    """The request itself cannot be understood."""
    return RequestError(400, "bad_request", message)
