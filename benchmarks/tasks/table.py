"""The table of tasks. Knows each task's reader and where its development set lies; nothing of models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tasks.dense import read_dense
from benchmarks.tasks.image import read_images
from benchmarks.tasks.objects import read_objects
from benchmarks.tasks.photos import PhotoFolder
from benchmarks.tasks.region_set import read_region_sets
from benchmarks.tasks.samples import Reading
from benchmarks.tasks.trace import read_traces
from patchioner.base.errors import UnknownNameError

DATA = "../shared/data"


@dataclass(frozen=True)
class ReadOptions:
    """What a reader may need beside file and photos.

    Attributes:
        references: for image captioning, the file with the captions if the data file has none.
        merge_references: for dense captioning, captions of one box become references of one sample.
    """

    references: Path | None = None
    merge_references: bool = False


@dataclass(frozen=True)
class Task:
    """One of the tasks: the four of the published tables, and our objects.

    Attributes:
        name: as on the command line.
        title: as in tables.
        read: reads its JSON.
        data, images: its development set, relative to the repository's root.
        clip_crops: whether the CLIP baseline looks at crops, as the published one does, or at whole photos.
    """

    name: str
    title: str
    read: Callable[[Path, PhotoFolder, ReadOptions], Reading]
    data: str
    images: str = f"{DATA}/photos"
    clip_crops: bool = False


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "trace", "trace captioning",
            lambda path, photos, options: read_traces(path, photos),
            f"{DATA}/annotations/traces_dev.json",
        ),
        Task(
            "dense", "dense captioning, boxes given",
            lambda path, photos, options: read_dense(
                path, photos, merge_references=options.merge_references
            ),
            f"{DATA}/annotations/dense_refcocos_dev.json", clip_crops=True,
        ),
        Task(
            "region_set", "region-set captioning",
            lambda path, photos, options: read_region_sets(path, photos),
            f"{DATA}/annotations/region_sets_dev.json",
        ),
        Task(
            "image", "image captioning",
            lambda path, photos, options: read_images(
                path, photos, references=options.references
            ),
            f"{DATA}/annotations/image_captions_dev.json",
        ),
        Task(
            "objects", "class boxes over 2 % of their photo: is the object named?",
            lambda path, photos, options: read_objects(path, photos),
            f"{DATA}/annotations/class_boxes_dev.json", clip_crops=True,
        ),
    )
}  # fmt: skip
"""All tasks by name."""


def task_named(name: str) -> Task:
    """The task called `name`; UnknownNameError offers the close ones.

    Example:
        >>> task_named("dense").title
        'dense captioning, boxes given'
    """
    try:
        return TASKS[name]
    except KeyError:
        raise UnknownNameError.among("task", name, TASKS) from None
