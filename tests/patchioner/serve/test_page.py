from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchioner import Patchioner
from patchioner.detail import DetailedCaption, DetailRegion, FusedSentence
from patchioner.regions import Mask, read_regions
from patchioner.serve.engine import Engine
from tests.support.server import running

playwright: Any = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe: Any = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")
expect, PATIENCE = playwright.expect, 120_000  # milliseconds, on a machine with other work
expect.set_options(timeout=PATIENCE)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("no chromium is installed", allow_module_level=True)

CASES = Path(__file__).with_name("cases")
MARK = (60, 40, 220, 150)  # of every photo here: magenta, XYXY pixels
WIDE, TALL = (480, 320), (320, 480)
GIVE = (CASES / "give.js").read_text()


def photo(size: tuple[int, int] = WIDE, *, turned: bool = False) -> bytes:
    """Grey with a magenta box at MARK; turned: stored on its side, with the EXIF note that says so."""
    pixels = np.full((size[1], size[0], 3), 120, dtype=np.uint8)
    pixels[MARK[1] : MARK[3], MARK[0] : MARK[2]] = (255, 0, 255)
    image, exif = Image.fromarray(pixels), Image.Exif()
    if turned:
        image, exif[0x0112] = image.transpose(Image.Transpose.ROTATE_90), 6
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, subsampling=0, exif=exif)
    return stream.getvalue()


@pytest.fixture(scope="module")
def address(model: Patchioner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("photos")
    for name in ("9.jpg", "10.jpg"):
        (folder / name).write_bytes(photo())
    with running(model, root=folder) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    options: Any = {"args": ["--no-sandbox", *fake], "timeout": PATIENCE}
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, **options)
        yield found
        found.close()


class Desk:
    def __init__(self, page: Any) -> None:
        self.page, self.faults = page, list[str]()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("dialog", lambda dialog: self.faults.append(f"a script ran: {dialog.message}"))

    def give(self, field: str, content: bytes, name: str = "photo.jpg") -> None:
        kind = "image/jpeg" if name.endswith("jpg") else "application/json"
        file = {"name": name, "mimeType": kind, "buffer": content}
        self.page.locator(f"#{field}").set_input_files(file)

    def open(self, content: bytes, name: str = "photo.jpg") -> Desk:
        self.give("file", content, name)
        self.page.wait_for_selector("#stage[aria-label*='pixels']")
        return self

    def tool(self, name: str) -> None:
        self.page.get_by_label(name, exact=True).check()

    def click(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).first.click()

    def says(self, text: str, place: str = "status") -> None:
        expect(self.page.locator(f"#{place}")).to_contain_text(text)

    def mark(self) -> tuple[float, float, float, float]:
        """Where the magenta box is SEEN, XYXY in CSS pixels."""
        shot = np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"), dtype=int)
        magenta = np.minimum(shot[..., 0], shot[..., 2]) - shot[..., 1] > 90
        rows, columns = np.nonzero(magenta)
        ratio = shot.shape[1] / self.page.evaluate("innerWidth")
        edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        x1, y1, x2, y2 = (float(edge) / ratio for edge in edges)
        return x1, y1, x2, y2

    def asked(self, act: Callable[[], object]) -> dict[str, Any]:
        def alone(reply: Any) -> bool:  # captions of imported regions may still be on their way
            sent = reply.url.endswith("/captions") and json.loads(reply.request.post_data)
            return bool(sent) and len(sent["regions"]) == 1

        with self.page.expect_response(alone) as reply:
            act()
        sent = json.loads(reply.value.request.post_data)
        (region,) = sent["regions"]
        assert sent["style"] == self.page.get_by_label("Style").input_value()
        assert "error" not in reply.value.json()["captions"][0]
        return dict(region)

    def drag(self, *points: tuple[float, float]) -> dict[str, Any]:
        def draw() -> None:
            self.page.mouse.move(*points[0])
            self.page.mouse.down()
            for point in points[1:]:
                self.page.mouse.move(*point, steps=4)
            self.page.mouse.up()

        return self.asked(draw)

    def download(self, act: Callable[[], object]) -> str:
        with self.page.expect_download() as file:
            act()
        return str(file.value.path())

    def export(self, kind: str) -> str:
        return self.download(lambda: self.page.get_by_label("Export").select_option(kind))


def read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def table(path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(read(path))))


