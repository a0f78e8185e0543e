"""The client against a server of our own that misbehaves: 429, 5xx, cut connections, hostile JSON, keys sent back."""

import json
import logging
import math
import pickle
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from patchioner.base.errors import DetailError, FutileError, OptionError
from patchioner.detail import client as chat
from patchioner.detail.models import CallCache, EmptyAnswerError, Question
from tests.patchioner.detail.conftest import CASES, KEY, Make
from tests.support import Log, MonkeyPatch
from tests.support.chat_server import JSON, ChatServer, Reaction, echo, fails, says

pytest.importorskip("openai")
ASKED = Question("fuse", "m", "What?", "Be brief.", {"temperature": 0.5, "max_tokens": 7}, 3)
ECHO = f"Answer 0 to seed {ASKED.own_seed}."


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
])  # fmt: skip
def test_what_may_pass_is_tried_again(make: Make, waits: list[float], trouble: Reaction) -> None:
    with ChatServer(trouble, trouble) as server:
        client = make(server)
        assert client.complete(ASKED) == [ECHO]
    assert len(server.requests) == client.budget.calls == 3 and len(waits) == 2
    assert client.budget.answered == 1


def test_pauses_are_as_asked_or_grow_until_all_is_given_up(make: Make, waits: list[float]) -> None:
    later = fails(429, headers={"Retry-After": "11"})
    broken = ChatServer(later, then=lambda _: fails(503, "oh dear"))
    with broken as server, pytest.raises(DetailError, match="tiny at http.*HTTP 503.*oh") as caught:
        make(server, attempts=5).complete(ASKED)
    assert not isinstance(caught.value, FutileError)
    assert len(server.requests) == 5
    assert waits[0] == 11.0 and 0 < waits[1] < waits[2] < waits[3]
    with pytest.raises(DetailError, match="tiny at http://127.*1 times"):  # it is gone now
        make(server, attempts=1).complete(ASKED)
    tomorrow = fails(429, "not today", headers={"Retry-After": "86400"})
    with ChatServer(tomorrow) as server, pytest.raises(DetailError, match="not today"):
        make(server).complete(ASKED)
    assert len(waits) == 4


def test_a_server_that_hangs_is_a_timeout(make: Make) -> None:
    with ChatServer(Reaction(hang=True)) as server:
        assert make(server, timeout=0.5, attempts=9).complete(ASKED) == [ECHO]
    assert len(server.requests) >= 2  # more on a busy machine, where half a second may be too short


@pytest.mark.parametrize(("reaction", "reason", "futile"), [
    (fails(400, "the reason"), "HTTP 400.*the reason", False),
    (fails(401, "the reason"), "HTTP 401.*the reason", True),
    (fails(403, "the reason", code="content_policy_violation"), "HTTP 403.*the reason", False),
    (fails(429, "the reason", code="insufficient_quota"), "HTTP 429.*the reason", True),
    (Reaction(b'{"error": {"code": 401, "message": "who"}}', headers=JSON), "who", True),
    (says(""), "empty .stop.", False), (says("<think>all of it</think>"), "empty .stop.", False),
])  # fmt: skip
def test_what_will_not_pass_is_not_tried_again(
    make: Make, waits: list[float], reaction: Reaction, reason: str, futile: bool
) -> None:
    with ChatServer(reaction) as server:
        client = make(server)
        for _ in range(1 + futile):  # nothing else is sent
            with pytest.raises(DetailError, match=reason) as caught:
                client.complete(ASKED)
            assert isinstance(caught.value, FutileError) == futile
            assert isinstance(caught.value, EmptyAnswerError) == ("empty" in reason)
    assert len(server.requests) == client.budget.calls == 1 and waits == []


def test_nothing_is_sent_where_a_redirect_to_another_host_leads(make: Make) -> None:
    with ChatServer() as other:
        place = f"{other.url.replace('127.0.0.1', 'localhost')}/chat/completions"
        script = [Reaction(status=308, headers={"Location": "/v2"})]
        script += [Reaction(status=307, headers={"Location": place})]
        with ChatServer(*script) as server:
            client = make(server)
            for _ in range(2):
                with pytest.raises(FutileError, match="on to localhost.*base URL"):
                    client.complete(ASKED)
    assert (len(server.requests), other.requests) == (2, [])


