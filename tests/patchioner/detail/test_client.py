"""The client against a server of our own that misbehaves: 429, 5xx, cut connections, hostile JSON, keys sent back."""

from __future__ import annotations

import json
import logging
import math
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from patchioner.base.errors import DetailError, FutileError, OptionError, PatchionerError
from patchioner.detail.client import (
    Budget,
    ChatClient,
    PassingError,
    Reply,
    asked_to_wait,
    judge,
    public_url,
    read_reply,
    refused_parameter,
)
from patchioner.detail.models import Answer, CallCache, EmptyAnswerError, Question
from tests.patchioner.detail.conftest import KEY, Make
from tests.support.chat_server import ChatServer, Reaction, echo, fails, says

pytest.importorskip("openai")
ASKED = Question("fuse", "m", "What?", "Be brief.", {"temperature": 0.5, "max_tokens": 7}, 3)
ECHO = f"Answer 0 to seed {ASKED.own_seed}."
JSON = {"Content-Type": "application/json"}


def many(client: ChatClient, count: int) -> list[str]:
    """Asks different questions at once."""
    questions = [Question("fuse", "m", f"question {i}", sampling=ASKED.sampling) for i in range(count)]  # fmt: skip
    found = client.answers((question, None) for question in questions)
    return [answer.text for answer in found.values() if isinstance(answer, Answer)]


def test_a_request_says_what_was_asked(make: Make) -> None:
    with ChatServer() as server:
        said = make(server).complete(ASKED, "data:x", n=2)
    assert said == [ECHO, f"Answer 1 to seed {ASKED.own_seed}."]
    picture = {"type": "image_url", "image_url": {"url": "data:x"}}
    user = {"role": "user", "content": [picture, {"type": "text", "text": "What?"}]}
    messages = [{"role": "system", "content": "Be brief."}, user]
    known = {"model": "tiny", "temperature": 0.5, "max_tokens": 7, "n": 2}
    assert server.requests == [{**known, "seed": ASKED.own_seed, "messages": messages}]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("trouble", [
    fails(429), fails(500), fails(408), fails(503, headers={"Content-Type": "text/plain"}),
    Reaction(cut="before"), Reaction(says("x" * 1000).body, cut="within"), Reaction(b"{not json", headers=JSON),
    Reaction(b'{"error": {"code": 502, "message": "upstream"}}', headers=JSON),
])  # fmt: skip
def test_what_may_pass_is_tried_again(make: Make, waits: list[float], trouble: Reaction) -> None:
    with ChatServer(trouble, trouble) as server:
        client = make(server)
        assert client.complete(ASKED) == [ECHO]
    assert len(server.requests) == 3 and len(waits) == 2
    assert client.budget.calls == 3 and client.budget.answered == 1


def test_a_server_that_stays_broken_is_given_up(make: Make, waits: list[float]) -> None:
    broken = ChatServer(then=lambda _: fails(500, "oh dear"))
    with broken as server, pytest.raises(DetailError, match="tiny at http.*HTTP 500.*oh") as caught:
        make(server).complete(ASKED)
    assert len(server.requests) == 3 and len(waits) == 2
    assert not isinstance(caught.value, FutileError)
    with pytest.raises(DetailError, match="tiny at http://127.*3 times"):  # it is gone now
        make(server).complete(ASKED)


def test_a_server_that_hangs_is_a_timeout(make: Make) -> None:
    with ChatServer(Reaction(hang=True)) as server:
        assert make(server, timeout=0.5, attempts=9).complete(ASKED) == [ECHO]
    assert len(server.requests) >= 2  # more on a busy machine, where half a second may be too short


