import base64
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ollama
import openai
import pytest

from patchioner import Box, Mask, Patchioner, Polygon, WholeImage
from tests.patchioner.serve.conftest import cases
from tests.support.server import running
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


def link(photo: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(photo).decode()


def message(photo: bytes, text: str = PROMPT) -> list[Any]:
    parts = {"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": link(photo)}}
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]


def test_openai_chats_about_boxes(gpt: openai.OpenAI, photo: bytes, lines: list[str]) -> None:
    ask = gpt.chat.completions.create
    answer = ask(model="tiny", messages=message(photo), temperature=0)
    assert answer.choices[0].message.content == "\n".join(lines)
    extra = {"regions": [BOX.to_json()]}
    answer = ask(model="tiny", messages=message(photo, "This?"), extra_body=extra)
    assert answer.choices[0].message.content == lines[0]
    stream = ask(model="tiny", messages=message(photo), stream=True)
    texts = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(texts) == "\n".join(lines) and len(texts) == 3
    assert [one.id for one in gpt.models.list()] == ["tiny"] == [gpt.models.retrieve("tiny").id]


def test_openai_embeds(gpt: openai.OpenAI, photo: bytes, model: Patchioner) -> None:
    extra = {"image": base64.b64encode(photo).decode(), "regions": [BOX.to_json()]}
    expected = [model.embed_text(["a red cat"])[0].tolist()]
    expected.append(model.embed_regions(model.encode(noise_photo()), [BOX])[0].tolist())
    ask = partial(gpt.embeddings.create, model="tiny", input=["a red cat"], extra_body=extra)
    packed: list[Any] = [row.embedding for row in ask(encoding_format="base64").data]
    unpacked = [np.frombuffer(base64.b64decode(row), "<f4") for row in packed]
    for rows in (unpacked, [row.embedding for row in ask(encoding_format="float").data]):
        np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_what_is_wrong_is_told(gpt: openai.OpenAI, llama: ollama.Client, photo: bytes) -> None:
    with pytest.raises(openai.NotFoundError):
        gpt.chat.completions.create(model="gpt-4o", messages=message(photo))
    texts = ("<box>1,2,3</box>", "<box>1,2,x,4</box>", "<BOX>900,2,910,4</BOX>", "<box>1,2,3,4")
    bad: list[Any] = [message(photo, text) for text in texts]
    for messages in (*bad, [{"role": "user", "content": "no photo"}], message(b"no photo")):
        with pytest.raises(openai.BadRequestError):
            gpt.chat.completions.create(model="tiny", messages=messages)
    empty: dict[str, Any] = {"input": []}
    for wanted in (empty, {"input": "a", "dimensions": 5}):
        with pytest.raises(openai.BadRequestError):
            gpt.embeddings.create(model="tiny", **wanted)
    for model, images in (("llava", [photo]), ("tiny", [photo, photo]), ("tiny", None)):
        with pytest.raises(ollama.ResponseError) as error:
            llama.generate(model, "What is this?", images=images)
        assert "{" not in error.value.error


@pytest.mark.parametrize(("more", "status"), cases("chat_fields"))
def test_fields_of_other_servers(client: httpx.Client, photo: bytes, more: dict[str, Any], status: int) -> None:
    body: Any = {"model": "tiny", "messages": message(photo), **more}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == status, answer.text
    assert status == 400 or answer.json()["usage"]["total_tokens"] == 0
    body["messages"] = [{"content": "", "images": [base64.b64encode(photo).decode()]}]
    assert client.post("/api/chat", json=body | {"options": more}).status_code == (200 if "n" in more else status)


