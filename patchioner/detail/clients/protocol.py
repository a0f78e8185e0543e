"""The OpenAI chat protocol: how a request is worded, a reply read, and an error judged.

Knows: the JSON of /chat/completions, and which errors pass. Does NOT know: connections, retries, keys.
"""

from __future__ import annotations

import base64
import email.utils
import io
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from patchioner.detail.clients.answers import clean_answer
from patchioner.detail.clients.failures import Failure

# What may be left out, or be put another way, when a server says that it does not know it.
OPTIONAL = ("n", "seed", "top_p", "temperature", "max_tokens")
_PICTURE_TOKENS = 1_000  # about what the paid servers count for a photo of a thousand pixels
_REASON_LENGTH = 300

# Codes of OpenAI, Azure ("ResponsibleAIPolicyViolation"), DashScope ("data_inspection_failed") and their like.
_CONTENT_CODE = re.compile(
    r"content.?(policy|filter|moderation|violation)|prohibited.?content|moderation|safety|sensitive|"
    r"responsible.?ai|data.?inspection",
    re.IGNORECASE,
)
_CONTENT = re.compile(r"\b(content|inputs?|images?|pictures?|photos?|prompts?)\b", re.IGNORECASE)
_RULE = re.compile(
    r"\b(violat\w+|flagged|moderat\w+|unsafe|safety|inappropriate|polic(y|ies)|guidelines)\b",
    re.IGNORECASE,
)
_ABOUT_WHO = re.compile(
    r"\b(key|keys|account|organi[sz]ation|project|billing|credentials?|subscription|permissions?|region|"
    r"country|ip)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reply:
    """What one request gave.

    Attributes:
        texts: cleaned, without the empty ones; as many as were asked for, or fewer.
        finish: why the empty ones are empty, in the server's words.
        tokens_in, tokens_out: as counted by the server, or estimated.
        estimated: whether they are.
    """

    texts: tuple[str, ...]
    finish: str
    tokens_in: int
    tokens_out: int
    estimated: bool


def data_url(image: Image.Image, *, max_side: int = 1024, quality: int = 90) -> str:
    """A photo as a JPEG in a data URL; the same pixels give the same text.

    Args:
        image: any size; its longer side is brought down to `max_side`, never up.
        max_side: pixels.
        quality: of the JPEG, 1 to 95.

    Example:
        >>> data_url(Image.new("RGB", (8, 8)))[:27]
        'data:image/jpeg;base64,/9j/'
    """
    fitted = image.convert("RGB")
    fitted.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    fitted.save(file, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def messages(system: str, user: str, picture: str | None = None) -> list[dict[str, Any]]:
    """The messages of a request: what the model is told, what is asked, and a picture's data URL ahead of it."""
    said: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    if picture is None:
        return [*said, {"role": "user", "content": user}]
    shown = {"type": "image_url", "image_url": {"url": picture}}
    return [*said, {"role": "user", "content": [shown, {"type": "text", "text": user}]}]


def adapted(request: Mapping[str, Any], refused: Sequence[str]) -> dict[str, Any]:
    """A request without the parameters that this server refused; the newer name of `max_tokens` takes its place."""
    sent = {name: value for name, value in request.items() if name not in refused}
    if "max_tokens" in refused and "max_tokens" in request:
        sent["max_completion_tokens"] = request["max_tokens"]
    return sent


def refused_parameter(error: Any, request: Mapping[str, Any]) -> str | None:
    """Which optional parameter of a request a server says it does not take (HTTP 400 or 422); None for other errors."""
    if getattr(error, "status_code", None) not in (400, 422):
        return None
    named = getattr(error, "param", None)
    if named in OPTIONAL and named in request:
        return str(named)
    said = f"{getattr(error, 'message', '')} {json.dumps(getattr(error, 'body', ''), default=str)}"
    quoted = [
        name
        for name in OPTIONAL
        if name in request and any(f"{mark}{name}{mark}" in said for mark in "'\"`")
    ]
    if quoted:
        return quoted[0]
    # llama.cpp and others name no parameter.
    several = request.get("n", 1) > 1 and "one completion" in said.lower()
    return "n" if several else None


def read_reply(body: str, request: Mapping[str, Any]) -> Reply | Failure:
    """The texts in a reply's JSON, or a failure that may pass where it is no such reply."""
    try:
        reply = json.loads(body)
        choices = reply["choices"]
        read = [_text_of(choice) for choice in choices]
        finish = ", ".join(sorted({_finish_of(choice) for choice in choices}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        kind = f"{type(error).__name__}: {str(error)[:80]}"
        return Failure(f"the reply is not a chat completion ({kind})", retry=True)
    if not read:
        return Failure("the reply has no choices", retry=True)
    texts = tuple(text for text in map(clean_answer, read) if text)
    counted = _counted(reply.get("usage"))
    tokens_in, tokens_out = counted or _estimated(request, read)
    return Reply(texts, finish or "no reason given", tokens_in, tokens_out, counted is None)


def judge(error: Any) -> Failure | None:
    """What an exception of the `openai` package means; None where it is none of a server's or a connection's."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if "APITimeoutError" in names:
        return Failure("no answer in time", retry=True)
    if "APIConnectionError" in names:
        cause = type(error.__cause__).__name__ if error.__cause__ else "no more is known"
        return Failure(f"the connection failed ({cause})", retry=True)
    if "APIStatusError" not in names:
        return None
    status = int(error.status_code)
    said = " ".join(str(error.message).split()).removeprefix(f"Error code: {status} - ")
    reason = f"HTTP {status}: {said[:_REASON_LENGTH]}"
    if status == 429 and getattr(error, "code", None) == "insufficient_quota":
        return Failure(f"{reason}; the account's quota is spent", futile=True)
    if status == 403 and refused_content(getattr(error, "body", None)):
        return Failure(f"{reason}; the server refuses this content")
    if status in (401, 403):
        return Failure(f"{reason}; check the key, and the variable that holds it", futile=True)
    if status == 404:
        return Failure(f"{reason}; check the model's name and the base URL", futile=True)
    if status in (408, 409, 429) or status >= 500:
        return Failure(reason, retry=True, wait=retry_after(error.response.headers))
    return Failure(reason)


def refused_content(body: Any) -> bool:
    """Whether the error in a reply with HTTP 403 is about what was asked or shown, and not about who asks.

    Decided by the fields that machines read (code, type, the inner error's code; lists of what was flagged), else by
    the words: those that speak of content and a rule that it breaks, and not of an account. In doubt it is the key.

    Args:
        body: the error as the `openai` package has it: the value of "error", a text, None.

    Example:
        >>> refused_content({"message": "no", "code": "content_policy_violation"})
        True
        >>> refused_content({"message": "no", "code": "invalid_api_key"})
        False
    """
    fields = body if isinstance(body, Mapping) else {}
    inner = fields.get("innererror")
    codes = [fields.get("code"), fields.get("type")]
    codes += [inner.get("code")] if isinstance(inner, Mapping) else []
    if any(_CONTENT_CODE.search(code) for code in codes if isinstance(code, str)):
        return True
    metadata = fields.get("metadata")
    if isinstance(metadata, Mapping) and metadata.get("flagged_input"):
        return True
    message = fields.get("message") if fields else body
    if not isinstance(message, str) or _ABOUT_WHO.search(message):
        return False
    return _CONTENT.search(message) is not None and _RULE.search(message) is not None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, from its headers (seconds or a date, RFC 9110 10.2.3); None without."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        return seconds if 0 <= seconds < float("inf") else None
    try:
        date = email.utils.parsedate_to_datetime(headers["retry-after"])
        return max(0.0, date.timestamp() - time.time())
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _text_of(choice: Any) -> str:
    content = choice["message"].get("content")
    if isinstance(content, list):  # some servers send parts
        content = "".join(
            part["text"] for part in content if isinstance(part, dict) and part.get("text")
        )
    if content is None:
        return ""
    if not isinstance(content, str):
        raise TypeError(f"content is of type {type(content).__name__}")
    return content


def _finish_of(choice: Any) -> str:
    refusal = choice["message"].get("refusal")
    return clean_answer(str(refusal or choice.get("finish_reason") or ""))[:80]


def _counted(usage: Any) -> tuple[int, int] | None:
    if not isinstance(usage, dict):
        return None
    counts = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    if any(not isinstance(one, int) or isinstance(one, bool) or one < 0 for one in counts):
        return None
    return counts  # type: ignore[return-value]


def _estimated(request: Mapping[str, Any], texts: Sequence[str]) -> tuple[int, int]:
    """Four characters are about a token; pictures have a lump sum."""
    tokens_in = 0
    for message in request["messages"]:
        parts = message["content"]
        for part in [{"text": parts}] if isinstance(parts, str) else parts:
            tokens_in += len(part["text"]) // 4 + 1 if "text" in part else _PICTURE_TOKENS
    return tokens_in, sum(len(text) // 4 + 1 for text in texts)
