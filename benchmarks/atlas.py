"""The site of all units: seconds and megabytes to write it, milliseconds to see a unit and to search.

    python benchmarks/atlas.py            9,216 FFN units of MiniLM, then 46,080 (about five minutes)
    python benchmarks/atlas.py --only minilm

Both on the four sample corpora (460 texts each). The 46,080 units are of a small network with random
weights and the feed-forward sizes of SmolLM2 (30 layers of 1,536): the files are as many and as large as
SmolLM2's, and so is all the work but the model's own passes. A headless Chromium without a network opens
the index from disk, afresh each time. ``first``: from its start to the frame after the first unit's tokens
are shaded; ``link``: the same for the address of a unit drawn at random. The searches: from what is typed
to the frame after the list has changed, the script loaded and decoded ("first"; "again" when it is there).
Writes results/atlas.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from transformers import BertConfig, BertModel

from nbkit import activations, claims, models, plots, provenance, texts

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tools"))
WORDS = "because not the was if".split()  # that are in the texts it reads
#: In the page: from its start until tokens are shaded, and the frame after.
SHOWN = """async () => {
  while (!document.querySelector("#view li mark")) await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return performance.now();
}"""
#: In the page: put a value into a field, wait until the list is another, and for the frame after.
SEARCH = """async ([id, value]) => {
  const field = document.getElementById(id), list = document.getElementById("list"), before = list.firstChild;
  const start = performance.now();
  field.value = value;
  field.dispatchEvent(new Event("input", {bubbles: true}));
  while (list.firstChild === before || !list.firstChild) {
    await new Promise(requestAnimationFrame);
    if (performance.now() - start > 20000) throw new Error(`nothing for ${value} in ${id}`);
  }
  await new Promise(requestAnimationFrame);
  return performance.now() - start;
}"""


def wide_network() -> models.Subject:
    """30 layers of 1,536 FFN units each, as SmolLM2, of a network that is narrow between them."""
    own = models.load("minilm")
    sizes = {"hidden_size": 48, "num_hidden_layers": 30, "num_attention_heads": 4, "intermediate_size": 1536}
    config = BertConfig(vocab_size=len(own.tokenizer), **sizes)
    return models.Subject(
        "wide", BertModel(config, add_pooling_layer=False).eval(), own.tokenizer
    ).randomized(0)


def written(subject: models.Subject, folder: Path) -> dict:
    """Writes the site; seconds, megabytes and files."""
    corpora = {name: texts.load(f"sample:{name}") for name in texts.SAMPLES[:4]}
    labels = {name: corpus.descriptors("surface") for name, corpus in corpora.items()}
    stored = {name: activations.capture(subject, corpus, sites="ffn") for name, corpus in corpora.items()}
    units, names = next(iter(stored.values())).units["unit"], list(next(iter(labels.values())))
    made = pd.DataFrame({"unit": units[:: len(units) // 200], "description": ""})
    made["description"] = [names[i % len(names)] for i in range(len(made))]
    judged = claims.judge(stored, made, corpora, labeller=labels, permutations=20, progress=False)
    with provenance.stopwatch() as clock:
        plots.atlas(folder, subject, corpora, stored, labels, judged=judged, progress=False)
    with provenance.stopwatch() as plain:
        plots.atlas(folder / "plain", None, corpora, stored, labels, progress=False)
    sizes = {path: path.stat().st_size for path in (folder / "data").rglob("*.js")}
    return {
        "units": len(units),
        "claims": len(made),
        "texts": sum(map(len, corpora.values())),
        "seconds": round(clock.seconds, 1),
        "seconds_without_subject": round(plain.seconds, 1),
        "megabytes": round((sum(sizes.values()) + (folder / "index.html").stat().st_size) / 1e6, 1),
        "index_kilobytes": round((folder / "index.html").stat().st_size / 1e3),
        "files": len(sizes),
        "largest_kilobytes": round(max(sizes.values()) / 1e3),
        "process_megabytes": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        ),  # so far, at most
        "names": units.tolist(),
        "descriptors": len(names),
    }


def browsed(folder: Path, names: list[str], descriptors: int, repeats: int) -> pd.DataFrame:
    """Milliseconds [what, visit] in Chromium, without a network."""
    import browsing

    address, lines = (folder / "index.html").as_uri(), []
    drawn = random.Random(0).sample(names, repeats)
    searches = [("descriptor", str(d)) for d in range(min(descriptors, repeats))]
    searches += [("site", "1"), ("site", ""), *(("word", word) for word in WORDS)]
    searches += [("claim", "question"), ("name", names[-1])]
    with browsing.chromium() as browser:
        for unit in (None, *drawn):
            for _ in range(repeats if unit is None else 1):
                with browser.new_context(offline=True, viewport={"width": 1280, "height": 900}) as context:
                    page = context.new_page()
                    page.goto(address if unit is None else f"{address}#{unit}")
                    lines.append(("link" if unit else "first", "first", page.evaluate(SHOWN)))
        with browser.new_context(offline=True, viewport={"width": 1280, "height": 900}) as context:
            page = context.new_page()
            page.goto(address)
            page.evaluate(SHOWN)
            for visit in ("first", "again"):
                for field, value in searches:
                    lines.append((f"search by {field}", visit, page.evaluate(SEARCH, [field, value])))
    return pd.DataFrame(lines, columns=["what", "visit", "milliseconds"])


def measured(subject: models.Subject, repeats: int) -> dict:
    with tempfile.TemporaryDirectory() as name:
        facts = written(subject, Path(name))
        spent = browsed(Path(name), facts.pop("names"), facts["descriptors"], repeats)
    table = spent.groupby(["what", "visit"])["milliseconds"].agg(["size", "median", "max"]).round(1)
    print(facts, table.to_string(), sep="\n", flush=True)
    return {**facts, "browser": table.reset_index().to_dict("records")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("minilm", "wide"))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    given = parser.parse_args()
    path, start = given.out / "atlas.json", time.perf_counter()
    known = json.loads(path.read_text(encoding="utf-8"))["results"] if given.only and path.exists() else {}
    for name, load in (("minilm", models.load), ("wide", wide_network)):
        if given.only in (None, name):
            known[name] = measured(load(), given.repeats)
    record = provenance.manifest(benchmark="atlas", load=os.getloadavg()[0], results=known)
    record["minutes"] = round((time.perf_counter() - start) / 60, 1)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