def test_ollama_generates_and_chats(llama: ollama.Client, photo: bytes, lines: list[str]) -> None:
    both = "\n".join(lines)
    assert llama.generate("tiny", PROMPT, images=[photo]).response == both
    parts = llama.generate("tiny:latest", PROMPT, images=[photo], stream=True)
    assert "".join(part.response or "" for part in parts) == both
    talk = [{"role": "user", "content": PROMPT, "images": [photo]}]
    assert llama.chat("tiny", talk).message.content == both
    talk.append({"role": "user", "content": "<box>3,4,50,60</box>"})
    parts_of_chat = list(llama.chat("tiny", talk, stream=True))
    assert parts_of_chat[0].message.content == lines[0] and parts_of_chat[-1].done
    assert llama.generate("tiny").done
    assert [one.model for one in llama.list().models] == ["tiny:latest"]
    options = ({"temperature": 2.0, "seed": seed} for seed in (1, 1, 2))
    drawn = [llama.generate("tiny", "", images=[photo], options=one).response for one in options]
    assert drawn[0] == drawn[1] != drawn[2]


STUDIO = cases("label_studio")
DRAWN = STUDIO["drawn"]
INSIDE = np.zeros((64, 96), dtype=bool)
INSIDE[5:20, 7:50] = True  # as the brush among them
REGIONS = [Box(24, 16, 72, 48), Polygon([(0, 0), (96, 0), (48, 64)]), Mask(INSIDE)]


def request(*tasks: dict[str, Any], context: Any = None) -> dict[str, Any]:
    return {**STUDIO["request"], "tasks": list(tasks), "params": {"context": context}}


def test_what_is_drawn_in_label_studio_gets_texts(client: httpx.Client, photo: bytes, model: Patchioner) -> None:
    task: dict[str, Any] = {"id": 5, "data": {"picture": link(photo)}}
    ways = [task | {way: [{"id": 1, "result": DRAWN}]} for way in ("annotations", "drafts")]
    damaged = [DRAWN[2] | {"value": {"format": "rle", "rle": [1, 2, 3]}}]
    body = request(*ways, task | {"annotations": [{"result": damaged}]}, {"data": None})
    *found, broken, empty = client.post("/predict", json=body).json()["results"]
    context = request(task, context={"result": DRAWN})
    found += client.post("/predict", json=context).json()["results"]
    assert "error" in broken and "error" in empty and len(found) == 3
    expected = [one.text for one in model.caption(noise_photo(), REGIONS)]
    due = [(name, [text]) for name, text in zip(("r1", "p1", "b1"), expected, strict=True)]
    for one in found:
        texts = [result for result in one["result"] if result["type"] == "textarea"]
        assert [(text["id"], text["value"]["text"]) for text in texts] == due
        assert {(text["from_name"], text["to_name"]) for text in texts} == {("words", "photo")}
        assert one["result"][:3] == DRAWN and one["model_version"] == "tiny"
        assert texts[0]["value"]["width"] == 50 and "rectanglelabels" not in texts[0]["value"]


def test_label_studio_s_photos(tmp_path: Path, photo: bytes, model: Patchioner) -> None:
    folder = tmp_path / "upload" / "1"
    folder.mkdir(parents=True)
    (folder / "a b.png").write_bytes(photo)
    text = model.caption(noise_photo(), [WholeImage()])[0].text
    good = ["/data/upload/1/a%20b.png", "/data/local-files/?d=upload/1/a%20b.png"]
    bad = ["/data/../../etc/passwd", "http://a.b/c.png", "s3://a/b.png", "", 5]
    tasks = [{"id": 1, "data": {"picture": name}} for name in (*good, *bad)]
    project = {"project": "1.2", "schema": "<View/>", "hostname": "http://localhost:8080"}
    with running(model, root=tmp_path) as url, httpx.Client(base_url=url) as client:
        found = client.post("/predict", json=request(*tasks)).json()["results"]
        no_xml = request() | {"label_config": "<a"}
        assert client.post("/predict", json=no_xml).status_code == 400
        assert client.post("/setup", json=project).json() == {"model_version": "tiny"}
    for one in found[:2]:
        assert [result["value"]["text"] for result in one["result"]] == [[text]]
    assert all(one["result"] == [] and one["error"]["message"] for one in found[2:])