Start = Callable[..., Desk]


@pytest.fixture
def start(browser: Any, address: str) -> Iterator[Start]:
    """Open the page with these options of the browser; afterwards nothing may have gone wrong in it."""
    opened: list[tuple[Any, Desk]] = []

    def go(**options: Any) -> Desk:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
        desk = Desk(context.new_page())
        opened.append((context, desk))
        desk.page.goto(address)
        return desk

    yield go
    for context, desk in opened:
        assert desk.faults == []
        context.close()


ZOOMED = "document.querySelector('.zoom :last-child').click(); stage.scrollTo(0, 30)"
LAYOUTS = ("0", ZOOMED, "document.body.style.zoom = 1.4", "document.body.style.width = '620px'")


@pytest.mark.parametrize("change", LAYOUTS, ids=["high-dpi", "zoomed", "page-zoom", "resized"])
def test_a_box_lands_on_the_pixels_that_it_was_drawn_around(start: Start, change: str) -> None:
    desk = start(device_scale_factor=2.5).open(photo(TALL, turned=True))
    desk.tool("Box")
    desk.page.evaluate(change)
    desk.page.wait_for_timeout(100)
    x1, y1, x2, y2 = desk.mark()
    pixel = (MARK[2] - MARK[0]) / (x2 - x1)  # of the screen, in those of the photo
    region = desk.drag((x2, y1), (x1, y2))
    assert np.allclose(region["box"], MARK, atol=1.5 * max(1, pixel))


def test_every_tool_sends_what_was_drawn(start: Start) -> None:
    desk = start().open(photo())
    x1, y1, x2, y2 = desk.mark()
    corners, scale = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)], (x2 - x1) / (MARK[2] - MARK[0])
    assert np.allclose(desk.drag((x1, y1))["point"], MARK[:2], atol=1.5)
    desk.page.get_by_label("Style").select_option("sentence")
    desk.tool("Lasso")
    ring = np.array(desk.drag(*corners)["polygon"])
    assert np.allclose([*ring.min(axis=0), *ring.max(axis=0)], MARK, atol=1.5)
    desk.tool("Scribble")
    path = np.array(desk.drag((x1, y1), (x2, y2))["trace"])
    assert np.allclose([path[0], path[-1]], [MARK[:2], MARK[2:]], atol=4)
    desk.tool("Paint")
    desk.click("Delete all")
    x1, y1, x2, y2 = desk.mark()  # the brush's options take a line
    brush = Mask.from_rle(desk.drag((x1, y1), (x2, y1))["mask"])
    painted, half = brush.array, 12 / scale  # the brush is 24 CSS pixels wide
    line = [MARK[0] - half, MARK[1] - half, MARK[2] + half, MARK[1] + half]
    assert np.allclose(brush.bounds, line, atol=2)
    more = Mask.from_rle(desk.drag((x1, y2), (x2, y2))["mask"]).array
    assert (more & painted).sum() == painted.sum() < more.sum()  # the same mask goes on
    desk.page.get_by_label("Erase").check()
    less = Mask.from_rle(desk.drag((x1, y1), (x2, y1))["mask"]).array
    assert np.array_equal(less, more & ~painted)
    desk.page.get_by_label("Join into a set").check()
    desk.tool("Box")
    joined = desk.drag((x1, y1), (x2, y2))["set"]
    assert [list(member) for member in joined] == [["mask"], ["box"]]


def test_patches_under_the_pointer_come_first_and_those_around_it_ahead(start: Start) -> None:
    desk = start().open(photo())
    columns = int(desk.page.locator("#status").inner_text().split()[-5])

    def cells(request: Any) -> Any:
        return json.loads(request.post_data)["cells"] if request.url.endswith("/patches") else []

    def answer(route: Any) -> None:  # what is asked ahead is never answered
        if len(cells(route.request)) == 1:
            route.continue_()

    desk.page.route("**/patches", answer)
    edges = desk.page.locator("#photo").bounding_box()
    with desk.page.expect_request(lambda one: len(cells(one)) > 1) as ahead:
        desk.page.mouse.move(edges["x"] + 2, edges["y"] + 2)
    near = cells(ahead.value)
    assert len(near) == 8 and all(0 < row + column <= 4 for row, column in near)
    with desk.page.expect_response(lambda one: len(cells(one.request)) == 1) as last:
        desk.page.mouse.move(edges["x"] + edges["width"] - 2, edges["y"] + 2)
    assert cells(last.value.request) == [[0, columns - 1]]
    desk.says("score", "bubble")
    desk.page.get_by_label("Style").select_option("phrase")
    with desk.page.expect_request(lambda one: len(cells(one)) == 1) as again:
        desk.page.mouse.move(edges["x"] + edges["width"] - 3, edges["y"] + 2)
    assert json.loads(again.value.post_data) == {"cells": [[0, columns - 1]], "style": "phrase"}


