from __future__ import annotations

import base64
import email.utils
import io
import json
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from patchioner.detail.clients.failures import Failure
from patchioner.detail.clients.protocol import (
    Reply,
    adapted,
    data_url,
    messages,
    read_reply,
    refused_content,
    refused_parameter,
    retry_after,
)

REQUEST: dict[str, Any] = {
    "model": "m",
    "messages": messages("", "x" * 40, "data:"),
    "n": 2,
    "seed": 1,
}


def decoded(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize(
    ("size", "shown"), [((300, 200), (100, 67)), ((40, 30), (40, 30)), ((3000, 1), (100, 1))]
)
def test_a_picture_is_brought_down_and_never_up(
    size: tuple[int, int], shown: tuple[int, int]
) -> None:
    image = Image.new("RGB", size, (200, 10, 10))
    assert decoded(data_url(image, max_side=100)).size == shown
    assert image.size == size


def test_the_same_pixels_give_the_same_text_and_quality_decides_its_length() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    assert data_url(image) == data_url(image.copy())
    assert len(data_url(image, quality=20)) < len(data_url(image, quality=95))


def test_a_picture_comes_ahead_of_the_question() -> None:
    system, user = messages("Be brief.", "What?", "data:x")
    assert system == {"role": "system", "content": "Be brief."}
    assert [part["type"] for part in user["content"]] == ["image_url", "text"]
    assert messages("", "What?") == [{"role": "user", "content": "What?"}]


def body(**fields: Any) -> str:
    return json.dumps(
        {"choices": [{"message": {"content": "A bus."}, "finish_reason": "stop"}], **fields}
    )


def test_a_reply_has_its_texts_and_its_count() -> None:
    usage = {"prompt_tokens": 30, "completion_tokens": 4}
    assert read_reply(body(usage=usage), REQUEST) == Reply(("A bus.",), "stop", 30, 4, False)


@pytest.mark.parametrize(
    "usage",
    [None, {}, {"prompt_tokens": "many"}, {"prompt_tokens": -1}, {"prompt_tokens": True}, 3],
)
def test_tokens_are_estimated_where_the_server_does_not_count(usage: object) -> None:
    reply = read_reply(body(usage=usage), REQUEST)
    assert isinstance(reply, Reply) and reply.estimated
    assert (reply.tokens_in, reply.tokens_out) == (1011, 2)


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "3", "{", "<html>busy</html>", "{}", '{"choices": null}', '{"choices": []}',
        '{"choices": {}}',
        '{"choices": [null]}', '{"choices": [{}]}', '{"choices": [{"message": null}]}',
        '{"choices": [{"message": {"content": 7}}]}', '{"choices": [{"message": {"content": {"a": 1}}}]}',
        "[" * 100_000,
        '{"error": {"message": "x"}}',
    ],
)  # fmt: skip
def test_what_is_no_reply_may_pass(text: str) -> None:
    failure = read_reply(text, REQUEST)
    assert isinstance(failure, Failure) and failure.retry and not failure.futile
    assert len(failure.reason) < 300


def test_parts_are_joined_and_empty_answers_left_out_with_their_reason() -> None:
    parts = [{"type": "text", "text": "A "}, {"type": "text", "text": "bus."}, {"type": "image"}]
    empty = {"message": {"content": None, "refusal": "I will not."}, "finish_reason": "stop"}
    text = json.dumps({"choices": [{"message": {"content": parts}}, empty]})
    reply = read_reply(text, REQUEST)
    assert isinstance(reply, Reply)
    assert reply.texts == ("A bus.",) and "I will not." in reply.finish


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["choices", "message", "content", "usage", "text", "refusal", "prompt_tokens"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_a_reply_or_a_failure(value: object) -> None:
    assert isinstance(read_reply(json.dumps(value), REQUEST), (Reply, Failure))
    wrapped = {"choices": [{"message": value}], "usage": value}
    assert isinstance(read_reply(json.dumps(wrapped), REQUEST), (Reply, Failure))


def refusal(status: int, message: str, param: str | None = None) -> Any:
    return SimpleNamespace(
        status_code=status, message=message, param=param, body={"message": message}
    )


@pytest.mark.parametrize(
    ("error", "parameter"),
    [
        (refusal(400, "no", "seed"), "seed"),
        (refusal(400, "Unsupported parameter: 'n' is not supported"), "n"),
        (refusal(422, "extra fields not permitted: `seed`"), "seed"),
        (refusal(400, "Only one completion choice is allowed"), "n"),
        (refusal(400, "'temperature' is not supported"), None),  # was not sent
        (refusal(400, "no pictures, please"), None),
        (refusal(500, "'seed'"), None),
        (ValueError("'seed'"), None),
    ],
)
def test_a_refused_parameter_is_recognised(error: Any, parameter: str | None) -> None:
    assert refused_parameter(error, REQUEST) == parameter


@pytest.mark.parametrize(
    ("body", "content"),
    [
        ({"code": "content_policy_violation", "message": "no"}, True),
        ({"code": "moderation_blocked", "message": "Your request was rejected."}, True),
        ({"code": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}, True),
        ({"type": "data_inspection_failed"}, True),
        ({"code": 403, "message": "no", "metadata": {"flagged_input": "a photo"}}, True),
        ({"code": 403, "message": "The model requires moderation and your input was flagged"}, True),
        ("Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_X", True),
        ({"message": "This image goes against our safety policy"}, True),
        # About who asks, or nothing that tells.
        (None, False),
        ("", False),
        ({}, False),
        ([], False),
        ({"code": None, "type": 7, "message": 3, "metadata": "x", "innererror": "x"}, False),
        ({"code": "invalid_api_key", "message": "Incorrect API key provided"}, False),
        ({"code": "unsupported_country_region_territory", "message": "Country not supported"}, False),
        ("<html>Sorry, you have been blocked</html>", False),
        ({"message": "Your account was flagged: its images violate our policies"}, False),
        ({"message": "The project has no access to image input, by policy of the owner"}, False),
        ({"message": "You are not allowed to sample from this model"}, False),
        ({"message": "Missing scopes: model.request"}, False),
    ],
)  # fmt: skip
def test_refused_content_is_told_from_a_refused_key(body: object, content: bool) -> None:
    assert refused_content(body) == content


def test_a_request_goes_without_what_was_refused_and_with_the_newer_name_of_its_length() -> None:
    request = {"n": 2, "seed": 1, "max_tokens": 9}
    assert adapted(request, ()) == request
    assert adapted(request, ("n", "max_tokens")) == {"seed": 1, "max_completion_tokens": 9}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_the_time_to_wait_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_the_time_to_wait_may_be_a_date() -> None:
    date = email.utils.formatdate(time.time() + 40, usegmt=True)
    seconds = retry_after({"retry-after": date})
    assert seconds is not None and 30 < seconds <= 41
