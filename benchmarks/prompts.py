"""What a small language model makes of the shipped prompt: with 0, 1 and 3 worked examples, as chat and raw.

    python benchmarks/prompts.py              40 texts of the sample, SmolLM2-135M-Instruct, greedy
    python benchmarks/prompts.py --texts 8    fewer, to try it

For each way of asking: the texts with any descriptor; the share of a text's proposed descriptors that are
near (cosine of .6 between embeddings) to one that the sample's authors wrote for that text, as a mean over
the texts with any; the same by chance, against the written descriptors of another text; and the share that
are descriptors of the worked examples. Intervals are bootstraps over texts. Writes results/prompts.json.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd

from nbkit import descriptors, models, provenance, stats, texts

HERE = Path(__file__).parent
SAMPLE = ("reviews", "questions", "encyclopedia", "fiction")
SAME = 0.6  # cosine from which two descriptors mean the same
EXAMPLES = tuple(descriptors.Prompt().examples)
LONGEST = 64  # tokens of a reply


def sample(n: int) -> tuple[texts.Texts, list[list[str]]]:
    """``n`` texts in equal parts from the four corpora, and the descriptors written for each."""
    parts = [texts.load(f"sample:{name}").sample(n // len(SAMPLE), seed=0).frame for name in SAMPLE]
    together = pd.concat(parts, ignore_index=True)
    return texts.Texts.from_list(together["text"].tolist()), [list(d) for d in together["descriptors"]]


def judged(proposed: list[list[str]], written: list[list[str]]) -> dict:
    """The numbers of one way of asking; ``proposed`` and ``written`` have an entry for each text."""
    encoder = models.sentence_encoder()
    names = sorted({name for part in (*proposed, *written) for name in part})
    vectors = encoder.encode(names, normalize_embeddings=True, show_progress_bar=False)
    row = {name: vector for name, vector in zip(names, vectors, strict=True)}

    def near(found: list[str], known: list[str]) -> float:
        cosine = np.array([row[a] for a in found]) @ np.array([row[b] for b in known]).T
        return float((cosine.max(1) >= SAME).mean())

    shown = {name for _, descriptors_ in EXAMPLES for name in descriptors_}
    others = written[len(written) // 2 :] + written[: len(written) // 2]  # of a text of another corpus
    found = [(p, w, o) for p, w, o in zip(proposed, written, others, strict=True) if p]
    return {
        "texts": len(proposed),
        "any": stats.bootstrap(np.array([bool(p) for p in proposed]))._asdict(),
        "per_text": float(np.mean([len(p) for p, *_ in found])) if found else 0.0,
        "near": stats.bootstrap(np.array([near(p, w) for p, w, _ in found]))._asdict(),
        "by_chance": stats.bootstrap(np.array([near(p, o) for p, _, o in found]))._asdict(),
        "of_examples": float(np.mean([name in shown for p, *_ in found for name in p])) if found else 0.0,
    }


def ask(corpus: texts.Texts, generator: descriptors.Generator, examples: int) -> tuple[list[list[str]], dict]:
    prompt = descriptors.Prompt(examples=EXAMPLES[:examples])
    start = time.perf_counter()
    proposals = descriptors.propose(corpus, generator, prompt=prompt)
    seconds = time.perf_counter() - start
    by_text = proposals.groupby("text_id")["descriptor"].agg(list)
    found = [by_text.get(text_id, []) for text_id in corpus.frame["text_id"]]
    return found, {"dropped": proposals.attrs["dropped"][generator.name], "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=40)
    given = parser.parse_args()
    corpus, written = sample(given.texts)
    folder, lines = models.smollm2_folder(), []
    for chat in (True, False):
        generator = descriptors.connect(f"local:{folder}", chat=chat, batch=20, max_tokens=LONGEST)
        for examples in (0, 1, len(EXAMPLES)):
            found, facts = ask(corpus, generator, examples)
            way = {"model": "smollm2", "chat": chat, "examples": examples}
            lines.append(way | judged(found, written) | facts | {"first": found[:8]})
            save(lines)
    found, facts = ask(corpus, descriptors.connect("keyphrase"), 0)
    lines.append({"model": "keyphrase"} | judged(found, written) | facts | {"first": found[:8]})
    save(lines)
    show(lines)


def save(lines: list[dict]) -> None:
    """What has been measured so far: a run that is stopped leaves the ways that it has finished."""
    record = provenance.manifest(benchmark="prompts", load=os.getloadavg()[0], same=SAME, max_tokens=LONGEST)
    record |= {"examples": [[text, list(names)] for text, names in EXAMPLES], "ways": lines}
    target = HERE / "results" / "prompts.json"
    target.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def show(lines: list[dict]) -> None:
    table = pd.DataFrame(lines)
    for column in ("any", "near", "by_chance"):
        table[column] = [str(stats.Estimate(**value)) for value in table[column]]
    shown = ["model", "chat", "examples", "any", "per_text", "near", "by_chance", "of_examples"]
    print(table[shown].round(2).to_string())


if __name__ == "__main__":
    main()