def test_the_keyboard_alone_draws_edits_and_deletes_and_no_text_runs(start: Start) -> None:
    attack = '"><img src=x onerror=alert(1)><script>alert(2)</script>=HYPERLINK("x").jpg'
    desk = start().open(photo(), attack)
    page, keys = desk.page, desk.page.keyboard
    page.locator("#stage").focus()
    keys.press("ArrowRight")
    expect(page.locator("#status")).not_to_contain_text("Move over it")
    keys.press("ArrowDown")
    x, y = desk.asked(lambda: keys.press("Enter"))["point"]
    desk.tool("Box")
    page.locator("#stage").focus()
    keys.press("Enter")
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        keys.press(key)
    box = desk.asked(lambda: keys.press("Enter"))["box"]
    assert (box[0], box[3]) == pytest.approx((x, y)) and box[2] > x and box[1] < y
    items = page.locator("#items li")
    items.first.get_by_role("button", name="Edit").focus()
    for key in ("Enter", "Control+a"):
        keys.press(key)
    keys.type("=" + attack)
    keys.press("Enter")
    expect(items.first).to_contain_text(f"={attack} (edited)")
    assert table(desk.export("csv"))[0]["caption"] == "'=" + attack
    assert page.locator("img[src=x], script:not([src])").count() == 0
    items.first.get_by_role("button", name="Delete").focus()
    keys.press("Enter")
    expect(items).to_have_count(1)


async def described(self: Engine, photo: Any, seed: int, preset: str) -> DetailedCaption:
    sentence = FusedSentence(f"A {preset} one.", (), ("spatial-0",), support=0.9)
    region = DetailRegion("spatial-0", "spatial", MARK)
    return DetailedCaption(sentence.text, (sentence,), (), (), (region,), WIDE)


def check_access(page: Any) -> None:
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = axe.Axe().run(page).response["violations"]
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        assert [(one["id"], one["nodes"][0]["html"]) for one in serious] == []


def test_why_find_label_and_describe_answer(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "detail", described)
    desk = start(bypass_csp=True)  # for axe
    page = desk.page
    check_access(page)
    desk.open(photo())
    assert desk.asked(lambda: desk.click("Caption the whole photo")) == {"whole": True}
    page.get_by_role("button", name="Why").click()
    expect(page.locator("#memory li")).to_have_count(5)
    expect(page.locator("#heat image")).to_have_count(1)
    check_access(page)
    page.get_by_label("Words").fill("a red cat")
    desk.click("Find")
    desk.says("patches match")
    page.get_by_label("Threshold").fill("0.9")
    mask = Mask.from_rle(desk.asked(lambda: desk.click("Make it a region"))["mask"])
    assert mask.image_size == WIDE
    page.get_by_text("Choose among my words").click()
    page.get_by_label("Names").fill("a purple square, a dog")
    desk.click("Label every region")
    desk.says("Labelled 2 regions")
    expect(page.locator(".tag")).to_have_count(2)
    page.get_by_text("Describe the photo").click()
    page.get_by_label("Description").select_option("full")
    desk.click("Describe")
    expect(page.locator(".sentence")).to_have_text("A full one.")
    page.locator(".sentence").hover()
    expect(page.locator("#regions .lit").first).to_be_attached()
    page.set_viewport_size({"width": 600, "height": 400})  # as at 200 % zoom
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    check_access(page)


