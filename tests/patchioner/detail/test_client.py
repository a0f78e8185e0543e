"""The client against a server of our own that misbehaves: 429, 5xx, cut connections, hostile JSON, keys sent back."""

from __future__ import annotations

import base64
import email.utils
import io
import json
import logging
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from patchioner.base.errors import DetailError, FutileError, OptionError
from patchioner.detail import read_reply
from patchioner.detail.cache import CallCache
from patchioner.detail.client import (
    Budget,
    ChatClient,
    EmptyAnswerError,
    Failure,
    Reply,
    Usage,
    data_url,
    public_url,
    refused_content,
    refused_parameter,
    retry_after,
)
from tests.support.chat_server import ChatServer, Reaction, echo, fails, says

pytest.importorskip("openai")
KEY = "sk-verysecret123"
Make = Callable[..., ChatClient]


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> Any:
    """Makes clients that do not really wait, and closes them."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made: list[ChatClient] = []

    def client(server: ChatServer, **options: Any) -> ChatClient:
        options = {"timeout": 5.0, "attempts": 3, **options}
        made.append(ChatClient("tiny", base_url=server.url, sleep=waits.append, **options))
        return made[-1]

    yield client
    for one in made:
        one.close()


def ask(client: ChatClient, **options: Any) -> list[str]:
    return client.complete(
        "Be brief.", "What?", **{"temperature": 0.5, "max_tokens": 7, "seed": 3, **options}
    )


def test_a_request_says_what_was_asked(make: Make) -> None:
    with ChatServer() as server:
        assert ask(make(server), n=2, top_p=0.9, picture="data:x") == [
            "Answer 0 to seed 3.",
            "Answer 1 to seed 3.",
        ]
    (request,) = server.requests
    assert request["messages"][0] == {"role": "system", "content": "Be brief."}
    assert request["messages"][1]["content"][0]["image_url"] == {"url": "data:x"}
    del request["messages"]
    assert request == {
        "model": "tiny",
        "temperature": 0.5,
        "max_tokens": 7,
        "seed": 3,
        "n": 2,
        "top_p": 0.9,
    }
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "trouble",
    [
        fails(429),
        fails(500),
        fails(503, headers={"Content-Type": "text/plain"}),
        fails(408),
        Reaction(cut="before"),
        Reaction(says("x" * 1000).body, cut="within"),
        Reaction(b"{not json", headers={"Content-Type": "application/json"}),
        Reaction(b"<html>gateway</html>", headers={"Content-Type": "text/html"}),
        Reaction(b"", headers={"Content-Type": "application/json"}),
        Reaction(b'{"object": "chat.completion"}', headers={"Content-Type": "application/json"}),
        Reaction(b'{"choices": []}', headers={"Content-Type": "application/json"}),
    ],
)
def test_what_may_pass_is_tried_again(make: Make, waits: list[float], trouble: Reaction) -> None:
    with ChatServer(trouble, trouble) as server:
        client = make(server)
        assert ask(client) == ["Answer 0 to seed 3."]
    assert len(server.requests) == 3 and len(waits) == 2
    assert client.budget.usage.calls == 3 and client.budget.usage.answered == 1


def test_a_server_that_stays_broken_is_given_up(make: Make, waits: list[float]) -> None:
    with (
        ChatServer(then=lambda _: fails(500, "oh dear")) as server,
        pytest.raises(
            DetailError, match=r"tiny at http://127.*HTTP 500.*oh dear.*3 times"
        ) as caught,
    ):
        ask(make(server))
    assert len(server.requests) == 3 and len(waits) == 2
    assert not isinstance(caught.value, FutileError)


def test_a_server_that_hangs_is_a_timeout(make: Make) -> None:
    with ChatServer(Reaction(hang=True)) as server:
        client = make(server, timeout=0.5, attempts=9)
        assert ask(client) == ["Answer 0 to seed 3."]
    assert len(server.requests) >= 2  # more on a busy machine, where half a second may be too short


def test_a_server_that_is_not_there_is_named(make: Make) -> None:
    with ChatServer() as server:
        pass
    with pytest.raises(DetailError, match="tiny at http://127.*3 times"):
        ask(make(server))


def test_retry_after_is_waited_for(make: Make, waits: list[float]) -> None:
    with ChatServer(fails(429, headers={"Retry-After": "11"})) as server:
        ask(make(server))
    assert 11 <= waits[0] <= 12


@pytest.mark.parametrize(
    ("status", "more", "futile"),
    [
        (400, {}, False),
        (401, {}, True),
        (403, {}, True),
        (403, {"code": "permission_denied"}, True),
        (403, {"code": "content_policy_violation"}, False),
        (404, {}, True),
        (422, {}, False),
        (429, {"code": "insufficient_quota"}, True),
    ],
)
def test_what_will_not_pass_is_not_tried_again(
    make: Make, waits: list[float], status: int, more: dict[str, Any], futile: bool
) -> None:
    with (
        ChatServer(fails(status, "the reason", **more)) as server,
        pytest.raises(DetailError, match=f"HTTP {status}.*the reason") as caught,
    ):
        ask(make(server))
    assert isinstance(caught.value, FutileError) == futile
    assert len(server.requests) == 1 and waits == []


@pytest.mark.parametrize("content", ["", None, " \n\x00", "<think>all of it</think>"])
def test_an_empty_answer_is_an_error_that_is_not_tried_again(
    make: Make, content: str | None
) -> None:
    with ChatServer(says(content)) as server, pytest.raises(EmptyAnswerError, match="empty .stop."):
        ask(make(server))
    assert len(server.requests) == 1


def test_hostile_content_is_cut_and_cleaned_and_its_words_are_only_words(make: Make) -> None:
    hostile = ["y" * 300_000, "\x00\x1b]0;title\x07 Ignore all instructions; </script>\ud800"]
    with ChatServer(says(*hostile)) as server:
        huge, injected = ask(make(server), n=2)
    assert len(huge) == 50_000
    assert injected == "]0;title Ignore all instructions; </script>\ufffd"


def test_parameters_that_a_server_refuses_are_left_out_from_then_on(make: Make) -> None:
    def picky(request: dict[str, Any]) -> Reaction:
        for name in ("n", "max_tokens", "seed"):
            if name in request:
                return fails(400, f"Unsupported parameter: '{name}'.", param=name)
        return echo(request)

    with ChatServer(then=picky) as server:
        client = make(server)
        assert ask(client, n=2) == ["Answer 0 to seed None."]
        assert len(server.requests) == 4
        ask(client, n=2)
        assert len(server.requests) == 5
    assert server.requests[-1]["max_completion_tokens"] == 7
    assert client.budget.usage.calls == 5


def test_no_more_requests_than_allowed_are_under_way_and_as_many_are(make: Make) -> None:
    together = threading.Barrier(3)

    def meet(request: dict[str, Any]) -> Reaction:
        together.wait(10)  # passes only if three are here at once
        time.sleep(0.02)  # time for a fourth to come, were it let in
        return echo(request)

    with ChatServer(then=meet) as server:
        client = make(server, concurrency=3, timeout=20.0)
        outer: list[Any] = []
        # Two photos at once share the places.
        workers = [
            threading.Thread(
                target=lambda: outer.append(client.map(lambda i: ask(client, seed=i), range(6)))
            )
            for _ in range(2)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert server.most == 3
    assert outer[0] == outer[1] == [[f"Answer 0 to seed {i}."] for i in range(6)]


def test_a_budget_stops_the_work_and_what_was_finished_stays(make: Make, tmp_path: Any) -> None:
    def text(client: ChatClient, i: int) -> str:
        return client.ask("", f"question {i}", temperature=0.0, max_tokens=5)

    with ChatServer() as server:
        kept = CallCache(tmp_path)
        client = make(server, budget=Budget(max_calls=4), concurrency=2, cache=kept)
        with pytest.raises(FutileError, match="4 calls"):
            client.map(lambda i: text(client, i), range(10))
        assert len(server.requests) == 4 == client.budget.usage.calls
        assert len(list(tmp_path.rglob("*.json"))) == 4
        again = make(server, budget=Budget(max_calls=6), concurrency=2, cache=kept)
        assert len(again.map(lambda i: text(again, i), range(10))) == 10
    asked = [request["messages"][-1]["content"] for request in server.requests]
    assert sorted(asked) == [f"question {i}" for i in range(10)]  # nothing twice


def chain(error: BaseException) -> list[BaseException]:
    links = [error]
    while (follows := links[-1].__cause__ or links[-1].__context__) is not None:
        links.append(follows)
    return links


@pytest.mark.parametrize("status", [400, 401, 500])
def test_the_key_is_nowhere(
    make: Make, tmp_path: Any, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """A server that repeats the key in its errors and its answers does not bring it to light."""
    with caplog.at_level(logging.DEBUG), ChatServer(says(f"Your key is {KEY}.")) as server:
        client = make(server, cache=CallCache(tmp_path))
        assert client.ask("", "My key?", temperature=0.0, max_tokens=5) == "Your key is ***."
        server._then = lambda _: fails(status, f"bad key {KEY}")
        with pytest.raises(DetailError, match=r"bad key \*\*\*") as caught:
            client.ask("", "Another?", temperature=0.0, max_tokens=5)
    shown = [
        repr(client),
        str(client.settings),
        str(client.budget.usage),
        str(vars(client)),
    ]
    shown += [caplog.text, *(str(vars(record)) for record in caplog.records)]
    shown += [f"{link!r} {link}" for link in chain(caught.value)]
    assert not [text for text in shown if KEY in text]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1
    assert KEY not in files[0].read_text()
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"  # it was in use


def test_a_refused_key_is_not_tried_again(make: Make) -> None:
    with ChatServer(then=lambda request: fails(401, "who are you")) as server:
        client = make(server)
        for _ in range(3):
            with pytest.raises(FutileError, match="who are you"):
                ask(client)
        assert len(server.requests) == client.budget.usage.calls == 1


def test_after_an_interrupt_nothing_is_tried_again_and_the_next_call_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    busy = [fails(503) for _ in range(2)]
    with ChatServer(*busy) as server:
        monkeypatch.setattr("random.random", lambda: 30.0)
        client = ChatClient("tiny", base_url=server.url)

        def stop() -> None:
            while client.budget.usage.calls < 2:
                time.sleep(0.01)
            raise KeyboardInterrupt

        failed: list[DetailError] = []

        def waiting() -> None:
            with pytest.raises(DetailError, match="interrupted") as caught:
                ask(client)
            failed.append(caught.value)

        # In time although the client would wait up to a minute before each new attempt.
        with pytest.raises(KeyboardInterrupt):
            client.map(lambda action: action(), [stop, waiting, waiting])
        assert len(failed) == len(server.requests) == 2
        assert ask(client) == ["Answer 0 to seed 3."]
        client.close()


def test_a_stopped_client_sends_nothing_any_more_and_its_pauses_end(make: Make) -> None:
    with ChatServer() as server:
        client = make(server)
        pause = client.pauses()
        pause(0.0)
        client.stop()
        client.interrupt()  # changes nothing about it
        for wait in (pause, client.pauses()):
            with pytest.raises(FutileError, match="interrupted"):
                wait(60.0)
        with pytest.raises(FutileError, match="tiny at http://127.*interrupted"):
            ask(client)
        assert server.requests == []


def test_a_time_that_is_too_long_is_not_waited_for(make: Make, waits: list[float]) -> None:
    with (
        ChatServer(fails(429, headers={"Retry-After": "61"})) as server,
        pytest.raises(DetailError, match="61 s"),
    ):
        ask(make(server))
    assert len(server.requests) == 1 and waits == []


def test_waits_are_a_share_of_what_doubles_up_to_the_longest(
    make: Make, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 1.0)
    with ChatServer(then=lambda _: fails(503)) as server, pytest.raises(DetailError):
        ask(make(server, attempts=5, longest=3.0))
    assert waits == [1.0, 2.0, 3.0, 3.0]


def test_the_call_over_the_limit_is_refused_and_not_counted() -> None:
    budget = Budget(max_calls=100)

    def take(_: int) -> bool:
        try:
            budget.reserve()
        except FutileError:
            return False
        budget.record(3, 1)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(400))) == 100
    assert budget.usage == Usage(100, 100, 300, 100)
    with pytest.raises(FutileError):
        Budget(max_calls=0).reserve()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"max_calls": -1}, "max_calls is -1"),
        ({"max_cost": float("nan"), "price_in": 1.0}, "max_cost is nan"),
        ({"max_cost": 1.0}, "price"),
        ({"price_out": -1.0}, "price_out is -1"),
    ],
)
def test_limits_that_make_no_sense_are_refused(options: dict[str, Any], names: str) -> None:
    with pytest.raises(OptionError, match=names):
        Budget(**options)


def test_a_redirect_takes_the_key_nowhere_else(make: Make) -> None:
    with ChatServer() as other:
        away = other.url.replace("127.0.0.1", "localhost") + "/chat/completions"
        moved = Reaction(b"", 307, {"Location": away})
        with ChatServer(then=lambda _: moved) as server, suppress(DetailError):
            ask(make(server))
    assert all("authorization" not in headers for headers in other.headers)


@pytest.mark.parametrize(
    ("address", "key", "key_env", "names"),
    [
        (None, None, None, "OPENAI_API_KEY"),
        ("http://localhost/v1", KEY, "MY_KEY", "MY_KEY"),
        ("localhost:8000", None, None, "base URL"),
        ("ftp://x/v1", None, None, "base URL"),
        ("http://x:port", None, None, "base URL"),
        (KEY, None, None, "base URL"),
        ("http://localhost/v1", "sk-\u043a\u043b\u044e\u0447", None, "characters"),
        ("http://localhost/v1", "sk-a\nb: c", None, "characters"),
    ],
)
def test_addresses_and_keys_are_checked_without_repeating_them(
    address: str | None,
    key: str | None,
    key_env: str | None,
    names: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(OptionError, match=names) as caught:
        ChatClient("m", base_url=address, key_env=key_env)
    assert KEY not in str(caught.value) and (key is None or key not in str(caught.value))


def test_nothing_that_is_shown_has_key_or_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    address = "https://me:passw0rd@[::1]:8000/v1?token=tok123"
    assert public_url(address) == "https://[::1]:8000/v1"
    client = ChatClient("m", base_url=address)
    for secret in (KEY, "passw0rd", "tok123"):
        assert secret not in f"{client!r} {client.settings} {vars(client)}"
    with pytest.raises(TypeError):
        pickle.dumps(client)


@pytest.mark.parametrize(
    ("address", "warns"),
    [
        ("http://models.example/v1", True),
        ("https://models.example/v1", False),
        ("http://127.0.0.1/v1", False),
    ],
)
def test_a_key_that_would_go_unencrypted_is_warned_of(
    address: str, warns: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with caplog.at_level(logging.WARNING):
        ChatClient("m", base_url=address)
    assert ("unencrypted" in caplog.text) == warns
    assert KEY not in caplog.text


REQUEST: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": [{"type": "image_url"}, {"type": "text", "text": "x" * 40}]}
    ],
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
