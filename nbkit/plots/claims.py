"""Pages of claims: a card for each, and an index that sorts and filters them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from nbkit import claims
from nbkit.activations import Activations
from nbkit.models import Subject
from nbkit.plots.html import asset, escaped, page, shade_html, styled, table_html
from nbkit.texts import Texts

#: Figures of a card: its name, the column of ``Judged.corpora``, and how it is written.
FIGURES = {
    "texts that have it": lambda x: f"{x['positives']:,} of {x['texts']:,}",
    "AUROC": lambda x: f"{x['auroc']:.2f} [{x['low']:.2f}, {x['high']:.2f}]",
    "correlation": lambda x: f"{x['pearson']:z.2f} [{x['pearson_low']:z.2f}, {x['pearson_high']:z.2f}]",
    "q": lambda x: f"{x['q']:.2g}",
    "rank among descriptions": lambda x: f"{x['rank']:,} of {x['rivals'] + 1:,}",
    "rank among units": lambda x: f"{x['unit_rank']:,} of {x['units']:,}",
    "other units within its interval": lambda x: f"{x['as_good']:,}",
    "of its top texts have it": lambda x: f"{x['top_has']:.2f} (all texts {x['positives'] / x['texts']:.2f})",
    "of texts that have it, among its highest": lambda x: f"{x['has_high']:.2f}",
    "outcome": lambda x: x["outcome"],
}


def claim_card(card: claims.Card) -> ClaimCard:
    """A card to look at: in a notebook, or as a page by ``.to_html()``."""
    return ClaimCard(card)


class ClaimCard:
    """See ``claim_card``."""

    def __init__(self, card: claims.Card) -> None:
        self.card = card
        self.title = f"{card.verdict['unit']}: {card.verdict['description']}"

    def view(self) -> str:
        """The HTML of the card: verdict, figures beside the baselines, texts for and against."""
        card, verdict = self.card, self.card.verdict
        end = "low" if verdict["sign"] < 0 else "high"
        made_by = f" · by {escaped(verdict['made_by'])}" if verdict.get("made_by") else ""
        return (
            f'<div class="nbkit claim"><blockquote dir="auto">{escaped(verdict["description"])}</blockquote>'
            f'<p class="note">claimed of {escaped(verdict["unit"])}, when it is {end}{made_by}</p>'
            f'<p class="verdict" dir="auto"><b>{escaped(verdict["words"])}</b></p>'
            f"{_figures_html(card.corpora)}{_baselines_html(card.baselines)}"
            f"{''.join(_texts_html(card, name) for name in card.corpora['corpus'])}</div>"
        )

    def to_html(self, index: str | None = None) -> str:
        """A page without a network; ``index`` is the address of a page to go back to."""
        back = f'<p><a href="{escaped(index)}">all claims</a></p>' if index else ""
        return page(self.title, back + f"<style>{asset('claims.css')}</style>" + self.view())

    def _repr_html_(self) -> str:
        return f"<style>{asset('claims.css')}</style>{styled(self.view())}"

    def __repr__(self) -> str:
        return f"ClaimCard({self.title}: {self.card.verdict['verdict']})"


def claim_cards(
    folder: str | Path,
    judged: claims.Judged,
    activations: Mapping[str, Activations],
    corpora: Mapping[str, Texts],
    *,
    subject: Subject | None = None,
    k: int = 3,
    title: str = "Claims",
    progress: bool = True,
) -> Path:
    """Writes a card for each claim and an index that can be sorted and filtered; the path of the index.

    folder    made where it is missing; index.html, claim-N.html
    subject   shades the tokens of the texts (a forward pass for each claim); None: texts are plain
    k         texts of each kind and corpus

    The pages are static, need no network, and work from disk.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for claim in tqdm(judged.verdicts["claim"], desc="cards", leave=False, disable=not progress):
        found = claim_card(claims.card(judged, claim, activations, corpora, k=k, subject=subject))
        (folder / f"claim-{claim}.html").write_text(found.to_html("index.html"), encoding="utf-8")
    index = folder / "index.html"
    index.write_text(_index(judged, title), encoding="utf-8")
    return index


