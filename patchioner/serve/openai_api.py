"""OpenAI's dialect: chat completions about a photo and its regions, and embeddings of texts and regions."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field
from torch import Tensor

from patchioner.base.errors import PatchionerError
from patchioner.serve.chat import Conversation, Drawing, as_lines
from patchioner.serve.errors import bad_request
from patchioner.serve.native import Asker

router = APIRouter(prefix="/v1")


class ChatRequest(Conversation, Drawing):
    """OpenAI's, with `regions` and `candidates` of ours."""

    stream: bool = False
    n: int | None = None


@router.post("/chat/completions")
async def chat(question: ChatRequest, photos: Asker) -> Response:
    """Captions of a photo's regions, one a line; the message's `captions` has them as /v1 gives them."""
    if question.n not in (None, 1):
        raise bad_request("'n' must be 1: a region has one caption")
    found = await question.answer(photos, question)
    lines = as_lines(found)
    head: dict[str, Any] = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time())}
    head["model"] = photos.model.settings.name
    if question.stream:
        return StreamingResponse(_chunks(head, lines), media_type="text/event-stream")
    message = {"role": "assistant", "content": "\n".join(lines), "captions": found}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return JSONResponse({**head, "object": "chat.completion", "choices": [choice]})


def _chunks(head: dict[str, Any], lines: Sequence[str]) -> Iterator[str]:
    texts = [*(line + "\n" for line in lines[:-1]), lines[-1]]
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": text} for text in texts]
    for place, delta in enumerate([*deltas, {}]):
        reason = "stop" if place == len(deltas) else None
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = {**head, "object": "chat.completion.chunk", "choices": [choice]}
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


class EmbeddingRequest(BaseModel):
    """OpenAI's; `image` and `regions` are ours: rows of the regions follow those of the texts."""

    model: str
    input: str | list[str] = []
    image: str | None = None
    regions: list[dict[str, Any]] | None = None
    encoding_format: str = Field(default="float", pattern="^(float|base64)$")


@router.post("/embeddings")
async def embeddings(question: EmbeddingRequest, photos: Asker) -> JSONResponse:
    """Texts and regions as vectors of one space."""
    photos.require_model(question.model)
    texts = [question.input] if isinstance(question.input, str) else question.input
    rows: list[Tensor | PatchionerError] = []
    if texts:
        rows += (await photos.engine.texts(photos.texts(texts))).unbind()
    if question.image is not None:
        photo = await photos.upload(question.image)
        regions = await photos.regions(question.regions, photo)
        rows += await photos.engine.embeddings(photo, regions)
    data = [
        {"object": "embedding", "index": place, "embedding": _vector(row, question.encoding_format)}
        for place, row in enumerate(rows)
    ]
    answer = {"object": "list", "data": data, "model": question.model}
    return JSONResponse(answer | {"usage": {"prompt_tokens": 0, "total_tokens": 0}})


def _vector(row: Tensor | PatchionerError, form: str) -> Any:
    if isinstance(row, PatchionerError):
        raise row
    values = row.float().cpu()
    if form == "float":
        return values.tolist()
    return base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()
