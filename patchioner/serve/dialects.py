"""The dialects of other servers: OpenAI's and Ollama's chats about a photo's regions, Label Studio's ML backend."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote
from xml.etree import ElementTree

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from patchioner.base.errors import PatchionerError, RegionError
from patchioner.pipeline import attempt
from patchioner.regions.annotators import from_label_studio
from patchioner.serve.engine import Asker, Encoded, Engine
from patchioner.serve.schemas import Asked, Decoding, Json, RequestError, bad_request, failure

router = APIRouter()
Entry = Mapping[str, Any]
_BOX = re.compile(r"<box>\s*([^<>]{1,200}?)\s*</box>", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d{1,7}(\.\d{1,6})?")
_KINDS = ("rectangle", "polygon", "brush", "ellipse", "keypoint")  # of Label Studio
_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}  # nothing is counted
_NO_PLACE = ("labels", "text", "rectanglelabels", "polygonlabels", "brushlabels")


class Lenient(BaseModel):
    """A body in which null means that a field is not there, as other servers have it."""

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, body: Any) -> Any:
        return {key: one for key, one in body.items() if one is not None} if isinstance(body, dict) else body


class Part(Lenient):
    """Of a message of OpenAI's: text, or an image as a data URL, or {"url": one}."""

    text: str = ""
    image_url: Json | str | None = None


class Message(Lenient):
    """Of a conversation; `images` are Ollama's."""

    content: str | list[Part] | None = None
    images: list[str] | None = None

    def read(self) -> tuple[str, list[str]]:
        """Text and photos."""
        content = self.content or ""
        parts = [Part(text=content)] if isinstance(content, str) else content
        links = [part.image_url for part in parts]
        urls = [link.get("url", "") if isinstance(link, dict) else link for link in links]
        photos = [*(str(url) for url in urls if url is not None), *(self.images or ())]
        return " ".join(part.text for part in parts), photos


class Drawing(Lenient):
    """How words are drawn, in either dialect's names: sampled above a temperature of 0, else in the model's own way."""

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    num_predict: int | None = None

    def asked(self, engine: Engine) -> Asked:
        """The same as our own options."""
        drawn: Json = {}
        most = self.max_completion_tokens or self.max_tokens or self.num_predict or -1
        if most > 0:  # Ollama's -1 is "no limit"
            drawn["max_tokens"] = min(most, engine.model.settings.decode.max_tokens)
        if self.temperature:
            seed = (self.seed or 0) % 2**63  # others may be negative
            drawn |= {"strategy": "sample", "temperature": self.temperature, "seed": seed, "top_p": self.top_p or 1.0}
        return Decoding(**drawn).asked(engine.model)


class Conversation(Lenient):
    """What every request has; `regions` and `candidates` are ours, fields that mean nothing here are ignored."""

    model: str
    messages: list[Message] = Field(min_length=1)
    regions: list[Json] | None = None
    candidates: list[str] | None = None

    async def answer(self, engine: Engine, drawing: Drawing) -> list[Json]:
        """Captions of the last photo's `regions`, and of boxes in the last message; the first error is raised."""
        engine.require_model(self.model)
        asked, read = drawing.asked(engine), [message.read() for message in self.messages]
        regions = [*(self.regions or ()), *_boxes_in(read[-1][0])]
        images = next((images for _, images in reversed(read) if images), ())
        if len(images) != 1:
            raise bad_request(f"send one photo in a message, as base64 or a data URL: there are {len(images)}")
        photo = await engine.upload(images[0])
        found = await engine.captions(photo, regions or None, asked, self.candidates)
        for place, error in ((at, one["error"]) for at, one in enumerate(found) if "error" in one):
            raise RequestError(400, error["type"], f"region {place}: {error['message']}")
        return found


def _boxes_in(text: str) -> Iterator[Json]:
    boxes = _BOX.findall(text)
    if text.lower().count("<box>") != len(boxes):
        raise bad_request("a <box> is not <box>x1,y1,x2,y2</box>")
    for found in boxes:
        values = [value.strip() for value in found.split(",")]
        if len(values) != 4 or not all(_NUMBER.fullmatch(value) for value in values):
            raise bad_request(f"<box>{found:.60}</box> is not <box>x1,y1,x2,y2</box> in pixels")
        yield {"box": [float(value) for value in values]}


def _lines(captions: Sequence[Json]) -> list[str]:
    """What a chat says, one line for each region."""
    texts = [one["text"] or f"not sure: {one['reason']}" for one in captions]
    return [*(text + "\n" for text in texts[:-1]), *texts[-1:]]


