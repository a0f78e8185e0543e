"""Latency and throughput of the server against `caption_many`: `python -m benchmarks.serve`; `--suite soak` has clients
good and bad, whose every answer is compared. The server is another process that shares the clients' cores.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.command import command_parser, markdown_table, positive, run_command
from benchmarks.data import SAMPLE
from benchmarks.run import machine, versions
from benchmarks.speed import clocked, random_boxes
from patchioner import Patchioner
from patchioner.base.errors import PatchionerError, ServerError
from patchioner.client import Client
from patchioner.regions import Box, Patch

_PATIENCE, _PAGE_MB = 900, os.sysconf("SC_PAGE_SIZE") / 2**20
_REGIONS, _SETS = 16, 4  # of a request; and different ones for each photo in the soak
_MASK = {"mask": {"size": [9, 9], "counts": [81]}}
_WRONG: tuple[Callable[[Client, bytes], Any], ...] = (
    lambda client, photo: client.caption(photo, [Box(90_000, 0, 90_001, 1)]),
    lambda client, photo: client.caption(photo, max_tokens=10**9),
    lambda client, photo: client.label(photo, None, ["one"]),
    lambda client, photo: client.explain(photo, _MASK),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = command_parser("serve", "Latency, throughput and a soak of `patchioner serve`.")
    add = parser.add_argument
    add("--suite", choices=["speed", "soak"], default="speed")
    add("--model", default="patchioner-mini", metavar="ID|DIR")
    add("--device", default="cpu")
    add("--clients", type=positive, nargs="+", default=[1, 8, 64], metavar="N")
    add("--requests", type=positive, default=192, metavar="N", help="of each number of clients")
    add("--minutes", type=float, default=10.0, help="of the soak")
    add("--photos", type=Path, default=SAMPLE / "photos", metavar="FOLDER")
    return run_command(parser, work, argv)


def work(arguments: argparse.Namespace) -> None:
    """Run the suite, write its table."""
    paths = sorted(one for one in arguments.photos.iterdir() if one.suffix in (".jpg", ".png"))
    photos = [path.read_bytes() for path in paths]
    suite: Callable[..., str] = measure_speed if arguments.suite == "speed" else soak
    where = versions() | machine(arguments.device)
    told = ", ".join(f"{key} {value}" for key, value in where.items())
    sys.stdout.write(f"{suite(photos, arguments)}\n{told}\n")


@contextmanager
def served(arguments: argparse.Namespace, **options: object) -> Iterator[tuple[str, int]]:
    """URL and process id of a server that is ready; SIGTERM ends it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"model": arguments.model, "device": arguments.device, "port": port, **options}
    given["deadline"] = _PATIENCE  # other work on the machine must not end a request
    flags = [part for key, one in given.items() for part in (f"--{key}", str(one))]
    command = [sys.executable, "-m", "patchioner", "serve", *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while not _answers(url) and process.poll() is None:
            time.sleep(0.2)
        yield url, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _answers(url: str) -> bool:
    with suppress(ServerError):
        return bool(Client(url).models())
    return False


def measure_speed(photos: Sequence[bytes], arguments: argparse.Namespace) -> str:
    """Tables of hover latency, and of requests of 16 regions by numbers of clients."""
    offline = _offline_rate(photos, arguments)
    rows = []
    with served(arguments) as (url, _):
        client = Client(url, timeout=_PATIENCE)
        sizes = [(one["width"], one["height"]) for one in map(client.encode, photos)]
        hover = _hover(client, photos[0])
        for clients in arguments.clients:
            seconds, total = _load(url, photos, sizes, clients, arguments.requests)
            rate = arguments.requests / total
            rows.append([str(clients), f"{rate:.2f}", *_ends(seconds), f"{rate / offline:.2f}"])
    head = ["clients", "requests/s", "p50, ms", "p99, ms", f"of caption_many's {offline:.2f}"]
    return f"{hover}\n\n{markdown_table(head, rows)}"


def _offline_rate(photos: Sequence[bytes], arguments: argparse.Namespace) -> float:
    """Requests a second of the same work through `caption_many`, photos encoded before."""
    model = Patchioner.from_pretrained(arguments.model, device=arguments.device)
    features = [model.encode(photo) for photo in photos]
    often = itertools.islice(itertools.cycle(features), arguments.requests)
    sized = [(one, one.geometry.image_size) for one in often]
    items = [(one, random_boxes(_REGIONS, size, seed=n)) for n, (one, size) in enumerate(sized)]
    list(model.caption_many(items[:4]))
    return len(items) / clocked(lambda: list(model.caption_many(items)))()


def _hover(client: Client, photo: bytes) -> str:
    """Captions of single patches of an encoded photo, none asked before."""
    grid = client.encode(photo)["grid"]
    every = [Patch(row, column) for row in range(grid[0]) for column in range(grid[1])]
    cells = random.Random(0).sample(every, 60)
    seconds = [clocked(partial(client.caption, photo, [cell]))() for cell in cells]
    p50, p99 = _ends(seconds)
    return f"hover, one client: first {1000 * seconds[0]:.0f} ms, p50 {p50} ms, p99 {p99} ms"


def _load(
    url: str, photos: Sequence[bytes], sizes: Sequence[tuple[int, int]], clients: int, requests: int
) -> tuple[list[float], float]:
    """Seconds of each request, and of all; every client asks again as soon as it is answered."""

    def ask(number: int) -> float:
        place = number % len(photos)
        boxes = random_boxes(_REGIONS, sizes[place], seed=number)
        return clocked(partial(Client(url, timeout=_PATIENCE).caption, photos[place], boxes))()

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        seconds = list(pool.map(ask, range(requests)))
    return seconds, time.perf_counter() - started


def _ends(seconds: Sequence[float]) -> tuple[str, str]:
    """Milliseconds of the median and of the slowest of a hundred."""
    slow = sorted(seconds)[int(0.99 * len(seconds))]
    return f"{1000 * statistics.median(seconds):.0f}", f"{1000 * slow:.0f}"


def soak(photos: Sequence[bytes], arguments: argparse.Namespace) -> str:
    """Clients that ask, ask wrongly, send rubbish and leave, for some minutes, with room for a third of the photos."""
    model = Patchioner.from_pretrained(arguments.model, device=arguments.device)
    expected: dict[tuple[int, int], tuple[list[Box], list[str | None]]] = {}
    size = 0
    for place, photo in enumerate(photos):
        features = model.encode(photo)
        size += len(photo) + 2 * features.tokens.nbytes
        for number in range(_SETS):
            boxes = random_boxes(_REGIONS // 4, features.geometry.image_size, seed=number)
            expected[place, number] = boxes, [one.text for one in model.caption(features, boxes)]
    counts: Counter[str] = Counter()
    memory: list[float] = []
    with served(arguments, **{"cache-bytes": size // 3}) as (url, process):
        until = time.monotonic() + 60 * arguments.minutes

        def live(seed: int) -> None:
            dice = random.Random(seed)
            while time.monotonic() < until:
                for name in _one_request(url, photos, expected, dice):
                    counts[name] += 1  # one key is changed by one statement

        threads = [threading.Thread(target=live, args=(n,)) for n in range(max(arguments.clients))]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(5.0)
                memory.append(_resident_mb(process))  # an error where the server has died
    rows = [(name, str(number)) for name, number in sorted(counts.items())]
    third = max(1, len(memory) // 3)
    parts = [memory[:third], memory[third:-third], memory[-third:]]
    told = ", ".join(f"{statistics.median(part or memory):.0f}" for part in parts)
    return f"{markdown_table(['outcome', 'requests'], rows)}\n\nmemory in thirds of the time: {told} MiB"


def _one_request(url: str, photos: Sequence[bytes], expected: dict[Any, Any], dice: random.Random) -> Iterator[str]:
    """Something that a client does, and what became of it."""
    client, (place, number) = Client(url, timeout=_PATIENCE), dice.choice(list(expected))
    kind = dice.choices(["ask", "wrong", "rubbish", "leave"], [10, 1, 1, 1])[0]
    try:
        if kind == "ask":
            boxes, texts = expected[place, number]
            found = [one.get("text") for one in client.caption(photos[place], boxes)]
            yield "right" if found == texts else "WRONG"
        elif kind == "rubbish":
            data = photos[place]
            client.encode(data[: dice.randrange(len(data) // 2)])
            yield "UNEXPECTED: rubbish was taken"
        elif kind == "leave":
            _leave(url, photos[place], dice)
            yield "left"
        else:
            found = dice.choice(_WRONG)(client, photos[place])
            yield "refused: one region" if "error" in found[0] else "UNEXPECTED: no error"
    except PatchionerError as error:
        word = getattr(error, "kind", "failed")
        intended = kind != "ask" and word in ("bad_image", "bad_region", "bad_option", "bad_text")
        yield f"refused: {word}" if intended else f"UNEXPECTED: {word}: {error}"


def _leave(url: str, photo: bytes, dice: random.Random) -> None:
    """Send a request whole or in part, and hang up."""
    body = json.dumps({"image": base64.b64encode(photo).decode()}).encode()
    head = f"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    sent = head.encode() + b"Content-Type: application/json\r\n\r\n" + body
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), 60) as connection:
        connection.sendall(sent[: dice.choice([len(sent), len(sent) // 2])])
        time.sleep(dice.random() / 5)


def _resident_mb(process: int) -> float:
    return int(Path(f"/proc/{process}/statm").read_text("ascii").split()[1]) * _PAGE_MB


if __name__ == "__main__":
    sys.exit(main())