@pytest.mark.parametrize(("reaction", "reason", "futile"), [
    (fails(400, "the reason"), "HTTP 400.*the reason", False),
    (fails(401, "the reason"), "HTTP 401.*the reason", True),
    (fails(403, "the reason"), "HTTP 403.*the reason", True),
    (fails(403, "the reason", code="content_policy_violation"), "HTTP 403.*the reason", False),
    (fails(404, "the reason"), "HTTP 404.*the reason", True),
    (fails(422, "the reason"), "HTTP 422.*the reason", False),
    (fails(429, "the reason", code="insufficient_quota"), "HTTP 429.*the reason", True),
    (Reaction(b'{"error": "no vision here"}', headers=JSON), "no vision here", False),
    (Reaction(b'{"error": {"code": 401, "message": "who"}}', headers=JSON), "who", True),
    (says(""), "empty .stop.", False), (says("<think>all of it</think>"), "empty .stop.", False),
])  # fmt: skip
def test_what_will_not_pass_is_not_tried_again(
    make: Make, waits: list[float], reaction: Reaction, reason: str, futile: bool
) -> None:
    with ChatServer(reaction) as server:
        client = make(server)
        with pytest.raises(DetailError, match=reason) as caught:
            client.complete(ASKED)
        assert isinstance(caught.value, FutileError) == futile
        assert isinstance(caught.value, EmptyAnswerError) == ("empty" in reason)
        if futile:  # nor is anything else sent
            with pytest.raises(FutileError, match=reason):
                client.complete(ASKED)
    assert len(server.requests) == client.budget.calls == 1 and waits == []


def test_nothing_is_sent_where_a_redirect_to_another_host_leads(make: Make) -> None:
    with ChatServer() as other:
        place = f"{other.url.replace('127.0.0.1', 'localhost')}/chat/completions"
        away = Reaction(status=307, headers={"Location": place})
        with ChatServer(
            Reaction(status=308, headers={"Location": "/v2"}), then=lambda _: away
        ) as server:
            client = make(server)
            for _ in range(2):
                with pytest.raises(FutileError, match="on to localhost.*base URL"):
                    client.complete(ASKED)
    assert (len(server.requests), other.requests) == (2, [])


def test_a_host_may_be_written_in_punycode(make: Make, monkeypatch: Any) -> None:
    with ChatServer() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        there = SimpleNamespace(url="http://xn--bcher-kva.example/v1")
        assert make(there).complete(ASKED) == [ECHO]


def test_parameters_that_a_server_refuses_are_left_out_from_then_on(make: Make) -> None:
    def picky(request: dict[str, Any]) -> Reaction:
        if request.get("n", 1) > 1:
            return fails(400, "Only one completion choice is allowed")
        for name, status in (("max_tokens", 400), ("seed", 422)):
            if name in request:
                return fails(status, f"no such field: `{name}`")
        return echo(request)

    with ChatServer(then=picky) as server:
        client = make(server)
        assert client.complete(ASKED, n=2) == ["Answer 0 to seed None."]
        assert len(server.requests) == 4
        client.complete(ASKED, n=2)
    assert len(server.requests) == client.budget.calls == 5
    assert server.requests[-1]["max_completion_tokens"] == 7


@pytest.mark.parametrize(("message", "name"), [
    ("Unrecognized request argument supplied: seed", "seed"), ("n: Extra inputs are not permitted", "n"),
    ("n must be 1", "n"), ("Unsupported parameter: 'max_tokens' is not supported. Use another.", "max_tokens"),
    ('Unknown name "seed": Cannot find field.', "seed"), ("temperature is not supported by o9", "temperature"),
    ("Only one completion choice is allowed", "n"), ("the image is not one that is supported", None),
])  # fmt: skip
def test_a_refused_parameter_is_known_by_the_servers_words(message: str, name: str | None) -> None:
    error = SimpleNamespace(status_code=400, message=message, body={"message": message})
    asked = {"n": 3, "seed": 1, "temperature": 0.2, "max_tokens": 9}
    assert refused_parameter(error, asked) == name
    assert refused_parameter(error, {"model": "x"}) is None


def test_no_more_requests_than_allowed_are_under_way_and_as_many_are(make: Make) -> None:
    together = threading.Barrier(3)

    def meet(request: dict[str, Any]) -> Reaction:
        together.wait(10)  # passes only if three are here at once
        return echo(request)

    with ChatServer(then=meet) as server, ThreadPoolExecutor(2) as photos:
        client = make(server, concurrency=3, timeout=20.0)
        said = list(photos.map(lambda _: many(client, 6), range(2)))  # two photos share the places
    assert server.most == 3
    assert said[0] == said[1] and len(said[0]) == 6


def test_a_budget_stops_the_work_and_what_was_finished_stays(make: Make, tmp_path: Any) -> None:
    with ChatServer() as server:
        kept = CallCache(tmp_path)
        client = make(server, budget=Budget(max_calls=4), concurrency=2, cache=kept)
        with pytest.raises(FutileError, match="4 calls"):
            many(client, 10)
        assert len(server.requests) == 4 == client.budget.calls
        assert len(list(tmp_path.rglob("*.json"))) == 4
        again = make(server, budget=Budget(max_calls=2), concurrency=2, cache=kept)
        with pytest.raises(FutileError, match="2 calls"):
            many(again, 10)
        again.budget.max_calls = 6  # as the message says
        assert len(many(again, 10)) == 10
    asked = [request["messages"][-1]["content"] for request in server.requests]
    assert sorted(asked) == [f"question {i}" for i in range(10)]  # nothing twice


