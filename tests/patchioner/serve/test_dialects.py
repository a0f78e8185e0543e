"""The official clients of OpenAI and Ollama, unmodified, against a real server."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import httpx
import numpy as np
import ollama
import openai
import pytest

from patchioner import Box, Patchioner
from tests.support.tiny import noise_photo

BOX = Box(3, 4, 50, 60)
PROMPT = "What is in <box>3,4,50,60</box> and in <box>0,0,96,64</box>?"


@pytest.fixture
def lines(model: Patchioner) -> list[str | None]:
    return [one.text for one in model.caption(noise_photo(), [BOX, Box(0, 0, 96, 64)])]


@pytest.fixture
def gpt(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def llama(url: str) -> Iterator[ollama.Client]:
    with ollama.Client(url) as client:
        yield client


def message(photo: bytes, text: str = PROMPT) -> list[openai.types.chat.ChatCompletionMessageParam]:
    link = "data:image/png;base64," + base64.b64encode(photo).decode()
    return [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": text},
                {"type": "image_url", "image_url": {"url": link}},
            ],
        },
    ]


def test_openai_chats_about_boxes_of_a_photo(
    gpt: openai.OpenAI, photo: bytes, lines: list[str]
) -> None:
    answer = gpt.chat.completions.create(model="tiny", messages=message(photo), temperature=0)
    assert answer.choices[0].message.content == "\n".join(lines)
    extra = {"regions": [BOX.to_json()]}
    answer = gpt.chat.completions.create(
        model="tiny", messages=message(photo, "This?"), extra_body=extra
    )
    assert answer.choices[0].message.content == lines[0]
    stream = gpt.chat.completions.create(model="tiny", messages=message(photo), stream=True)
    texts = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(texts) == "\n".join(lines) and len(texts) == 3


def test_openai_embeds_texts_and_regions(
    gpt: openai.OpenAI, photo: bytes, model: Patchioner
) -> None:
    extra = {"image": base64.b64encode(photo).decode(), "regions": [BOX.to_json()]}
    for form in ("float", "base64"):
        answer = gpt.embeddings.create(
            model="tiny", input=["a red cat"], extra_body=extra, encoding_format=form
        )
        rows = [row.embedding for row in answer.data]
        if form == "base64":
            rows = [np.frombuffer(base64.b64decode(str(row)), "<f4").tolist() for row in rows]
        expected = [model.embed_text(["a red cat"])[0].tolist()]
        expected.append(model.embed_regions(model.encode(noise_photo()), [BOX])[0].tolist())
        np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_openai_lists_the_model(gpt: openai.OpenAI) -> None:
    assert [one.id for one in gpt.models.list()] == ["tiny"]


def test_openai_is_told_what_is_wrong(gpt: openai.OpenAI, photo: bytes) -> None:
    with pytest.raises(openai.NotFoundError):
        gpt.chat.completions.create(model="gpt-4o", messages=message(photo))
    for messages in (
        [{"role": "user", "content": "no photo"}],
        message(photo, "<box>1,2,3</box>"),
        message(photo, "<box>1,2,x,4</box>"),
        message(photo, "<box>900,2,910,4</box>"),
        message(b"no photo"),
    ):
        with pytest.raises(openai.BadRequestError):
            gpt.chat.completions.create(model="tiny", messages=messages)  # type: ignore[arg-type]


def test_ollama_generates_and_chats(llama: ollama.Client, photo: bytes, lines: list[str]) -> None:
    assert llama.generate("tiny", PROMPT, images=[photo]).response == "\n".join(lines)
    parts = llama.generate("tiny:latest", PROMPT, images=[photo], stream=True)
    assert "".join(part.response or "" for part in parts) == "\n".join(lines)
    talk = [{"role": "user", "content": PROMPT, "images": [photo]}]
    assert llama.chat("tiny", talk).message.content == "\n".join(lines)
    talk += [
        {"role": "assistant", "content": "?"},
        {"role": "user", "content": "<box>3,4,50,60</box>"},
    ]
    parts_of_chat = list(llama.chat("tiny", talk, stream=True))
    assert parts_of_chat[0].message.content == lines[0] and parts_of_chat[-1].done
    assert llama.generate("tiny").done
    assert [one.model for one in llama.list().models] == ["tiny:latest"]


def test_ollama_draws_words_from_a_seed(llama: ollama.Client, photo: bytes) -> None:
    drawn = [
        llama.generate("tiny", "", images=[photo], options={"temperature": 2.0, "seed": seed})
        for seed in (1, 1, 2)
    ]
    assert drawn[0].response == drawn[1].response != drawn[2].response


def test_ollama_is_told_what_is_wrong(llama: ollama.Client, photo: bytes) -> None:
    for model, images in (("llava", [photo]), ("tiny", [photo, photo]), ("tiny", None)):
        with pytest.raises(ollama.ResponseError) as error:
            llama.generate(model, "What is this?", images=images)
        assert "{" not in error.value.error


def test_what_means_nothing_here_is_ignored(client: httpx.Client, photo: bytes) -> None:
    body = {"model": "tiny", "messages": message(photo), "tools": [], "user": "me", "n": 1}
    assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert client.post("/v1/chat/completions", json={**body, "n": 2}).status_code == 400
