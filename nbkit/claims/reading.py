"""Claims read from a file or a folder: one table, with what was left out."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from nbkit.claims.formats import SUFFIXES, Record, records, suffix_of
from nbkit.claims.names import Mapped, split_name, unit_of
from nbkit.models import Subject

log = logging.getLogger(__name__)

MOST_WORDS = 200  # of a description; what is longer is an essay, not a claim
NAMED = 8  # reasons in a message
COLUMNS = ["claim", "unit", "description", "sign", "subject", "made_by", "source"]


def read(
    path: str | Path, subject: Subject | str | None = None, *, sites: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Explanations of units from a file, or from all files of a folder.

    path      Neuronpedia's exports (.jsonl, .jsonl.gz, a folder of batches), a folder of delphi's .txt
              files, JSON of neuron-explainer or Transluce, .csv, .tsv or .jsonl with ``unit`` (or layer and
              index) and ``description``
    subject   the model under study, or its name: claims about other models are left out, and with a
              ``Subject`` those about units that it does not have. None: all are kept
    sites     {a place as the file names it: site here}, for places that ``read`` does not know

    A frame with one line for each claim: claim (a number from 0), unit ("layer.3.ffn.512"), description,
    sign (-1 where it is about low activations), subject, made_by (a model or a method), source (FILE:LINE).
    What was left out is counted in ``.attrs["dropped"]`` {reason: n} and logged: lines that cannot be read,
    places without a site here, other models, units that do not exist, repeated claims, empty descriptions
    and those of more than 200 words. ``FileNotFoundError`` for a path that is not there, ``ValueError``
    where no claim is left.
    """
    path, dropped, lines = Path(path), Counter(), []
    for file in _files(path, dropped):
        for source, record in records(file, dropped):
            mapped, reason = _checked(record, subject, sites)
            if reason:
                dropped[reason] += 1
            else:
                lines.append((mapped.unit, _plain(record.description), record, source))
    frame = _frame(lines, dropped)
    if dropped:
        log.warning("%s: %s claims; left out: %s", path.name, f"{len(frame):,}", _counts(dropped))
    if frame.empty:
        raise ValueError(f"no claim is left of {path.name}: {_counts(dropped) or 'it is empty'}{HINT}")
    frame.attrs["dropped"] = dict(dropped)
    return frame


HINT = (
    ". A claim needs a unit (or a layer and an index) and a description; sites={'place in the file':"
    " 'layer.N.hidden.sae'} names places that are not known"
)


def _files(path: Path, dropped: Counter[str]) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"no claims at {path}: give a file or a folder of files")
    if path.is_file():
        if not suffix_of(path):
            raise ValueError(
                f"{path.name} is in no format of claims: {', '.join(SUFFIXES)} (.gz too) can be read, a .txt"
                " if its name is like layers.9_latent123.txt"
            )
        return [path]
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    if other := sum(not suffix_of(file) for file in files):
        dropped["files of another kind"] += other
    return [file for file in files if suffix_of(file)]


def _checked(
    record: Record, subject: Subject | str | None, sites: Mapping[str, str] | None
) -> tuple[Mapped, str]:
    """The unit of a record, and why it is left out, or ""."""
    words = len(record.description.split())
    if not words:
        return Mapped(None), "empty descriptions"
    if words > MOST_WORDS:
        return Mapped(None), f"descriptions of more than {MOST_WORDS} words"
    place, index = split_name(record.unit) if record.unit else (record.place, record.index)
    owner, _, place = place.rpartition("/")  # Neuronpedia's gpt2-small/6-res-jb/123
    name, model = subject.name if isinstance(subject, Subject) else subject, record.model or owner
    if name and model and _plain_model(model) != _plain_model(name):
        return Mapped(None), f"about another model ({model[:60]})"
    mapped = unit_of(model or name or "", place, index, latent=record.latent, sites=sites)
    if mapped.unit is None:
        return mapped, mapped.reason
    return mapped, "" if _exists(mapped.unit, subject) else "units that the subject does not have"


def _exists(unit: str, subject: Subject | str | None) -> bool:
    """Whether the subject has the unit. A dictionary's width is not the subject's: its site is enough."""
    if not isinstance(subject, Subject):
        return True
    site, index = unit.rsplit(".", 1)
    width = dict(zip(subject.sites["site"], subject.sites["width"], strict=True))
    if site not in width and site.endswith(".sae"):
        return site.removesuffix(".sae") in width
    return site in width and int(index) < width[site]


def _frame(lines: list[tuple], dropped: Counter[str]) -> pd.DataFrame:
    """The claims numbered; what says the same of the same unit comes once."""
    seen, kept = set(), []
    for unit, description, record, source in lines:
        key = (unit, record.sign, description.casefold(), _plain_model(record.model))
        if key in seen:
            dropped["repeated claims"] += 1
        else:
            seen.add(key)
            line = (unit, description, record.sign, record.model, record.made_by, source)
            kept.append((len(kept), *line))
    return pd.DataFrame(kept, columns=COLUMNS)


def _plain(text: str) -> str:
    """White space as single spaces; half a character, which no file can hold, as "?"."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").replace("\0", "").split())


def _plain_model(name: str) -> str:
    """A model's name without its owner, case and the "small" of GPT-2's smallest."""
    return re.sub(r"^gpt2$", "gpt2-small", name.strip().rsplit("/", 1)[-1].lower())


def _counts(dropped: Mapping[str, int]) -> str:
    """The reasons with their numbers, the most frequent first."""
    found = sorted(dropped.items(), key=lambda item: -item[1])
    rest = f", and {len(found) - NAMED} other reasons" if len(found) > NAMED else ""
    return ", ".join(f"{n:,} {reason}" for reason, n in found[:NAMED]) + rest
