"""Ollama's dialect: /api/generate, /api/chat and /api/tags."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import Field

from patchioner.serve.chat import Conversation, Drawing, Message, as_lines
from patchioner.serve.native import Asker, Photos

router = APIRouter(prefix="/api")
Say = Callable[[str], dict[str, Any]]


class OllamaChat(Conversation):
    """Ollama's, with `regions` and `candidates` of ours."""

    stream: bool = True
    options: Drawing | None = None


class OllamaPrompt(OllamaChat):
    """A prompt with a photo."""

    messages: list[Message] = Field(default=[], exclude=True)
    prompt: str = ""
    images: list[str] | None = None


@router.post("/chat")
async def chat(question: OllamaChat, photos: Asker) -> Response:
    """Captions of a photo's regions, one a line."""
    say: Say = lambda text: {"message": {"role": "assistant", "content": text}}  # noqa: E731
    return await _reply(question, photos, say)


@router.post("/generate")
async def generate(question: OllamaPrompt, photos: Asker) -> Response:
    """The same of a prompt. Without prompt and photo it says that the model is loaded, as Ollama does."""
    if question.prompt or question.images:
        question.messages = [Message(content=question.prompt, images=question.images)]
    return await _reply(question, photos, lambda text: {"response": text})


@router.get("/tags")
async def tags(photos: Asker) -> JSONResponse:
    """The model."""
    name = f"{photos.model.settings.name}:latest"
    details = {"format": "safetensors", "family": "patchioner", "families": ["patchioner"]}
    entry = {"name": name, "model": name, "size": 0, "digest": "", "details": details}
    return JSONResponse({"models": [entry | {"modified_at": _now()}]})


async def _reply(question: OllamaChat, photos: Photos, say: Say) -> Response:
    started = time.monotonic_ns()
    photos.require_model(question.model)
    lines: list[str] = []
    if question.messages:
        lines = as_lines(await question.answer(photos, question.options or Drawing()))

    def part(text: str, **more: Any) -> dict[str, Any]:
        return {"model": question.model, "created_at": _now(), **say(text), **more}

    def end(text: str) -> dict[str, Any]:
        spent = time.monotonic_ns() - started
        return part(text, done=True, done_reason="stop", total_duration=spent)

    def chunks() -> Iterator[str]:
        for place, line in enumerate(lines):
            text = line + ("\n" if place + 1 < len(lines) else "")
            yield json.dumps(part(text, done=False)) + "\n"
        yield json.dumps(end("")) + "\n"

    if question.stream:
        return StreamingResponse(chunks(), media_type="application/x-ndjson")
    return JSONResponse(end("\n".join(lines)))


def _now() -> str:
    return datetime.now(UTC).isoformat()