def test_a_host_in_punycode_and_a_wrong_charset_do_no_harm(make: Make, monkeypatch: Any) -> None:
    headers = {"Content-Type": "application/json; charset=iso-8859-1"}
    body = json.dumps({"choices": [{"message": {"content": "Ein Café."}}]}, ensure_ascii=False)
    replies = [Reaction(body.encode(name), headers=headers) for name in ("utf-8", "latin-1")]
    with ChatServer(*replies) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        client = make(SimpleNamespace(url="http://xn--bcher-kva.example/v1"))
        assert [client.complete(ASKED) for _ in replies] == [["Ein Café."]] * 2


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


@pytest.mark.parametrize(("message", "name"), CASES["refused parameters"])
def test_a_refused_parameter_is_known_by_the_servers_words(message: str, name: str | None) -> None:
    error = SimpleNamespace(status_code=400, message=message, body={"message": message})
    asked = {"n": 3, "seed": 1, "temperature": 0.2, "max_tokens": 9}
    assert chat.refused_parameter(error, asked) == name
    assert chat.refused_parameter(error, {"model": "x"}) is None


def test_a_budget_stops_the_work_until_it_is_raised(make: Make) -> None:
    with ChatServer() as server:
        client = make(server, budget=chat.Budget(max_calls=1))
        assert client.complete(ASKED) == [ECHO]
        with pytest.raises(FutileError, match="1 calls"):
            client.complete(ASKED)
        client.budget.max_calls = 2
        assert client.complete(ASKED) == [ECHO]


@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_repeated_key_is_nowhere(make: Make, tmp_path: Any, caplog: Log, status: int) -> None:
    with caplog.at_level(logging.DEBUG), ChatServer(says(f"Your key is {KEY}.")) as server:
        client = make(server, cache=CallCache(tmp_path))
        assert client.ask("", "My key?", temperature=0.0, max_tokens=5) == "Your key is ***."
        server._then = lambda _: fails(status, f"bad key {KEY}")
        with pytest.raises(DetailError, match=r"bad key \*\*\*") as caught:
            client.ask("", "Another?", temperature=0.0, max_tokens=5)
    shown = [repr(client), str(client.settings), str(vars(client)), caplog.text]
    shown += [str(vars(record)) for record in caplog.records]
    shown += traceback.format_exception(caught.value)
    shown += [path.read_text() for path in tmp_path.rglob("*.json")]
    assert not [text for text in shown if KEY in text]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"  # it was in use
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(client)


@pytest.fixture
def paused(monkeypatch: MonkeyPatch) -> threading.Semaphore:
    """Counts the pauses that were begun; each lasts until it is interrupted."""
    begun = threading.Semaphore(0)

    def pause(client: chat.ChatClient, seconds: float, interrupt: threading.Event) -> None:
        begun.release()
        assert interrupt.wait(20)

    monkeypatch.setattr(chat.ChatClient, "_pause", pause)
    return begun


def test_after_an_interrupt(make: Make, paused: threading.Semaphore) -> None:
    with ChatServer(*[fails(503)] * 2) as server, ThreadPoolExecutor(2) as threads:
        client = make(server)
        how: Any = {"temperature": 0.5, "max_tokens": 7}
        asked = [threads.submit(client.ask, "", "What?", **how) for _ in range(2)]
        assert all(paused.acquire(timeout=20) for _ in asked)
        client.stop()
        asked.append(threads.submit(client.ask, "", "And this?", **how))
        for one in asked:
            with pytest.raises(FutileError, match="tiny at http://127.*interrupted"):
                one.result(timeout=10)
    assert len(server.requests) == 2


def test_an_error_of_one_call_ends_its_own_pauses_alone(make: Make, paused: Any) -> None:
    def no_picture() -> Any:
        assert paused.acquire(timeout=20)
        raise MemoryError

    with ChatServer(fails(503)) as server:
        client = make(server)
        with pytest.raises(MemoryError):
            client.answers([(ASKED, None), (replace(ASKED, user="And this?"), no_picture)])
        assert client.complete(ASKED) == [ECHO]


