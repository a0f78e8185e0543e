"""A Gradio Space over `patchioner serve`: click a photo once for a place, twice for a box, or look for words."""

import subprocess
import sys
import time

import gradio
import numpy as np
from PIL import Image

from patchioner import Box, Point, WholeImage
from patchioner.base.errors import ServerError
from patchioner.client import Client
from patchioner.images import load_image

client = Client("http://127.0.0.1:8001")


def is_ready() -> bool:
    """Whether the server beside this page answers."""
    try:
        return bool(client.models())
    except ServerError:
        return False


def describe(photo: str, clicks: list, event: gradio.SelectData) -> tuple[str, list]:
    """Captions of the photo, the place of the click, and the box between the last two clicks."""
    clicks = [*clicks[-1:], event.index]
    regions = [WholeImage(), Point(*clicks[-1])]
    if len(clicks) == 2:
        (x1, x2), (y1, y2) = (sorted(axis) for axis in zip(*clicks, strict=True))
        regions += [Box(x1, y1, x2, y2)] if x1 < x2 and y1 < y2 else []
    found = client.caption(photo, regions)
    said = [one.get("text") or one.get("reason") or one["error"]["message"] for one in found]
    lines = [f"{one.describe()}: {text}" for one, text in zip(regions, said, strict=True)]
    return "\n".join(lines), clicks


def find(photo: str, words: str) -> Image.Image:
    """The photo, darker where it is less like the words."""
    near = np.array(client.find(photo, words))
    light = (near - near.min()) / max(float(np.ptp(near)), 1e-6)
    shown = load_image(photo)
    mask = Image.fromarray((255 * light).astype(np.uint8)).resize(shown.size)
    return Image.composite(shown, Image.new("RGB", shown.size), mask)


if __name__ == "__main__":
    server = subprocess.Popen([sys.executable, "-m", "patchioner", "serve", "--port", "8001"])
    while server.poll() is None and not is_ready():
        time.sleep(1)
    with gradio.Blocks(title="Patchioner") as page:
        photo, clicks = gradio.Image(type="filepath", label="click it"), gradio.State([])
        text, words = gradio.Textbox(label="captions"), gradio.Textbox(label="find words")
        photo.change(list, outputs=clicks)  # clicks are of one photo
        photo.select(describe, [photo, clicks], [text, clicks])
        words.submit(find, [photo, words], gradio.Image(label="where"))
    page.launch()
