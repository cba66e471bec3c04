"""The closing table and the report page, from what the notebooks recorded."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from build_notebooks import ROOT

from nbkit import provenance
from nbkit.workshop import presets

CAPTIONS = {
    "01_unit_by_corpus": "The activation of one unit over all texts of each corpus. The right tails are what"
    " exemplars are drawn from.",
    "03_held_out": "Left: every unit's first tag, scored on the texts that chose it and on held-out texts of"
    " the same corpus. Right: units with a tag, by layer.",
    "04_outcomes": "What becomes of a tag on held-out texts of its corpus and in the other corpora: it is"
    " kept, another one is better there (changed), nothing answers there (silent), or the texts are too"
    " few to say. Thin bars are baselines: units with the same encoding everywhere, random directions,"
    " random weights.",
    "04_agreement": "How often a unit's first tag is still its first tag: on held-out texts of its corpus"
    " (blue), and in other corpora (orange). The distance is the illusion gap. Small marks are baselines.",
    "05_precision_recall": "Precision and recall of the first k tags, with gold from held-out texts at home"
    " (left) and away (right), for Pearson and for the rule of the paper. Recall away is over what the units"
    " still respond to away.",
    "06_salient_units": "Left: accuracy for parts of speech of a probe refitted on the first units of each"
    " ranking, on held-out sentences. Right: layers of the first hundred units, for three properties.",
    "07_trees_by_layer": "Trees by layer, beside what is found where there is nothing. Left: gold edges"
    " in the probe's spanning tree. Middle: distance of squared norms to gold depths. Right: to the nearest"
    " depth profile, which noise has too. Diamonds: BERT-large, as published.",
    "07_one_tree": "One sentence: the gold tree above its words, the probe's below.",
    "08_trees_in_the_loss": "Fine-tuning to find reversed words, with a tree term at a layer: gain over the"
    " baseline of the same seed, and p by a paired t-test over the seeds, times the settings tried.",
}
FIRST = ("04_outcomes", "05_precision_recall")
MORE = tuple(n for n in dict.fromkeys(("04_agreement", "03_held_out", *CAPTIONS)) if n not in FIRST)


def summary_table(facts: dict[str, Any]) -> str:
    """The headline numbers as aligned lines of text."""
    width = max(len(name) for name, _ in summary_lines(facts))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in summary_lines(facts))


def summary_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of every line of the closing table whose facts are there."""
    lines: list[tuple[str, str]] = []
    if "units" in facts:
        lines += [("units", f"{facts['units']:,} FFN units"), ("texts", f"{facts['texts']:,}")]
    if "descriptors" in facts and "shared" in facts:
        lines.append(("descriptors", f"{facts['descriptors']} ({facts['shared']} testable in every corpus)"))
    for name, found in facts.get("largest", {}).items():
        lines.append((f"most of {name}", ", ".join(found)))
    if "tags" in facts:
        both = f"{facts['tags']:,} over all corpora; {facts['tags_shuffled']} on shuffled labels"
        lines.append(("tags (q ≤ .05)", both))
    lines += _precision_recall(facts.get("precision_recall", []))
    for kind, found in facts.get("agreement", {}).items():
        lines.append((f"{kind}: tags above minimum", f"{found['tags']:,}"))
        for what in ("within", "across", "gap"):
            name = {"within": "agreement within", "across": "agreement across", "gap": "illusion gap"}[what]
            lines.append((f"{kind}: {name}", _estimate(found[what])))
        told = ", ".join(f"{name} {share[0]:.2f}" for name, share in facts["outcomes"][kind].items())
        lines.append((f"{kind}: tags in other corpora", told))
        lines.append((f"{kind}: gap without an illusion", _estimate(found["same_encoding_gap"])))
        baselines = ", ".join(f"{name} {_estimate(e)}" for name, e in found["baselines"].items())
        lines.append((f"{kind}: baselines (across)", baselines))
    if found := facts.get("salience"):
        few = " / ".join(f"{found[key]:.2f}" for key in ("greedy_30", "greedy_100", "all"))
        name = f"part of speech from 30 / 100 / all {found['units']:,} units"
        lines.append((name, f"{few} ({found['words']:,} words, held-out sentences)"))
        moved = " / ".join(f"{m:.2f}" for m in (found["moved_100"], found["moved_100_random"]))
        lines.append(("taken for nouns, 100 salient / random units moved", moved))
    if trees := facts.get("trees"):
        nulls = (
            f"random weights {trees['uuas_random_weights']:.2f}, neighbours {trees['uuas_neighbours']:.2f}"
        )
        lines.append((f"edges of the tree found, {trees['site']}", f"{trees['uuas']:.2f} ({nulls})"))
    if "tuning" in facts:
        gain, low, high = facts["tuning"]["best_gain"]
        lines.append(("reversed words found, best gain with trees", f"{gain:+.3f} [{low:.3f}, {high:.3f}]"))
    return lines


