"""See `tests.golden`."""

from __future__ import annotations

import argparse
import json
import sys

from patchioner import Patchioner
from tests.golden import FILE, captioned, frozen, photos


def main() -> int:
    """Check, or freeze, the captions of all photos."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="freeze what the model says now")
    write = parser.parse_args().write
    model = Patchioner.from_pretrained()
    found = captioned(model, photos())
    if write:
        FILE.write_text(json.dumps(found, separators=(",", ":")) + "\n")
        return 0
    differ = [
        f"{mode} {photo}"
        for mode, by_photo in frozen().items()
        for photo, ids in by_photo.items()
        if found[mode][photo] != ids
    ]
    total = sum(map(len, found.values()))
    sys.stdout.write(f"{total - len(differ)} of {total} photos as frozen\n")
    sys.stdout.writelines(f"differs: {line}\n" for line in differ)
    return int(bool(differ))


if __name__ == "__main__":
    raise SystemExit(main())
