"""What the cosine of a label means for a model's weights: the last step of the recipe beside `detail`'s calibration.

For boxes of training photos, sets of 2 to 20 class names are drawn, half of them with the true one; a logistic function
of the best cosine is fitted to whether the best name is the true one. Printed for config.json's calibration "label".

python -m runs.label_calibration --boxes class_boxes_train.json --photos FOLDER --limit 90
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from patchioner import Box, Patchioner
from patchioner.base.progress import progress

SIZES, DRAWS, SMALLEST = (2, 3, 5, 10, 20), 6, 0.005
THRESHOLD = 0.27  # keeps 77 % of the right names and drops 59 % of the wrong ones


def region_rows(model: Patchioner, photos: Sequence[dict[str, Any]], folder: Path) -> tuple[Tensor, list[str]]:
    """Unit embeddings of the boxes that are large enough, at most two a name and photo, and their names."""
    rows, names = [], []
    for photo in progress(photos, description="photos", unit="photo"):
        features = model.encode(str(folder / photo["file_name"]))
        width, height = features.geometry.image_size
        seen: list[str] = []
        for box in photo["boxes"]:
            x1, y1, x2, y2 = box["xyxy"]
            if (x2 - x1) * (y2 - y1) > SMALLEST * width * height and seen.count(box["name"]) < 2:
                rows.append(model.embed_regions(features, [Box(x1, y1, x2, y2)]))
                seen.append(box["name"])
        names += seen
    return F.normalize(torch.cat(rows), dim=1), names


def fit(rows: Tensor, names: Sequence[str], classes: Sequence[str], texts: Tensor) -> list[float]:
    """Slope and offset, by logistic regression over drawn sets of class names."""
    draw = np.random.default_rng(0)
    best, right = [], []
    for row, name in zip(rows @ texts.T, names, strict=True):
        others = [place for place, one in enumerate(classes) if one != name]
        for _ in range(DRAWS):
            size, present = draw.choice(SIZES), draw.random() < 0.5
            picked = [int(one) for one in draw.choice(others, size - present, replace=False)]
            picked += [classes.index(name)] if present else []
            cosine, place = row[picked].max(dim=0)
            best.append(float(cosine))
            right.append(float(classes[picked[int(place)]] == name))
    inputs, truth = torch.tensor(best, dtype=torch.float64), torch.tensor(right, dtype=torch.float64)
    line = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=200)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(inputs * line[0] + line[1], truth)
        value.backward()
        return value

    optimizer.step(loss)
    return [round(value, 4) for value in line.tolist()]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="patchioner-mini")
    parser.add_argument("--boxes", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=90, help="photos, evenly over the file")
    options = parser.parse_args()
    listed = json.loads(options.boxes.read_text(encoding="utf-8"))
    model = Patchioner.from_pretrained(options.model)
    step = max(1, len(listed) // options.limit)
    rows, names = region_rows(model, listed[::step][: options.limit], options.photos)
    classes = sorted({box["name"] for photo in listed for box in photo["boxes"]})
    texts = F.normalize(model.embed_text([f"a {name}" for name in classes]), dim=1)
    slope, offset = fit(rows, names, classes, texts)
    found = {"slope": slope, "offset": offset, "threshold": THRESHOLD, "boxes": len(names)}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
