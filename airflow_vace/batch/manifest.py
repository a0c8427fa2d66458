from __future__ import annotations

import json
import pathlib


def write_manifest(uri, rows):
    pathlib.Path(uri).write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(uri)


def read_manifest(uri):
    for line in pathlib.Path(uri).read_text().splitlines():
        yield json.loads(line)