def test_regions_come_from_files_and_captions_go_to_files(start: Start) -> None:
    desk = start().open(photo())
    for name in ("coco", "sam", "labelme", "ours"):
        desk.give("import", (CASES / f"{name}.json").read_bytes(), f"{name}.json")
        desk.says("regions read")
    desk.says("Entry 3", "fault")
    desk.asked(lambda: desk.click("Caption the whole photo"))
    for kind in ("json", "coco"):
        regions = read_regions(desk.export(kind), WIDE, "photo.jpg")
        assert len(regions) == 7 and np.allclose(regions[0].region.bounds, MARK)
    rows = table(desk.export("csv"))
    assert [float(rows[0][edge]) for edge in ("x1", "y1", "x2", "y2")] == list(MARK)
    with Image.open(desk.export("png")) as picture:
        assert picture.width == WIDE[0]
        assert np.allclose(picture.convert("RGB").getpixel((120, 130)), (255, 0, 255), atol=5)  # type: ignore[arg-type]
    alt = read(desk.export("txt"))
    assert len(alt) <= 125 and alt.endswith(".")


def test_a_forgotten_photo_is_sent_again_and_a_full_queue_waited_for(start: Start) -> None:
    desk, answers = start().open(photo()), [(429, "busy"), (404, "unknown_image")]

    def fail(route: Any) -> None:
        if answers:
            status, kind = answers.pop(0)
            route.fulfill(status=status, json={"error": {"type": kind, "message": "gone"}})
        else:
            route.continue_()

    desk.page.route("**/captions", fail)
    with desk.page.expect_request("**/v1/images"):
        desk.click("Caption the whole photo")
    expect(desk.page.locator("#items .caption")).not_to_have_text("...")
    expect(desk.page.locator("#items")).not_to_contain_text("gone")


def test_photos_are_dropped_pasted_taken_or_samples(start: Start) -> None:
    desk = start()
    desk.give("file", photo()[:200])  # what is none is told
    expect(desk.page.get_by_role("alert")).to_be_visible()
    desk.page.evaluate(GIVE, ["paste", {"a.jpg": list(photo())}])
    desk.says("a.jpg: 480 x 320")
    desk.click("Camera")
    desk.click("Take the photo")
    desk.says("camera.jpg: 640 x 480")
    desk.click("Sample: a cat")
    desk.says("cat.jpg: 451 x 300")
    desk.page.evaluate(GIVE, ["drop", {name: list(photo()) for name in ("10.jpg", "9.jpg")}])
    desk.says("1 of 2: 9.jpg", "review-place")


def test_a_folder_of_the_server_is_reviewed_by_keyboard(start: Start) -> None:
    desk = start()
    desk.click("Review the server's folder")
    rows = [("9.jpg", "A purple square."), ("10.jpg", 'A "second" <b>one</b>.')]
    text = desk.page.get_by_label("Alt text", exact=True)
    desk.says("Proposed", "review-note")
    for place, (name, words) in enumerate(rows, 1):
        desk.says(f"{place} of 2: {name}", "review-place")
        text.fill(words)
        text.press("Control+Enter")
    desk.says("2 of 2 accepted", "review-status")
    sheet = table(desk.download(lambda: desk.click("CSV")))
    assert [(row["photo"], row["alt"]) for row in sheet] == rows
    side = json.loads(read(desk.download(lambda: desk.click("JSON"))))
    assert [(one["photo"], one["alt"]) for one in side["photos"]] == rows
    snippet = read(desk.download(lambda: desk.click("HTML snippet")))
    assert snippet.startswith('<img src="9.jpg" alt="A purple square.">')
    desk.page.set_content(snippet)
    assert desk.page.locator("img").last.get_attribute("alt") == rows[1][1]


def test_a_phone_draws_by_touch(start: Start) -> None:
    phone = {"viewport": {"width": 390, "height": 780}, "device_scale_factor": 3}
    desk = start(**phone, has_touch=True, is_mobile=True).open(photo(TALL, turned=True))
    assert desk.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    desk.page.get_by_label("Box", exact=True).tap(force=True)
    desk.page.locator("#stage").scroll_into_view_if_needed()
    x1, y1, x2, y2 = desk.mark()
    finger = desk.page.context.new_cdp_session(desk.page)

    def draw() -> None:
        for kind, places in (
            ("Start", [(x1, y1)]), ("Move", [(x2, y1)]), ("Move", [(x2, y2)]), ("End", [])
        ):  # fmt: skip
            event = {"type": f"touch{kind}", "touchPoints": [{"x": x, "y": y} for x, y in places]}
            finger.send("Input.dispatchTouchEvent", event)

    assert np.allclose(desk.asked(draw)["box"], MARK, atol=2)
