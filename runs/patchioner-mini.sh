#!/usr/bin/env bash
# How the weights inside the package were made, end to end, on a laptop's CPU: about three hours on two cores.
# Every step resumes where it was stopped; delete build/patchioner-mini to start afresh.
#
#   pip install -e '.[train]' && bash runs/patchioner-mini.sh
#
# Seconds are of one run from an empty folder, two steps at a time, beside other work.
#
# The data (photos, captions, the public weights it starts from) is expected where configs/patchioner-mini.yaml says.
set -euo pipefail
cd "$(dirname "$0")/.."
step() {
    SECONDS=0
    python -m runs.training "$1" --config "${CONFIG:-configs/patchioner-mini.yaml}"
    echo "$1: $SECONDS s"
}

step cache      # the frozen teacher's tokens of the training photos (666 s)
step align      # sentence vectors, token statistics, the projection from text to tokens (346 s)
step tune       # the backbone, end to end, towards the captions, anchored to the teacher (4,155 s)
step text       # the text tower, end to end, towards the photos, anchored to the alignment (1,129 s)
step corpus     # choose and embed the decoder's sentences (1,206 s)
step bank       # compress their embeddings into the memory bank (94 s)
step decoder    # train the decoder on text alone (3,078 s)
step assemble   # measure the final statistics, write patchioner/checkpoints/patchioner-mini (141 s)

# What a cosine means for these weights, from training photos alone; kept in the checkpoint's config.json.
python -m patchioner calibrate --detail --model patchioner/checkpoints/patchioner-mini --limit 200 --write \
    --pairs ../shared/data/annotations/pairs_train.json --photos ../shared/data/photos
# Nouns from photos that nothing was trained on; how sure captions are, from boxes with names.
python - <<'PYTHON'
import json
from pathlib import Path

data, out = Path("../shared/data"), Path("build/patchioner-mini")
pairs = json.loads((data / "more/pairs_more.json").read_text())
(out / "pairs.json").write_text(json.dumps([p for p in pairs if p["source"] != "flickr8k"]))
photos = json.loads((data / "annotations/class_boxes_train.json").read_text())
for photo in photos:  # people are named whatever the region; specks say nothing
    sides = ((b, b["xyxy"]) for b in photo["boxes"] if b["name"] != "person")
    photo["file_name"] = f"../../photos/{photo['file_name']}"  # from more/photos
    photo["boxes"] = [b for b, (x1, y1, x2, y2) in sides if (x2 - x1) * (y2 - y1) > 600]
(out / "boxes.json").write_text(json.dumps(photos))
PYTHON
calibrate() {
    python -m patchioner calibrate --model patchioner/checkpoints/patchioner-mini --write "$@" \
        --pairs build/patchioner-mini/pairs.json --photos ../shared/data/more/photos
}
calibrate --limit 600
python - <<'PYTHON'
import json
import os
from pathlib import Path

import yaml

settings = yaml.safe_load(Path(os.environ.get("CONFIG", "configs/patchioner-mini.yaml")).read_text())
config = Path("patchioner/checkpoints/patchioner-mini/config.json")
config.write_text(json.dumps(json.loads(config.read_text()) | settings["with_nouns"], indent=2) + "\n")
PYTHON
calibrate --limit 800 --boxes build/patchioner-mini/boxes.json
# Its last line goes under "label" beside it.
python -m runs.label_calibration --model patchioner-mini \
    --boxes ../shared/data/annotations/class_boxes_train.json --photos ../shared/data/photos

python -m benchmarks.quality --model patchioner-mini --data ../shared/data --out build/patchioner-mini/quality.json
