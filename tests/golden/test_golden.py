"""The shipped model says what it said: alone, in batches, from threads, and from the command line."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from patchioner import Patchioner
from patchioner.cli import main
from tests import golden
from tests.support import Capture

pytestmark = pytest.mark.skipif(not golden.SHARED.is_dir(), reason="the development photos are not beside the checkout")


def test_captions_are_the_frozen_ones(shipped: Patchioner) -> None:
    paths = golden.photos(6)
    assert golden.captioned(shipped, paths) == {
        mode: {path.name: expected[path.name] for path in paths} for mode, expected in golden.frozen().items()
    }


def test_batches_and_threads_change_nothing(shipped: Patchioner) -> None:
    paths = golden.photos(2)
    items = [(str(path), golden.regions(path)) for path in paths]
    with golden.recorded(shipped) as ids:
        assert len(list(shipped.caption_many(items, **golden.PLAIN))) == 2
    expected = golden.frozen()["default"]
    assert ids == [row for path in paths for row in expected[path.name]]
    many = [[one.text for one in captions] for captions in shipped.caption_many(items)]
    with ThreadPoolExecutor(2) as pool:
        threaded = list(pool.map(lambda item: [c.text for c in shipped.caption(*item)], items))
    assert threaded == many == [golden.frozen()["phrases"][path.name] for path in paths]


def test_the_command_says_the_same(shipped: Patchioner, capsys: Capture) -> None:
    (path,) = golden.photos(1)
    whole, box, *_, point = golden.regions(path)[:5]
    given = ["--whole"]
    for region in (box, point):
        ((kind, numbers),) = region.to_json().items()
        given += [f"--{kind}", ",".join(map(repr, numbers))]
    assert main(["caption", str(path), *given, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [caption["text"] for row in rows for caption in row["captions"]]
    expected = shipped.caption(str(path), [whole, box, point])
    assert sorted(told) == sorted(str(one.text) for one in expected)