def _precision_recall(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The lines of precision and recall of the first two tags."""
    at_two = {row["method"]: row for row in rows if row["k"] == 2}
    asked = [(where, m) for where in ("same corpus", "other corpora") for m in ("pearson", "frequency")]
    return [
        (f"{what}@2, {where}, {method}", _estimate(at_two[f"{method}, {where}"][what]))
        for where, method in (asked if at_two else ())
        for what in ("precision", "recall")
    ]


def _estimate(values: list[float]) -> str:
    value, low, high, _ = values
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def write_report(preset: presets.Preset) -> Path:
    """build/report/index.html: one file, no scripts from elsewhere, opens from disk."""
    facts = json.loads((preset.results / "summary.json").read_text(encoding="utf-8"))
    folder = ROOT / "build" / "report"
    folder = folder if preset.name == "sample" else folder / preset.name
    folder.mkdir(parents=True, exist_ok=True)
    browser = preset.results / "browser.html"  # of notebook 04, which needs two corpora
    shown = BROWSER.format(page=html.escape(browser.read_text(encoding="utf-8"))) if browser.exists() else ""
    page = PAGE.format(
        title=html.escape(preset["title"]),
        headline=_headline(facts),
        cards=_cards(facts),
        figures=_figures(preset, FIRST),
        more=_figures(preset, MORE),
        browser=shown,
        rows=_rows(facts),
        seconds="".join(
            f"<tr><th>{html.escape(name)}</th><td>{value:.0f} s</td><td>{_megabytes(facts, name)}</td></tr>"
            for name, value in facts["seconds"].items()
        ),
        provenance=html.escape(provenance.show()),
    )
    path = folder / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def _rows(facts: dict[str, Any]) -> str:
    return "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in summary_lines(facts)
    )


def _headline(facts: dict[str, Any]) -> str:
    """What was found, in three sentences for somebody who has read nothing else."""
    about = "; ".join(f"in {name} {', '.join(found[:3])}" for name, found in facts["largest"].items())
    sentences = [f"What is found most often: {about}."]
    if "agreement" not in facts:
        return f"{sentences[0]} One corpus was given, so whether a tag holds elsewhere could not be asked."
    kind = judged_kind(facts)
    found, away = facts["agreement"][kind], facts["outcomes"][kind]
    kept, changed, silent, undecided = (
        f"{away[name][0]:.0%}" for name in ("kept", "changed", "silent", "undecided")
    )
    sentences.append(
        f"We gave the units ({kind}) the descriptor they respond to in one corpus, and asked again: of"
        f" {found['tags']:,} such tags {found['within'][0]:.0%} are still the first on other texts of that"
        f" corpus and {found['across'][0]:.0%} in another, where {kept} are kept, {changed} have become"
        f" another descriptor, {silent} fall silent, and for {undecided} the texts are too few to say."
    )
    gap, same = found["gap"], found["same_encoding_gap"]
    told = f"made-up units that mean the same everywhere show a gap of {same[0]:.2f}, these {gap[0]:.2f}"
    if gap[1] > same[2]:
        sentences.append(f"By this procedure {told}: so say with every tag which corpus it is from.")
    else:
        sentences.append(f"That is no more than chance may be: by this procedure {told}.")
    return " ".join(sentences)


def judged_kind(facts: dict[str, Any]) -> str:
    """The kind of units with most tags: of the others these texts tell less."""
    return max(facts["agreement"], key=lambda kind: facts["agreement"][kind]["tags"])


def _cards(facts: dict[str, Any]) -> str:
    cards = [
        (f"{facts['units']:,}", "units"),
        (f"{facts['descriptors']}", "descriptors"),
        (f"{facts['tags']:,}", "tags, q ≤ .05"),
    ]
    if "agreement" in facts:
        at_two = {row["method"]: row for row in facts["precision_recall"] if row["k"] == 2}
        home, away = at_two["pearson, same corpus"], at_two["pearson, other corpora"]
        kind = judged_kind(facts)
        cards += [
            (f"{home['precision'][0]:.0%} → {away['precision'][0]:.0%}", "precision@2, home → away"),
            (f"{home['recall'][0]:.0%}", "recall@2, home"),
            (f"{facts['agreement'][kind]['gap'][0]:.2f}", f"illusion gap, {kind.split(',')[0]}"),
        ]
    return "".join(f"<div><b>{value}</b><span>{html.escape(name)}</span></div>" for value, name in cards)


def _megabytes(facts: dict[str, Any], name: str) -> str:
    peak = facts.get("peak_megabytes", {}).get(name)
    return f"{peak:,.0f} MB" if peak else ""


def _figures(preset: presets.Preset, names: tuple[str, ...]) -> str:
    """Those that were drawn: a single corpus has fewer."""
    return "".join(_figure(preset, name) for name in names if (preset.figures / f"{name}.svg").exists())


def _figure(preset: presets.Preset, name: str) -> str:
    svg = (preset.figures / f"{name}.svg").read_text(encoding="utf-8")
    svg = re.sub(r"^.*?(?=<svg)", "", svg, flags=re.DOTALL)  # no XML header inside HTML
    svg = _own_ids(svg, name)
    return f"<figure><div>{svg}</div><figcaption>{html.escape(CAPTIONS[name])}</figcaption></figure>"


def _own_ids(svg: str, name: str) -> str:
    """Several inline SVGs share one page: their ids must not meet."""
    for attribute in ('id="', 'href="#', "url(#"):
        svg = svg.replace(attribute, f"{attribute}{name}-")
    return svg


BROWSER = """<h2>Browse neurons</h2>
<p>The best unit of every descriptor, and its nearest neighbour: tags in each corpus, and strongest texts with
the tokens shaded by activation. Search by descriptor, word or site.</p>
<iframe title="neuron browser" srcdoc="{page}"></iframe>"""

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>nbkit: {title}</title>
<style>
body{{font:17px/1.55 system-ui,sans-serif;color:#1b1b1b;margin:0;background:#fafafa}}
main{{max-width:62rem;margin:0 auto;padding:1.5rem 1.2rem 4rem}}
h1{{font-size:1.9rem;line-height:1.2;margin:.6rem 0}} h2{{margin:2.4rem 0 .6rem;font-size:1.3rem}}
.lead{{font-size:1.15rem;max-width:46rem}} .kicker{{color:#666;margin:0}}
.cards{{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.8rem;margin:1.4rem 0}}
.cards div{{background:#fff;border:1px solid #e2e2e2;border-radius:8px;padding:.7rem}}
.cards b{{display:block;font-size:1.2rem;white-space:nowrap}} .cards span{{color:#555;font-size:.86rem}}
figure{{background:#fff;border:1px solid #e2e2e2;border-radius:8px;margin:1rem 0;padding:1rem}}
figure svg{{display:block;margin:auto;width:100%;height:auto;max-height:27rem}}
@media (max-width:40rem){{figure div{{overflow-x:auto}} figure svg{{width:38rem}}}}
figcaption{{color:#444;font-size:.93rem;margin-top:.6rem}}
iframe{{width:100%;height:46rem;border:1px solid #e2e2e2;border-radius:8px;background:#fff}}
table{{border-collapse:collapse;background:#fff;font-size:.92rem;display:block;overflow-x:auto}}
th,td{{text-align:left;padding:.25rem .8rem;border-bottom:1px solid #eee;font-weight:400}}
td{{font-variant-numeric:tabular-nums}} footer{{color:#666;font-size:.85rem;margin-top:3rem}}
details{{margin:1rem 0}}
</style>
<main>
<p class="kicker">nbkit · {title}</p>
<h1>What do the neurons respond to, and does the answer survive another corpus?</h1>
<p class="lead">{headline}</p>
<div class="cards">{cards}</div>
{figures}
{browser}
<h2>On the way</h2>{more}
<h2>All numbers</h2><table>{rows}</table>
<details><summary>Time of each notebook, and its peak memory</summary><table>{seconds}</table></details>
<footer>{provenance}</footer>
</main></html>
"""
