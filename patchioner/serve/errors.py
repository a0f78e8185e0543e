"""What a client is told of what went wrong: always in our own words, never in a library's."""

from __future__ import annotations

from typing import Any

from patchioner.base.errors import (
    DecoderError,
    ImageError,
    OptionError,
    OutOfMemoryError,
    PatchionerError,
    RegionError,
    RegionFileError,
    TextError,
    UnknownNameError,
)


class RequestError(PatchionerError):
    """A request that gets no answer.

    Attributes:
        status: of HTTP.
        kind: a word for programs, such as "unknown_image".
        retry_after: seconds after which another attempt makes sense.
    """

    def __init__(
        self, status: int, kind: str, message: str, *, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.retry_after = status, kind, retry_after

    def to_dict(self) -> dict[str, Any]:
        """As it stands in answers, under "error"."""
        return {"type": self.kind, "message": str(self)}


_KINDS: tuple[tuple[type[PatchionerError] | tuple[type[PatchionerError], ...], int, str], ...] = (
    ((RegionError, RegionFileError), 400, "bad_region"),
    ((OptionError, DecoderError), 400, "bad_option"),
    (TextError, 400, "bad_text"),
    (UnknownNameError, 404, "unknown_model"),
)
# The messages of these quote what a library said.
_OWN_WORDS: tuple[tuple[type[PatchionerError], int, str, str], ...] = (
    (ImageError, 400, "bad_image", "the photo cannot be decoded: it is damaged or of no known kind"),
    (OutOfMemoryError, 413, "too_large", "too little memory: give fewer regions or a smaller photo"),
)  # fmt: skip


def told(error: BaseException) -> RequestError:
    """What a client is told of an error; of one that nobody foresaw, nothing but that.

    Example:
        >>> told(ZeroDivisionError("secret")).to_dict()
        {'type': 'failed', 'message': 'the server failed at this request; its log says more'}
    """
    if isinstance(error, RequestError):
        return error
    for kinds, status, kind in _KINDS:
        if isinstance(error, kinds):
            return RequestError(status, kind, str(error))
    for own, status, kind, words in _OWN_WORDS:
        if isinstance(error, own):
            return RequestError(status, kind, words)
    return RequestError(500, "failed", "the server failed at this request; its log says more")


def bad_request(message: str) -> RequestError:
    """The request itself cannot be understood."""
    return RequestError(400, "bad_request", message)