def _index(judged: claims.Judged, title: str) -> str:
    range_of = judged.corpora.groupby("claim")["auroc"].agg(["min", "max"])
    counts = ", ".join(f"{n:,} {verdict}" for verdict, n in judged.counts().items() if n)
    head = ["claim", "unit", "verdict", "holds in", "lowest AUROC", "highest AUROC"]
    lines = []
    for line in judged.verdicts.itertuples():
        low, high = range_of.loc[line.claim]
        cells = (
            f'<a href="claim-{line.claim}.html">{escaped(line.description)}</a>',
            *map(escaped, (line.unit, line.verdict, line.holds_in)),
            *(f"{value:.2f}" for value in (low, high)),
        )
        order = claims.VERDICTS.index(line.verdict)
        keys = (line.description, line.unit, order, line.holds_in, f"{low:.4f}", f"{high:.4f}")
        lines.append(
            "<tr>"
            + "".join(
                f'<td dir="auto" data-key="{escaped(key)}">{cell}</td>'
                for key, cell in zip(keys, cells, strict=True)
            )
            + "</tr>"
        )
    names = "".join(f'<th aria-sort="none"><button>{name}</button></th>' for name in head)
    body = (
        f"<style>{asset('claims.css')}</style><p>{escaped(counts)}. Cards beside their figures and texts.</p>"
        '<p><label>find <input id="find" type="search" autocomplete="off"></label>'
        ' <span id="found" role="status"></span></p>'
        f'<div class="nbkit"><div class="wide"><table class="claims"><thead><tr>{names}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div></div>{_baselines_html(judged.baselines)}"
    )
    return page(title, body, None, asset("claims.js"))


def _figures_html(lines: pd.DataFrame) -> str:
    """Figures [figure, corpus]."""
    corpora = [line for _, line in lines.iterrows()]
    rows = [
        (name, "".join(f"<td>{escaped(write(line))}</td>" for line in corpora))
        for name, write in FIGURES.items()
    ]
    return table_html(["", *lines["corpus"]], rows)


def _baselines_html(baselines: pd.DataFrame) -> str:
    """Shares of all claims that hold, beside those of the baselines."""
    rows = [
        (
            line.kind,
            "".join(
                f"<td>{escaped(value)}</td>"
                for value in (f"{line.pairs:,}", line.auroc, line.holds_somewhere, line.holds_everywhere)
            ),
        )
        for line in baselines.itertuples()
    ]
    head = ["of all claims", "pairs", "mean AUROC", "hold in a corpus", "hold in all"]
    return f'<div class="nbkit">{table_html(head, rows)}</div>'


def _texts_html(card: claims.Card, corpus: str) -> str:
    """The texts of a corpus that support the claim, and those that contradict it."""
    parts, own = [], card.texts[card.texts["corpus"] == corpus]
    for says, meaning in claims.EVIDENCE.items():
        found = own[own["says"] == says]
        items = "".join(
            f'<li dir="auto">{_text_html(line, card.bound[corpus])}'
            f'<span class="note"> {line.activation:z.2f}</span></li>'
            for line in found.itertuples()
        )
        kind = "for" if says == "supports" else "against"
        empty = '<p class="note">none</p>'
        parts.append(
            f'<div class="{kind}"><h5>{escaped(meaning)}</h5>{f"<ol>{items}</ol>" if items else empty}</div>'
        )
    return f'<h4 dir="auto">{escaped(corpus)}</h4><div class="evidence">{"".join(parts)}</div>'


def _text_html(line, bound: float) -> str:
    return escaped(line.text) if line.tokens is None else shade_html(line.text, line.tokens, bound)
