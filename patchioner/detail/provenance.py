"""A detailed caption as JSON, and back: every sentence with where it comes from, and what was dropped and why.

Knows: the values of `patchioner.detail.values`. Does NOT know: files, stages, pages.

One object per photo::

    {
      "format": "patchioner-detail", "version": 1,
      "photo": "photos/bus.jpg",
      "sha256": "9f0c...",                  of the photo's pixels and size; null where it was not computed
      "size": [640, 480],                   width, height in pixels
      "text": "A red bus ...",              the paragraph; "" when nothing was supported
      "reason": null,                       why the paragraph is empty
      "sentences": [                        of the paragraph, in order
        {"text": "A red bus ...", "claims": ["c1", "c7"], "regions": ["global"], "agreement": 3, "support": 0.94}
      ],
      "regions": [                          all that were described
        {"id": "semantic-1", "kind": "semantic", "box": [10.0, 20.0, 200.0, 220.0], "mask": null,
         "parents": ["global"], "name": "bus"}
      ],
      "kept": [verdict, ...],               the claims that the sentences are made of
      "dropped": [verdict, ...],            what was left out
      "settings": {...}                     names and numbers of every stage, and the seed
    }

Boxes are left, top, right, bottom in pixels of the original photo; masks are COCO's uncompressed run lengths,
``{"size": [height, width], "counts": [...]}``, as `patchioner.regions.Mask.from_rle` reads them. A verdict::

    {"id": "c7", "text": "...", "region": "semantic-1", "sample": 2, "place": 0, "log_prob": -0.61,
     "agreement": 3,                        samples in which something like it was said
     "regions": ["semantic-1", "global"],   in whose texts
     "support": {"score": 0.94, "objects": [["bus", 0.97]], "attributes": [["red bus", 0.8]],
                 "unverifiable": ["place: on the left"]},       or null: nothing scored it
     "reason": null, "note": "",            why it was dropped: one of `values.DropReason`, and in words
     "merged": ["c9"]}                      claims that say the same
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from patchioner.base.errors import DetailError, RegionError
from patchioner.detail.values import (
    REGION_KINDS,
    Claim,
    DetailedCaption,
    DetailRegion,
    DropReason,
    FusedSentence,
    Support,
    Verdict,
)
from patchioner.regions import Mask, encode_rle

FORMAT = "patchioner-detail"
VERSION = 1


def to_json(caption: DetailedCaption, photo: str, *, sha256: str | None = None) -> dict[str, Any]:
    """The object described above, of plain JSON values.

    Args:
        caption: of one photo.
        photo: its name.
        sha256: `patchioner.detail.stages.Photo.sha256`, where it is known.

    Raises:
        DetailError: the settings hold what JSON cannot express, or a number is not finite.

    Example:
        >>> to_json(caption, "bus.jpg")["sentences"][0]["regions"]  # doctest: +SKIP
        ['global']
    """
    values = {
        "format": FORMAT,
        "version": VERSION,
        "photo": photo,
        "sha256": sha256,
        "size": list(caption.image_size),
        "text": caption.text,
        "reason": caption.reason,
        "sentences": [_sentence_to_json(sentence) for sentence in caption.sentences],
        "regions": [_region_to_json(region) for region in caption.regions],
        "kept": [_verdict_to_json(verdict) for verdict in caption.kept],
        "dropped": [_verdict_to_json(verdict) for verdict in caption.dropped],
        "settings": caption.settings,
    }
    # Through the text and back: what is handed out is what a file would hold, whatever the settings were made of.
    plain: dict[str, Any] = json.loads(dumps(values))
    return plain


def dumps(values: Mapping[str, Any]) -> str:
    """One line of JSON, the same for the same values; no NaN.

    Raises:
        DetailError: a value that JSON cannot express.
    """
    try:
        return json.dumps(values, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DetailError(
            f"the description of {values.get('photo')!r} cannot be written as JSON: {error}"
        ) from error


def from_json(values: object) -> tuple[str, DetailedCaption]:
    """(name of the photo, its detailed caption) from what `to_json` gave.

    Raises:
        DetailError: it is of another format or version, or a field is missing or malformed; the message names it.
    """
    if not isinstance(values, Mapping) or values.get("format") != FORMAT:
        raise DetailError(
            f"this is no detailed caption: its format is not {FORMAT!r}; give a line of patchioner detail --json"
        )
    if values.get("version") != VERSION:
        raise DetailError(
            f"the detailed caption has version {values.get('version')!r}, and {VERSION} is known here; describe the "
            "photo again, or update patchioner"
        )
    try:
        return str(values["photo"]), _caption(values)
    except (KeyError, TypeError, ValueError, RegionError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DetailError(
            f"the detailed caption of {values.get('photo')!r} is damaged: {what}"
        ) from error


def _sentence_to_json(sentence: FusedSentence) -> dict[str, Any]:
    return {
        "text": sentence.text,
        "claims": list(sentence.claim_ids),
        "regions": list(sentence.region_ids),
        "agreement": sentence.agreement,
        "support": sentence.support,
    }


def _region_to_json(region: DetailRegion) -> dict[str, Any]:
    return {
        "id": region.id,
        "kind": region.kind,
        "box": [float(edge) for edge in region.box],
        "mask": None if region.mask is None else encode_rle(region.mask),
        "parents": list(region.parents),
        "name": region.name,
    }


def _verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    claim, support = verdict.claim, verdict.support
    return {
        "id": claim.id,
        "text": claim.text,
        "region": claim.region_id,
        "sample": claim.sample,
        "place": claim.place,
        "log_prob": claim.log_prob,
        "agreement": verdict.agreement,
        "regions": list(verdict.regions),
        "support": None
        if support is None
        else {
            "score": support.score,
            "objects": [list(pair) for pair in support.objects],
            "attributes": [list(pair) for pair in support.attributes],
            "unverifiable": list(support.unverifiable),
        },
        "reason": verdict.reason,
        "note": verdict.note,
        "merged": list(verdict.merged),
    }


def _caption(values: Mapping[str, Any]) -> DetailedCaption:
    width, height = values["size"]
    settings = values["settings"]
    if not isinstance(settings, dict):
        raise TypeError(f"settings are {settings!r:.40}, no object")
    return DetailedCaption(
        text=_text(values["text"]),
        sentences=tuple(_sentence(one) for one in values["sentences"]),
        dropped=tuple(_verdict(one, kept=False) for one in values["dropped"]),
        kept=tuple(_verdict(one, kept=True) for one in values["kept"]),
        regions=tuple(_region(one) for one in values["regions"]),
        image_size=(int(width), int(height)),
        reason=None if values["reason"] is None else _text(values["reason"]),
        settings=settings,
    )


def _sentence(values: Mapping[str, Any]) -> FusedSentence:
    return FusedSentence(
        _text(values["text"]),
        _texts(values["claims"]),
        _texts(values["regions"]),
        int(values["agreement"]),
        _number(values["support"]),
    )


def _region(values: Mapping[str, Any]) -> DetailRegion:
    left, top, right, bottom = (float(edge) for edge in values["box"])
    if values["kind"] not in REGION_KINDS:
        raise ValueError(f"kind {values['kind']!r} is none of {', '.join(REGION_KINDS)}")
    runs, name = values["mask"], values["name"]
    return DetailRegion(
        _text(values["id"]),
        values["kind"],
        (left, top, right, bottom),
        None if runs is None else Mask.from_rle(runs).array,
        _texts(values["parents"]),
        None if name is None else _text(name),
    )


def _verdict(values: Mapping[str, Any], *, kept: bool) -> Verdict:
    reason, support = values["reason"], values["support"]
    if reason is not None and reason not in get_args(DropReason):
        raise ValueError(f"reason {reason!r} is none of {', '.join(get_args(DropReason))}")
    claim = Claim(
        _text(values["id"]),
        _text(values["text"]),
        _text(values["region"]),
        int(values["sample"]),
        int(values["place"]),
        _number(values["log_prob"]),
    )
    return Verdict(
        claim,
        kept,
        int(values["agreement"]),
        _texts(values["regions"]),
        None
        if support is None
        else Support(
            float(support["score"]),
            _scores(support["objects"]),
            _scores(support["attributes"]),
            _texts(support["unverifiable"]),
        ),
        reason,
        _text(values["note"]),
        _texts(values["merged"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} stands where a text should")
    return value


def _texts(values: Sequence[object]) -> tuple[str, ...]:
    if isinstance(values, str):
        raise TypeError(f"{values!r:.40} stands where a list of texts should")
    return tuple(_text(value) for value in values)


def _scores(pairs: Sequence[Sequence[Any]]) -> tuple[tuple[str, float], ...]:
    return tuple((_text(name), float(score)) for name, score in pairs)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
