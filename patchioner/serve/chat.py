"""What the dialects of OpenAI and Ollama have in common: a photo in a conversation, regions, and captions as text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, Field

from patchioner.serve.engine import Asked
from patchioner.serve.errors import RequestError, bad_request
from patchioner.serve.native import Photos

_BOX = re.compile(r"<box>\s*([^<>]{1,200}?)\s*</box>")
_NUMBER = re.compile(r"-?\d{1,7}(\.\d{1,6})?")


class Link(BaseModel):
    """Of an image: a data URL."""

    url: str


class Part(BaseModel):
    """Of a message of OpenAI's: text, or an image."""

    text: str = ""
    image_url: Link | None = None


class Message(BaseModel):
    """Of a conversation; `images` are Ollama's."""

    content: str | list[Part] | None = None
    images: list[str] | None = None

    def read(self) -> tuple[str, list[str]]:
        """Text and photos."""
        content = self.content or ""
        parts = [Part(text=content)] if isinstance(content, str) else content
        urls = [part.image_url.url for part in parts if part.image_url]
        return " ".join(part.text for part in parts), [*urls, *(self.images or ())]


class Drawing(BaseModel):
    """How words are drawn, in either dialect's names. Above a temperature of 0 the decoder samples, with `top_p` and
    `seed`; else it works in the model's own way. More tokens than the model's own limit are never written.
    """

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    num_predict: int | None = None

    def asked(self, photos: Photos) -> Asked:
        """The same as our own options."""
        options = photos.model.settings.decode
        most = self.max_completion_tokens or self.max_tokens or self.num_predict or -1
        if most > 0:  # Ollama's -1 is "no limit"
            options = replace(options, max_tokens=min(most, options.max_tokens))
        if self.temperature:
            drawn: dict[str, Any] = {"temperature": self.temperature, "seed": self.seed or 0}
            options = replace(options, strategy="sample", top_p=self.top_p or 1.0, **drawn)
        return Asked(options)


class Conversation(BaseModel):
    """What every request has; `regions` and `candidates` are ours, fields that mean nothing here are ignored."""

    model: str
    messages: list[Message] = Field(min_length=1)
    regions: list[dict[str, Any]] | None = None
    candidates: list[str] | None = None

    async def answer(self, photos: Photos, drawing: Drawing) -> list[dict[str, Any]]:
        """A caption, as JSON, for each region of the last photo; boxes in the last message follow `regions`.

        Raises:
            PatchionerError: another model, no photo, or of the first region that cannot be used.
        """
        photos.require_model(self.model)
        asked, read = drawing.asked(photos), [message.read() for message in self.messages]
        regions = [*(self.regions or ()), *boxes_in(read[-1][0])]
        photo = await photos.upload(_last([images for _, images in read if images]))
        found = await photos.captions(photo, regions or None, asked, self.candidates)
        for place, one in enumerate(found):
            if "error" in one:
                error = one["error"]
                raise RequestError(400, error["type"], f"region {place}: {error['message']}")
        return found


def boxes_in(text: str) -> list[dict[str, Any]]:
    """The boxes of a prompt.

    Example:
        >>> boxes_in("What is in <box>10,20,30,40</box>?")
        [{'box': [10.0, 20.0, 30.0, 40.0]}]
    """
    boxes = []
    for found in _BOX.findall(text):
        values = [value.strip() for value in found.split(",")]
        if len(values) != 4 or not all(_NUMBER.fullmatch(value) for value in values):
            raise bad_request(f"<box>{found:.60}</box> is not <box>x1,y1,x2,y2</box> in pixels")
        boxes.append({"box": [float(value) for value in values]})
    return boxes


def as_lines(captions: Sequence[dict[str, Any]]) -> list[str]:
    """What a chat says, one line for each region."""
    return [one["text"] or f"not sure: {one['reason']}" for one in captions]


def _last(images: Sequence[Sequence[str]]) -> str:
    if not images:
        raise bad_request("this model captions photos: send one, as base64 or a data URL")
    if len(images[-1]) > 1:
        raise bad_request("several photos in one message: send one at a time")
    return images[-1][0]