def test_a_spent_price_and_budgets_that_make_no_sense_are_refused() -> None:
    budget = chat.Budget(max_cost=0.003, price_in=10.0, price_out=20.0)
    budget.record(100, 100, estimated=True)
    assert budget.cost == pytest.approx(0.003) and budget.estimated == 1
    with pytest.raises(FutileError, match=r"0\.003.*max-cost"):
        budget.reserve()
    for named, wrong in {"max_calls": -1, "price_in": math.nan, "max_cost": 1.0}.items():
        with pytest.raises(OptionError, match=named):
            chat.Budget(**{named: wrong})  # type: ignore[arg-type]


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
        chat.ChatClient("m", base_url=address, key_env=key_env)
    assert KEY not in str(caught.value) and (not key or key not in str(caught.value))


def test_no_password_is_shown_and_an_open_key_is_warned_of(monkeypatch: Any, caplog: Log) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    client = chat.ChatClient("m", base_url="https://me:passw0rd@[::1]:8000/v1?token=tok123")
    assert client.url == "https://[::1]:8000/v1"
    shown = f"{client!r} {client.settings} {vars(client)}"
    chat.ChatClient("m", base_url="http://127.0.0.1/v1")
    assert caplog.text == ""
    chat.ChatClient("m", base_url="http://models.example/v1")
    assert "unencrypted" in caplog.text
    monkeypatch.delenv("OPENAI_API_KEY")  # which other servers do not need
    chat.ChatClient("m", base_url="http://models.example/v1")
    assert not [one for one in ("passw0rd", "tok123", KEY) if one in shown + caplog.text]


SHOWN = [{"type": "image_url"}, {"type": "text", "text": "x" * 40}]
REQUEST: dict[str, Any] = {"messages": [{"role": "user", "content": SHOWN}], "n": 2, "seed": 1}


def raw(body: Any) -> str:
    return body if isinstance(body, str) else json.dumps(body)


def test_a_reply_has_its_texts_and_a_count_that_may_be_estimated() -> None:
    choice = {"message": {"content": "A bus."}, "finish_reason": "stop"}
    counts = {"prompt_tokens": 30, "completion_tokens": 4}
    for usage in (counts, None, {}, {"prompt_tokens": "many"}, {"prompt_tokens": -1}, 3):
        found = chat.read_reply(json.dumps({"choices": [choice], "usage": usage}), REQUEST)
        counted = (30, 4, False) if usage is counts else (1011, 2, True)
        assert found == chat.Reply(("A bus.",), "stop", *counted)


@pytest.mark.parametrize("body", [*CASES["no replies"], "[" * 100_000])
def test_what_is_no_reply_may_pass(body: Any) -> None:
    failure = chat.read_reply(raw(body), REQUEST)
    assert isinstance(failure, chat.PassingError) and len(str(failure)) < 300
    assert ("gateway" in raw(body)) == (": Some gateway; does the base URL" in str(failure))


@pytest.mark.parametrize("body", CASES["texts"])
def test_texts_are_found_in_all_forms(body: Any) -> None:
    reply = chat.read_reply(raw(body), REQUEST)
    assert isinstance(reply, chat.Reply) and "".join(reply.texts) == "A bus."


@pytest.mark.parametrize("choice", [
    {"message": {"content": None}, "finish_reason": "I will not."}, {"message": {"refusal": "I will not."}}
])  # fmt: skip
def test_an_empty_answer_has_its_reason(choice: Any) -> None:
    reply = chat.read_reply(raw({"choices": [choice]}), REQUEST)
    assert isinstance(reply, chat.Reply) and (reply.texts, reply.finish) == ((), "I will not.")


KINDS = {"passing": chat.PassingError, "detail": DetailError, "futile": FutileError}


@pytest.mark.parametrize(("error", "words", "kind"), CASES["errors"])
def test_a_servers_words_are_found_in_all_forms(error: Any, words: str, kind: str) -> None:
    failure = chat.read_reply(raw(error), REQUEST)
    assert type(failure) is KINDS[kind] and words in str(failure)


@pytest.mark.parametrize(("headers", "said", "seconds"), CASES["waits"])
def test_how_long_a_server_asks_to_wait(headers: Any, said: str, seconds: float) -> None:
    assert min(chat.asked_to_wait(headers, said), 1e6) == seconds


@pytest.mark.parametrize(("status", "body", "futile"), CASES["judged"])
def test_what_concerns_a_photo_alone_is_told(status: int, body: object, futile: bool) -> None:
    assert isinstance(chat.judge(status, "no", body), FutileError) == futile
