import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from patchioner.batch.exports import write_gallery
from patchioner.batch.rows import Row, read_rows

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ROWS = list(read_rows(Path(__file__).with_name("cases") / "gallery.jsonl"))


def test_sorted_by_a_click_and_nothing_is_run_or_loaded(tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    gallery, grey = tmp_path / "gallery.html", Image.new("RGB", (100, 80), "grey")
    photos = [(row.photo, grey) for row in ROWS if row.photo != "lost.png"]
    assert write_gallery(ROWS, photos, gallery) == 5
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        _check_page(browser.new_page(), gallery.as_uri())
        browser.close()


def _check_page(page: Any, url: str) -> None:
    asked, faults = list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: faults.append(dialog.message))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text))
    page.goto(url)
    orders = {
        "least sure first": "doub </sc sure unkn lost", "surest first": "sure </sc doub unkn lost",
        "as in the file": "</sc sure unkn doub lost",
    }  # fmt: skip
    for click, expected in orders.items():
        page.get_by_role("button", name=click).click()
        assert [name[:4] for name in page.locator("h2").all_inner_texts()] == expected.split()
    said = str(ROWS[0].text).replace("\u202e", "\ufffd")
    assert page.locator("li").first.inner_text().startswith(said)
    card = page.locator("article").nth(1)
    photo, edge = card.locator("image").bounding_box(), card.locator("rect").first.bounding_box()
    for side in ("width", "height"):
        assert photo[side] > 50 and edge[side] / photo[side] == pytest.approx(0.5, abs=0.03)
    assert page.locator("article img, article script").count() == 0
    assert faults == [] and all(url.startswith(("file:", "data:image/jpeg")) for url in asked)


def test_only_so_many_and_whole_or_absent(tmp_path: Path) -> None:
    def broken() -> Iterator[Row]:
        yield ROWS[0]
        raise OSError("no folder")

    assert write_gallery(ROWS, [], tmp_path / "few.html", limit=2) == 2
    with pytest.raises(OSError, match="no folder"):
        write_gallery(broken(), [], tmp_path / "none.html")
    assert [path.name for path in tmp_path.iterdir()] == ["few.html"]