def chain(error: BaseException) -> list[BaseException]:
    follows = error.__cause__ or error.__context__
    return [error, *(chain(follows) if follows else [])]


@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_key_that_a_server_repeats_is_nowhere(
    make: Make, tmp_path: Any, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    with caplog.at_level(logging.DEBUG), ChatServer(says(f"Your key is {KEY}.")) as server:
        client = make(server, cache=CallCache(tmp_path))
        assert client.ask("", "My key?", temperature=0.0, max_tokens=5) == "Your key is ***."
        server._then = lambda _: fails(status, f"bad key {KEY}")
        with pytest.raises(DetailError, match=r"bad key \*\*\*") as caught:
            client.ask("", "Another?", temperature=0.0, max_tokens=5)
    shown = [repr(client), str(client.settings), str(client.budget), str(vars(client))]
    shown += [caplog.text, *(str(vars(record)) for record in caplog.records)]
    shown += [f"{link!r} {link}" for link in chain(caught.value)]
    shown += [path.read_text() for path in tmp_path.rglob("*.json")]
    assert not [text for text in shown if KEY in text]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"  # it was in use


def test_after_an_interrupt(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pausing = threading.Barrier(3)

    def pause(client: ChatClient, seconds: float, interrupt: threading.Event) -> None:
        pausing.wait(20)
        assert interrupt.wait(20)

    def written(client: ChatClient) -> PatchionerError | Answer:
        return client.answers([(ASKED, None)])[ASKED.key]

    monkeypatch.setattr(ChatClient, "_pause", pause)
    with ChatServer(*[fails(503)] * 2) as server, ThreadPoolExecutor(2) as threads:
        client = make(server)
        under_way = [threads.submit(written, client) for _ in range(2)]
        pausing.wait(20)
        client.stop()
        for one in under_way:
            with pytest.raises(FutileError, match="tiny at http://127.*interrupted"):
                one.result(timeout=10)
        with pytest.raises(FutileError, match="interrupted"):
            client.complete(ASKED)
    assert len(server.requests) == 2


def test_an_error_of_one_call_ends_its_own_pauses_alone(make: Make, monkeypatch: Any) -> None:
    asked = threading.Event()

    def busy_at_first(request: dict[str, Any]) -> Reaction:
        reaction = echo(request) if asked.is_set() else fails(503)
        asked.set()
        return reaction

    def no_picture() -> Any:
        assert asked.wait(20)
        raise MemoryError

    monkeypatch.setattr(ChatClient, "_pause", lambda self, seconds, interrupt: interrupt.wait(20))
    with ChatServer(then=busy_at_first) as server:
        client = make(server)
        with pytest.raises(MemoryError):
            client.answers([(ASKED, None), (replace(ASKED, user="And this?"), no_picture)])
        assert client.complete(ASKED) == [ECHO]


def test_pauses_are_as_asked_or_grow(make: Make, waits: list[float]) -> None:
    later = fails(429, headers={"Retry-After": "11"})
    with ChatServer(later, then=lambda _: fails(503)) as server, pytest.raises(DetailError):
        make(server, attempts=5).complete(ASKED)
    assert waits[0] == 11.0 and 0 < waits[1] < waits[2] < waits[3]
    tomorrow = fails(429, "not today", headers={"Retry-After": "86400"})
    with ChatServer(tomorrow) as server, pytest.raises(DetailError, match="not today"):
        make(server).complete(ASKED)
    assert len(waits) == 4


def test_a_spent_price_and_budgets_that_make_no_sense_are_refused() -> None:
    budget = Budget(max_cost=0.003, price_in=10.0, price_out=20.0)
    for tokens in (100, 200):
        budget.reserve()
        budget.record(tokens, 0, estimated=True)
    assert (budget.cost, budget.estimated) == (pytest.approx(0.003), 2)
    with pytest.raises(FutileError, match=r"0\.003.*max-cost"):
        budget.reserve()
    for named, wrong in {"max_calls": -1, "price_in": math.nan, "max_cost": 1.0}.items():
        with pytest.raises(OptionError, match=named):
            Budget(**{named: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize(("address", "key", "key_env", "names"), [
    (None, "", None, "OPENAI_API_KEY"), ("http://localhost/v1", "", "MINE", "MINE"),
    ("localhost:8000", "", None, "base URL"), ("ftp://x/v1", "", None, "base URL"),
    ("http://x:port", "", None, "base URL"), (KEY, "", None, "base URL"),
    ("http://localhost/v1", "sk-\u043a\u043b\u044e\u0447", None, "characters"),
    ("http://localhost/v1", "sk-a\nb: c", None, "characters"),
])  # fmt: skip
def test_addresses_and_keys_are_checked_without_repeating_them(
    address: str | None, key: str, key_env: str | None, names: str, monkeypatch: Any
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(OptionError, match=names) as caught:
        ChatClient("m", base_url=address, key_env=key_env)
    assert KEY not in str(caught.value) and (not key or key not in str(caught.value))


def test_nothing_that_is_shown_has_key_or_password(monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    address = "https://me:passw0rd@[::1]:8000/v1?token=tok123"
    assert public_url(address) == "https://[::1]:8000/v1"
    client = ChatClient("m", base_url=address)
    for secret in (KEY, "passw0rd", "tok123"):
        assert secret not in f"{client!r} {client.settings} {vars(client)}"
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(client)
    ChatClient("m", base_url="http://127.0.0.1/v1")
    assert caplog.text == ""
    ChatClient("m", base_url="http://models.example/v1")
    assert "unencrypted" in caplog.text and KEY not in caplog.text


SHOWN = [{"type": "image_url"}, {"type": "text", "text": "x" * 40}]
REQUEST: dict[str, Any] = {"messages": [{"role": "user", "content": SHOWN}], "n": 2, "seed": 1}


def test_a_reply_has_its_texts_and_a_count_that_may_be_estimated() -> None:
    choice = {"message": {"content": "A bus."}, "finish_reason": "stop"}
    counts = {"prompt_tokens": 30, "completion_tokens": 4}
    for usage in (counts, None, {}, {"prompt_tokens": "many"}, {"prompt_tokens": -1}, 3):
        found = read_reply(json.dumps({"choices": [choice], "usage": usage}), REQUEST)
        counted = (30, 4, False) if usage is counts else (1011, 2, True)
        assert found == Reply(("A bus.",), "stop", *counted)


@pytest.mark.parametrize("text", [
    "", "null", "[]", "3", "<html>busy</html>", "{}", '{"choices": []}', '{"choices": [{"message": null}]}',
    '{"choices": [{"message": {"content": 7}}]}', "[" * 100_000,
    'data: {"choices": [{"delta": {"content": "A dog. A man wal"}}]}\n\n',  # a cut stream
])  # fmt: skip
def test_what_is_no_reply_may_pass(text: str) -> None:
    failure = read_reply(text, REQUEST)
    assert isinstance(failure, PassingError) and len(str(failure)) < 300


def said(content: Any, **more: Any) -> str:
    return json.dumps({"choices": [{"message": {"content": content}, **more}]})


PIECES = [{"delta": {"content": "A "}}, {"delta": {"content": "bus."}}, {"delta": {}}]
STREAM = "".join(f"data: {json.dumps({'choices': [piece]})}\n\n" for piece in PIECES)


@pytest.mark.parametrize("text", [
    "\ufeff" + said("A bus."), said(["A ", "bus."]), said({"type": "text", "text": "A bus."}),
    said([{"type": "text", "text": "A "}, {"type": "output_text", "text": {"value": "bus."}}, {"type": "image"}]),
    said([{"type": "thinking", "thinking": [{"text": "Hm."}]}, {"type": "reasoning", "text": "Hm."}, "A bus."]),
    json.dumps({"choices": [{"text": "A bus."}], "error": None}),
    json.dumps({"choices": [{"delta": {"content": "A bus."}}]}),
    f": ping\n\n{STREAM}data: [DONE]\n", STREAM.replace('{"ch', '{"id": "\u2028", "ch') + "data: [DONE]",
    said("A bus. A dog on", finish_reason="length"),
])  # fmt: skip
def test_texts_are_found_in_all_forms(text: str) -> None:
    reply = read_reply(text, REQUEST)
    assert isinstance(reply, Reply) and "".join(reply.texts) == "A bus."


@pytest.mark.parametrize(("text", "why"), [
    (said(None, finish_reason="tool_calls"), "tool_calls"),
    (said("", finish_reason="content_filter"), "content_filter"),
    (json.dumps({"choices": [{"message": {"refusal": "I will not."}}]}), "I will not."),
])  # fmt: skip
def test_an_empty_answer_has_its_reason(text: str, why: str) -> None:
    reply = read_reply(text, REQUEST)
    assert isinstance(reply, Reply) and (reply.texts, reply.finish) == ((), why)


@pytest.mark.parametrize(("error", "words", "kind"), [
    ({"error": {"message": "slow down", "code": "429"}}, "slow down", PassingError),
    ({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, "slow down", PassingError),
    ([{"error": {"code": 503, "message": "overloaded"}}], "overloaded", PassingError),
    ({"choices": [{"error": {"code": 502, "message": "upstream"}}]}, "upstream", PassingError),
    ({"error": {"message": "no memory", "code": 500}, "choices": [{"text": "A"}]}, "no memory", PassingError),
    ({"object": "error", "message": "too long", "code": 400}, "too long", DetailError),
    ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required", DetailError),
    ({"choices": None, "base_resp": {"status_code": 1004, "status_msg": "login fail"}}, "login fail", DetailError),
    ({"error": {"message": "Insufficient Balance", "code": 402}}, "quota is spent", FutileError),
    ({"error": "The model does not support image input"}, "not support", DetailError),
])  # fmt: skip
def test_a_servers_words_are_found_in_all_forms(error: Any, words: str, kind: type) -> None:
    failure = read_reply(json.dumps(error), REQUEST)
    assert type(failure) is kind and words in str(failure)


@pytest.mark.parametrize(("headers", "said", "seconds"), [
    ({"retry-after": "5"}, "", 5), ({"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}, "", math.inf), ({}, "busy", 0),
    ({"retry-after": f"Wed, 21 Oct {'9' * 20} 07:28:00 GMT"}, "", 0),
    ({"retry-after": "soon"}, "try again in 7.5s", 7.5), ({}, '"retryDelay": "34s"', 34), ({}, "retry in 3 s", 3),
])  # fmt: skip
def test_how_long_a_server_asks_to_wait(headers: Any, said: str, seconds: float) -> None:
    assert min(asked_to_wait(headers, said), 1e6) == min(seconds, 1e6)


def test_a_web_page_is_told_by_its_words_and_a_wrong_charset_does_no_harm(make: Make) -> None:
    page = "<!DOCTYPE html><html><style>x{}</style><title>Some gateway</title></html>"
    assert ": Some gateway; does the base URL" in str(read_reply(page, REQUEST))
    headers = {"Content-Type": "application/json; charset=iso-8859-1"}
    body = json.dumps({"choices": [{"message": {"content": "Ein Café."}}]}, ensure_ascii=False)
    replies = [Reaction(body.encode(name), headers=headers) for name in ("utf-8", "latin-1")]
    with ChatServer(*replies) as server:
        client = make(server)
        assert [client.complete(ASKED) for _ in replies] == [["Ein Café."]] * 2


@pytest.mark.parametrize(("status", "body", "futile"), [
    (403, {"code": "content_policy_violation", "message": "no"}, False),
    (403, {"code": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}, False),
    (403, {"type": "data_inspection_failed"}, False),
    (403, {"code": 403, "message": "no", "metadata": {"flagged_input": "a photo"}}, False),
    (403, "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_X", False),
    # About who asks, or nothing that tells.
    (403, None, True), (403, {"code": None, "type": 7, "metadata": "x", "innererror": "x"}, True),
    (403, {"code": "invalid_api_key", "message": "Incorrect API key provided"}, True),
    (403, {"code": "unsupported_country_region_territory", "message": "Country not supported"}, True),
    (403, "<html>Sorry, you have been blocked</html>", True),
    (403, {"message": "Your account was flagged: its images violate our policies"}, True),
    # What would meet every photo.
    (400, "This model does not support images.", True), (500, "image input is not supported", True),
    (400, "Your credit balance is too low", True), (405, "Method Not Allowed", True), (400, "bad photo", False),
])  # fmt: skip
def test_what_concerns_one_photo_is_told_from_what_concerns_all(
    status: int, body: object, futile: bool
) -> None:
    assert isinstance(judge(status, "no", body), FutileError) == futile
