"""Can a saved figure be made again here? Holds it against the models and texts of the presets.

python -m nbkit.workshop figures/paper/agreement_single.svg
"""

from __future__ import annotations

import argparse
import json
import xml.etree.ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbkit import provenance
from nbkit.provenance import read
from nbkit.workshop import presets


def check(path: str | Path) -> list[provenance.Finding]:
    """``provenance.check`` against the preset that the figure names, or all whose data are here."""
    return provenance.check(path, known=known_sources(read(path)))


def known_sources(made: Mapping[str, Any]) -> dict[str, str]:
    """{fingerprint: what it is here} of the presets, until everything that the figure needs is found."""
    wanted = {made.get("subject"), made.get("corpus"), *(made.get("corpora") or {}).values()} - {None}
    known: dict[str, str] = {}
    try:
        names = presets.names()
    except FileNotFoundError:
        return known
    for name in [made["preset"]] if made.get("preset") in names else names:
        if wanted <= set(known) or (preset := presets.load(name)).missing():
            continue
        subject = preset.subject()
        known[subject.fingerprint] = subject.name
        for which, corpus in {**preset.corpora(), "treebank": preset.treebank()}.items():
            known[corpus.fingerprint] = f"{which!r} of the preset {name!r}"
    return known


def main(arguments: list[str] | None = None) -> int:
    """Print how a figure was made and whether it can be made again; 0 where it can, 1 where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m nbkit.workshop", description=main.__doc__)
    parser.add_argument("figure", type=Path, help="a .svg or .png that plots.save wrote")
    path = parser.parse_args(arguments).figure
    try:
        made, found = read(path), check(path)
    except (OSError, ValueError, xml.etree.ElementTree.ParseError) as error:
        print(f"{path.name}: {error}" if path.name not in str(error) else error)
        return 1
    where = f"notebook {made['notebook']}, cell {made['cell']}" if "notebook" in made else "no notebook"
    where = f"the script {made['script']}" if "script" in made else where
    print(f"{made['figure']}: made by {where}")
    told = {"figure", "notebook", "cell", "script", "data", "subject", "corpus", "corpora", "versions"}
    for name, value in made.items():
        if name not in told:
            print(f"  {name:<20} {_short(value)}")
    for finding in found:
        print(f"  {finding.what:<20} {finding.state:<8} {finding.text}")
    broken = [f.what for f in found if f.state == "missing" or (f.state, f.what) == ("differs", "data")]
    others = [f.what for f in found if f.state == "differs" and f.what != "data"]
    if broken:
        print(f"It cannot be made again here as it is: see {', '.join(broken)}.")
        return 1
    unsaid = [f.what for f in found if f.state == "unknown"]
    limits = [f"with other versions of {', '.join(others)}"] if others else []
    limits += [f"as far as the file says: it does not name its {', '.join(unsaid)}"] if unsaid else []
    print(", ".join(["It can be made again here", *limits]) + ".")
    return 0


def _short(value: Any, width: int = 80) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= width else text[: width - 1] + "…"
