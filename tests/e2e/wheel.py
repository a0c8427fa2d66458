"""Run the demo of the installed wheel, and check its video; a program for a folder without a checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av

DEMO = Path(sys.executable).with_name("vace-demo")

subprocess.run([DEMO, "--save-to", "videos"], check=True, timeout=180)
(video,) = Path("videos").rglob("*.mp4")
with av.open(str(video)) as container:
    stream = container.streams.video[0]
    found = (stream.width, stream.height, stream.frames, float(stream.average_rate or 0))
assert found == (832, 480, 81, 16), found
print(video, *found)
