"""The entity vocabulary that comes with the ViECap decoder: the 80 object classes of COCO.

Knows: names. Does NOT know: embeddings, prompts.

Source: Lin et al. 2014 (Microsoft COCO, arXiv 1405.0312), the 80 classes with annotations.
"""

from __future__ import annotations

_NAMES = """
airplane, apple, backpack, banana, baseball bat, baseball glove, bear, bed, bench, bicycle, bird, boat, book,
bottle, bowl, broccoli, bus, cake, car, carrot, cat, cell phone, chair, clock, couch, cow, cup, dining table, dog,
donut, elephant, fire hydrant, fork, frisbee, giraffe, hair drier, handbag, horse, hot dog, keyboard, kite, knife,
laptop, microwave, motorcycle, mouse, orange, oven, parking meter, person, pizza, potted plant, refrigerator,
remote, sandwich, scissors, sheep, sink, skateboard, skis, snowboard, spoon, sports ball, stop sign, suitcase,
surfboard, teddy bear, tennis racket, tie, toaster, toilet, toothbrush, traffic light, train, truck, tv, umbrella,
vase, wine glass, zebra
"""

COCO_ENTITIES: tuple[str, ...] = tuple(name.strip() for name in _NAMES.split(","))