class ChatRequest(Conversation, Drawing):
    """OpenAI's, with `regions` and `candidates` of ours."""

    stream: bool = False
    n: int | None = None


@router.post("/v1/chat/completions")
async def openai_chat(question: ChatRequest, engine: Asker) -> Response:
    """Captions of a photo's regions, one a line; the message's `captions` has them as /v1 gives them."""
    if question.n not in (None, 1):
        raise bad_request("'n' must be 1: a region has one caption")
    found = await question.answer(engine, question)
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": engine.model.settings.name}
    if question.stream:
        return StreamingResponse(_chunks(head, _lines(found)), media_type="text/event-stream")
    message = {"role": "assistant", "content": "".join(_lines(found)), "captions": found}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": _USAGE})


def _chunks(head: Entry, lines: Sequence[str]) -> Iterator[str]:
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": line} for line in lines]
    for delta in [*deltas, {}]:
        choice = {"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}
        chunk = {**head, "object": "chat.completion.chunk", "choices": [choice]}
        yield f"data: {json.dumps(chunk if delta else chunk | {'usage': _USAGE})}\n\n"
    yield "data: [DONE]\n\n"


class EmbeddingRequest(Lenient):
    """OpenAI's; `image` and `regions` are ours: rows of the regions follow those of the texts."""

    model: str
    input: str | list[str] = []
    image: str | None = None
    regions: list[Json] | None = None
    dimensions: int | None = None
    encoding_format: str = Field(default="float", pattern="^(float|base64)$")


@router.post("/v1/embeddings")
async def embeddings(question: EmbeddingRequest, engine: Asker) -> JSONResponse:
    """Texts and regions as vectors of one space."""
    engine.require_model(question.model)
    texts = [question.input] if isinstance(question.input, str) else question.input
    rows: list[Tensor | PatchionerError] = []
    if texts:
        rows += (await engine.texts(texts)).unbind()
    if question.image is not None:
        rows += await engine.ask(("embed",), await engine.upload(question.image), question.regions)
    if not rows:
        raise bad_request("give texts as 'input', or a photo as 'image'")
    data: list[Json] = []
    for place, row in enumerate(rows):
        if isinstance(row, PatchionerError):
            raise row
        if question.dimensions not in (None, len(row)):
            raise bad_request(f"'dimensions' must be {len(row)}: vectors are not cut")
        vector: Any = row.tolist()
        if question.encoding_format == "base64":
            vector = base64.b64encode(row.cpu().numpy().astype("<f4").tobytes()).decode()
        data.append({"object": "embedding", "index": place, "embedding": vector})
    return JSONResponse({"object": "list", "data": data, "model": question.model, "usage": _USAGE})


class OllamaChat(Conversation):
    """Ollama's, with `regions` and `candidates` of ours."""

    stream: bool = True
    options: Drawing | None = None


class OllamaPrompt(OllamaChat):
    """A prompt with a photo."""

    messages: list[Message] = Field(default=[], exclude=True)
    prompt: str = ""
    images: list[str] | None = None


@router.post("/api/chat")
async def ollama_chat(question: OllamaChat, engine: Asker) -> Response:
    """Captions of a photo's regions, one a line."""
    return await _reply(question, engine, lambda text: {"message": {"role": "assistant", "content": text}})


@router.post("/api/generate")
async def ollama_generate(question: OllamaPrompt, engine: Asker) -> Response:
    """The same of a prompt. Without prompt and photo it says that the model is loaded, as Ollama does."""
    if question.prompt or question.images:
        question.messages = [Message(content=question.prompt, images=question.images)]
    return await _reply(question, engine, lambda text: {"response": text})


@router.get("/api/tags")
async def ollama_tags(engine: Asker) -> JSONResponse:
    """The model."""
    name = f"{engine.model.settings.name}:latest"
    details = {"format": "safetensors", "family": "patchioner", "families": ["patchioner"]}
    entry = {"name": name, "model": name, "size": 0, "digest": "", "details": details}
    return JSONResponse({"models": [entry | {"modified_at": _now()}]})


async def _reply(question: OllamaChat, engine: Engine, say: Callable[[str], Entry]) -> Response:
    started = time.monotonic_ns()
    engine.require_model(question.model)
    drawing = question.options or Drawing()
    lines = _lines(await question.answer(engine, drawing)) if question.messages else []

    def part(text: str) -> Json:
        end = {"done_reason": "stop", "total_duration": time.monotonic_ns() - started}
        more = {"done": False} if text and question.stream else {"done": True, **end}
        return {"model": question.model, "created_at": _now(), **say(text), **more}

    if question.stream:
        parts = (json.dumps(part(text)) + "\n" for text in [*lines, ""])
        return StreamingResponse(parts, media_type="application/x-ndjson")
    return JSONResponse(part("".join(lines)))


def _now() -> str:
    return datetime.now(UTC).isoformat()


class PredictRequest(BaseModel):
    """Tasks to look at; what people drew stands in `params.context.result` or in the tasks."""

    tasks: list[Json]
    label_config: str | None = None
    params: Json | None = None


@router.post("/setup")
async def setup(engine: Asker) -> JSONResponse:
    """Label Studio tells of a project, and is told which model this is."""
    return JSONResponse({"model_version": engine.model.settings.name})


@router.post("/predict")
async def predict(question: PredictRequest, engine: Asker) -> JSONResponse:
    """Texts of drawn regions, or of whole photos where nothing is drawn; an error costs its task alone."""
    names = _names(question.label_config or "")
    context = (question.params or {}).get("context")
    drawn = context.get("result") if isinstance(context, Mapping) else None
    results = []
    for task in question.tasks:
        try:
            found = await _predict(task, drawn, names, engine)
        except PatchionerError as error:
            found = {"result": [], "score": 0.0, **failure(error)}
        results.append(found | {"model_version": engine.model.settings.name})
    return JSONResponse({"results": results})


async def _predict(task: Entry, drawn: Any, names: Entry, engine: Engine) -> Json:
    photo = await _photo(task, names["key"], engine)
    drawings = _drawings(task if drawn is None else drawn)
    regions = await asyncio.to_thread(_regions, drawings, photo.features.geometry.image_size)
    found = await engine.captions(photo, regions, Decoding().asked(engine.model))
    for bad in (one["error"] for one in found if "error" in one):
        raise RegionError(bad["message"])
    said = {"from_name": names["text"], "to_name": names["image"], "type": "textarea"}
    result: list[Json] = [dict(one) for one in drawings]
    for one, drawing in zip(found, drawings or [{"value": {}}], strict=True):
        where = {key: value for key, value in drawing["value"].items() if key not in _NO_PLACE}
        text = {"value": where | {"text": [one["text"] or ""]}, "score": one["confidence"] or 0.0}
        result.append({**drawing, **said, **text})
    return {"result": result, "score": min(one["confidence"] or 0.0 for one in found)}


def _names(config: str) -> dict[str, str]:
    """What the project's labelling interface calls image and text, and the image's key in tasks."""
    names = {"image": "image", "text": "caption", "key": "image"}
    if "<!" in config:  # a declaration's entities could grow without end
        return names
    try:
        root = ElementTree.fromstring(config or "<View/>")
    except ElementTree.ParseError:
        raise bad_request("'label_config' is no XML") from None
    for tag in root.iter("Image"):
        names |= {"image": tag.get("name", "image"), "key": tag.get("value", "$image").lstrip("$")}
    for tag in root.iter("TextArea"):
        names["text"] = tag.get("name", "caption")
    return names


async def _photo(task: Entry, key: str, engine: Engine) -> Encoded:
    data = task.get("data")
    named = data.get(key) if isinstance(data, Mapping) else None
    if not isinstance(named, str):
        raise bad_request(f"the task has no photo under {key!r:.40}")
    if re.match(r"\w+:", named):  # a data URL, or a link, which is refused
        return await engine.upload(named)
    # As Label Studio names files: /data/upload/1/a.jpg, /data/local-files/?d=folder/a.jpg
    path, _, query = named.partition("?")
    local = parse_qs(query).get("d")
    return await engine.upload(None, local[0] if local else re.sub("^/?(data/)?", "", unquote(path), count=1))


def _drawings(source: Any) -> list[Entry]:
    """The regions of a list of results, or those of a task's first annotation, prediction or draft."""
    if isinstance(source, Mapping):
        lists = (source.get(key) for key in ("annotations", "predictions", "drafts"))
        first = next((found[0] for found in lists if isinstance(found, list) and found), None)
        source = first.get("result") if isinstance(first, Mapping) else None
    results = source if isinstance(source, list) else []
    known = (one for one in results if isinstance(one, Mapping) and "value" in one)
    return [one for one in known if str(one.get("type")).startswith(_KINDS)]


def _regions(drawn: Sequence[Entry], size: tuple[int, int]) -> list[Any] | None:
    """Each as our JSON or its error; None, the whole photo, where there are none."""
    return attempt(lambda some: [from_label_studio(one, size).to_json() for one in some], drawn) if drawn else None
