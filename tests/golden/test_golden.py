"""The shipped model says what it said: alone, in batches, from threads, and from the command line."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from patchioner import Patchioner
from patchioner.cli.main import main
from tests import golden
from tests.support import Capture

pytestmark = pytest.mark.skipif(
    not golden.SHARED.is_dir(), reason="the development photos are not beside the checkout"
)


def test_captions_are_the_frozen_ones(shipped: Patchioner) -> None:
    paths = golden.photos(6)
    assert golden.captioned(shipped, paths) == {
        mode: {path.name: expected[path.name] for path in paths}
        for mode, expected in golden.frozen().items()
    }


def test_batches_and_threads_change_nothing(shipped: Patchioner) -> None:
    paths = golden.photos(2)
    items = [(str(path), golden.regions(path)) for path in paths]
    with golden.recorded(shipped) as ids:
        plain = [
            [one.text for one in captions]
            for captions in shipped.caption_many(items, **golden.PLAIN)
        ]
    assert plain
    many = [[one.text for one in captions] for captions in shipped.caption_many(items)]
    expected = golden.frozen()["default"]
    assert ids == [row for path in paths for row in expected[path.name]]
    with ThreadPoolExecutor(2) as pool:
        threaded = list(pool.map(lambda item: [c.text for c in shipped.caption(*item)], items))
    assert threaded == many


def test_the_command_says_the_same(shipped: Patchioner, capsys: Capture) -> None:
    (path,) = golden.photos(1)
    regions = golden.regions(path)
    box, point = regions[1], regions[4]
    given = ["--whole", "--box", _numbers(box, "x1 y1 x2 y2"), "--point", _numbers(point, "x y")]
    assert main(["caption", str(path), *given, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [caption["text"] for row in rows for caption in row["captions"]]
    expected = shipped.caption(str(path), [regions[0], box, point])
    assert sorted(told) == sorted(str(one.text) for one in expected)


def _numbers(region: object, names: str) -> str:
    return ",".join(repr(float(getattr(region, name))) for name in names.split())
