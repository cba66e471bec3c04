"""Record what SmolLM2 replies to the shipped prompt about every text of the sample.

    python tools/record_replies.py          goes on where it stopped; about half an hour on 2 quiet cores

Writes nbkit/data/replies/smollm2.jsonl, which `recorded:smollm2` replays without the model. When the prompt
changes, remove the file first: a recorded reply belongs to its request.
"""

from __future__ import annotations

import time
from pathlib import Path

from nbkit import descriptors, texts

REPLIES = Path(__file__).resolve().parent.parent / "nbkit" / "data" / "replies" / "smollm2.jsonl"
SAMPLE = ("reviews", "questions", "encyclopedia", "fiction")


def main() -> None:
    recorded = descriptors.connect(f"recorded:{REPLIES}", of=descriptors.connect("smollm2"))
    for name in SAMPLE:
        start, corpus = time.time(), texts.load(f"sample:{name}")
        found = descriptors.propose(corpus, recorded)
        lost = found.attrs["dropped"]
        print(f"{name}: {time.time() - start:.0f} s, {len(found)} descriptors, {lost}", flush=True)


if __name__ == "__main__":
    main()
