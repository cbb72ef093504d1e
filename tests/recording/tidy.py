"""Takes a recording (asciinema's format 2) on stdin: frames closer than a quarter of a second become one, and folders of
the machine become those of a project in the home folder. Writes the moment for a still, in ms, next to the recording."""
import json, sys
from pathlib import Path

work, target = sys.argv[1:]
CLOSE = 0.25

header, *lines = sys.stdin.read().splitlines()
print(json.dumps({"version": 2, **{key: json.loads(header)[key] for key in ("width", "height")}}))
frames = []
for moment, kind, text in map(json.loads, lines):
    if kind != "o":
        continue
    if frames and moment - frames[-1][0] < CLOSE:
        frames[-1][1] += text
    else:
        frames.append([moment, text])
restarted = None
for moment, text in frames:
    text = text.replace(target, "~/digits/target").replace(work, "~")
    if "Restarting" in text:
        restarted = moment
    print(json.dumps([round(moment, 3), "o", text]))
assert restarted, "nothing was restarted"
Path(work, "still").write_text(str(int(1000 * (restarted + 2.0))))
