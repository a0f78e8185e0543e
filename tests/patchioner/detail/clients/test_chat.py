from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from patchioner.base.errors import DetailError, FutileError, OptionError
from patchioner.detail.clients.budget import Budget, Prices
from patchioner.detail.clients.cache import CallCache
from patchioner.detail.clients.chat import ChatClient
from patchioner.detail.clients.failures import EmptyAnswerError
from patchioner.detail.clients.remote_text import RemoteTextModel
from patchioner.detail.clients.retry import RetryPolicy
from tests.support.chat_server import ChatServer, Reaction, echo, fails, says

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
        options = {"timeout": 5.0, "retry": RetryPolicy(attempts=3), **options}
        made.append(ChatClient("tiny", base_url=server.url, sleep=waits.append, **options))
        return made[-1]

    yield client
    for one in made:
        one.close()


def ask(client: ChatClient, **options: Any) -> list[str]:
    return client.ask(
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
    assert client.usage.calls == 3 and client.usage.answered == 1


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
        client = make(server, timeout=0.5, retry=RetryPolicy(attempts=9))
        assert ask(client) == ["Answer 0 to seed 3."]
    assert len(server.requests) >= 2  # more on a busy machine, where half a second may be too short


def test_a_server_that_is_not_there_is_named(make: Make) -> None:
    with ChatServer() as server:
        pass
    with pytest.raises(
        DetailError, match="the connection failed .ConnectError., 3 times; is the server up"
    ):
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
    assert client.usage.calls == 5


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
        model = RemoteTextModel(client, cache=CallCache(tmp_path))
        return model.ask("", f"question {i}", temperature=0.0, max_tokens=5)

    with ChatServer() as server:
        client = make(server, budget=Budget(max_calls=4), concurrency=2)
        with pytest.raises(FutileError, match="4 calls is spent"):
            client.map(lambda i: text(client, i), range(10))
        assert len(server.requests) == 4 == client.usage.calls
        assert len(list(tmp_path.rglob("*.json"))) == 4
        again = make(server, budget=Budget(max_calls=6), concurrency=2)
        assert len(again.map(lambda i: text(again, i), range(10))) == 10
    asked = [request["messages"][-1]["content"] for request in server.requests]
    assert sorted(asked) == [f"question {i}" for i in range(10)]  # nothing twice


def test_costs_stop_the_work_too(make: Make) -> None:
    with ChatServer() as server:  # 100 tokens in, 10 out
        client = make(server, budget=Budget(max_cost=3e-4, prices=Prices(1.0, 2.0)))
        ask(client)
        ask(client)
        assert client.usage.cost == pytest.approx(2.4e-4)
        ask(client)
        with pytest.raises(FutileError, match="budget is spent"):
            ask(client)
    assert len(server.requests) == 3


def test_one_failure_in_a_map_leaves_the_others(make: Make) -> None:
    def picky(request: dict[str, Any]) -> Reaction:
        return fails(400, "not this") if request["seed"] == 1 else echo(request)

    with ChatServer(then=picky) as server:
        client = make(server)
        first, failed, third = client.map(lambda i: ask(client, seed=i), range(3))
    assert first == ["Answer 0 to seed 0."] and third == ["Answer 0 to seed 2."]
    assert isinstance(failed, DetailError) and "not this" in str(failed)


def test_an_error_of_ours_passes_through_a_map(make: Make) -> None:
    with ChatServer() as server, pytest.raises(ZeroDivisionError):
        make(server).map(lambda i: 1 // i, [1, 0, 2])


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
        client = make(server)
        model = RemoteTextModel(client, cache=CallCache(tmp_path))
        assert model.ask("", "My key?", temperature=0.0, max_tokens=5) == "Your key is ***."
        server._then = lambda _: fails(status, f"bad key {KEY}")
        with pytest.raises(DetailError, match=r"bad key \*\*\*") as caught:
            model.ask("", "Another?", temperature=0.0, max_tokens=5)
    shown = [
        repr(client),
        str(client.settings),
        str(model.settings),
        str(client.usage),
        str(vars(client)),
    ]
    shown += [caplog.text, *(str(vars(record)) for record in caplog.records)]
    shown += [f"{link!r} {link}" for link in chain(caught.value)]
    assert not [text for text in shown if KEY in text]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1
    assert KEY not in files[0].read_text()
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"  # it was in use


@pytest.mark.parametrize(
    ("model", "options", "names"),
    [
        ("", {}, "no model"),
        ("m", {"timeout": 0}, "timeout is 0"),
        ("m", {"concurrency": 0}, "concurrency is 0"),
        ("m", {"concurrency": True}, "concurrency is True"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    model: str, options: dict[str, Any], names: str
) -> None:
    with pytest.raises(OptionError, match=names):
        ChatClient(model, base_url="http://127.0.0.1:1/v1", **options)


def test_a_text_model_asks_each_question_once(make: Make, tmp_path: Any) -> None:
    with ChatServer() as server:
        model = RemoteTextModel(make(server), cache=CallCache(tmp_path))
        one = model.ask("s", "u", temperature=0.2, max_tokens=9, seed=4)
        assert (
            model.ask("s", "u", temperature=0.2, max_tokens=9, seed=4)
            == one
            == "Answer 0 to seed 4."
        )
        model.ask("s", "u", temperature=0.2, max_tokens=9, seed=5)
        model.ask("t", "u", temperature=0.2, max_tokens=9, seed=4)
        assert len(server.requests) == 3
        RemoteTextModel(make(server)).ask("s", "u", temperature=0.2, max_tokens=9, seed=4)
        assert len(server.requests) == 4


def test_a_refused_key_is_not_tried_again(make: Make) -> None:
    with ChatServer(then=lambda request: fails(401, "who are you")) as server:
        client = make(server)
        for _ in range(3):
            with pytest.raises(FutileError, match="who are you"):
                ask(client)
        assert len(server.requests) == client.usage.calls == 1


def test_after_an_interrupt_nothing_is_tried_again_and_the_next_call_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    busy = [fails(503) for _ in range(2)]
    with ChatServer(*busy) as server:
        policy = RetryPolicy(attempts=6, base=60.0)
        client = ChatClient("tiny", base_url=server.url, retry=policy)

        def stop() -> None:
            while client.usage.calls < 2:
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


def test_a_pause_ends_with_the_calls_that_are_interrupted_and_not_the_next(make: Make) -> None:
    with ChatServer() as server:
        client = make(server)
        earlier = client.pauses()
        client.interrupt()
        with pytest.raises(DetailError, match="interrupted") as caught:
            earlier(60.0)
        assert not isinstance(caught.value, FutileError)
        client.pauses()(0.0)
