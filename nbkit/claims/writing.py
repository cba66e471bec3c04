"""Does a unit fire on new texts that are written for its description?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from nbkit import activations, descriptors, stats
from nbkit.claims.figures import auroc_interval, auroc_of, null_of
from nbkit.models import Subject
from nbkit.texts import Texts

FEWEST = 2  # texts for a description, and for others, that AUROC needs


def sensitivity(
    subject: Subject,
    claims: pd.DataFrame,
    generator: Any,
    *,
    n: int = 8,
    pool: str = "max",
    alpha: float = 0.05,
    min_score: float = 0.7,
    many: float = 0.05,
    permutations: int = 1000,
    seed: int = 0,
    ledger: str | Path | None = None,
    prices: Mapping[str, tuple[float, float]] | None = None,
    max_money: float | None = None,
    dry_run: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Whether each unit fires on texts a generator writes for its description, beside texts for the others.

    claims      unit, description and maybe sign, as ``read`` makes them; two different descriptions at least
    generator   of the texts; with ``n`` (of each description), ``ledger``, ``prices``, ``max_money`` and
                ``dry_run`` (the cost alone) as for ``descriptors.write``
    pool        of the activations of a text, as for ``activations.capture``
    alpha, min_score, many   of ``sensitive``: q, AUROC, and share of all units of the unit's site

    One line for each claim: unit, description, sign; written (asked for), texts (new ones, which count),
    duplicates, shared, copies, empty, lost; others (texts for other descriptions); mean and mean_others (of
    the activation, negated for sign -1); auroc, P(a text for it is higher than one for another), with low and
    high (95 %); p (of the texts permuted over descriptions) and q over the claims; as_good (share of
    the other units of the site whose AUROC is as high); sensitive. NaN with fewer than two texts. ``.attrs``
    has the written ``texts``, and dropped, causes, provenance.

    Texts for one description are alike in more than it says, so that p is small for units of anything they
    share; ``as_good`` is not deceived: other units see the same texts. Claims with descriptions of the same
    sense are each other's comparison, and both look less sensitive. Texts show what the generator takes the
    description to mean. ``ValueError``: one description only, no claim, an unknown unit; before any request.
    """
    frame = _checked(subject, claims)
    options = {"ledger": ledger, "prices": prices, "max_money": max_money, "dry_run": dry_run}
    written = descriptors.write(frame["description"].unique().tolist(), generator, n=n, **options)
    if dry_run:
        return written
    found = frame.assign(written=n).join(_counts(written), on="description")
    found = found.join(_measured(subject, found, written, pool, permutations, seed, progress))
    found["q"] = stats.q_values(found["p"].to_numpy())
    fits = (found["auroc"] >= min_score) & (found["q"] <= alpha)
    found["sensitive"] = fits & (found["as_good"] <= many)
    found.attrs = {"texts": written, **written.attrs}
    return found


def _checked(subject: Subject, claims: pd.DataFrame) -> pd.DataFrame:
    """unit, description and sign of claims about units that the subject has."""
    if missing := {"unit", "description"} - set(claims):
        raise ValueError(f"the claims have no column {min(missing)!r}: they have {', '.join(claims)}")
    if (several := claims["description"].nunique()) < 2:
        raise ValueError(
            f"{several} description: texts for other descriptions are the comparison, give two claims"
        )
    widths = subject.sites.set_index("site")["width"]
    for unit in claims["unit"]:
        site, _, index = str(unit).rpartition(".")
        if site not in widths.index or not index.isdecimal() or int(index) >= widths[site]:
            known = f"{widths.index[0]}.0 to {widths.index[-1]}.{widths.iloc[-1] - 1}"
            raise ValueError(f"{subject.name} has no unit {unit!r}: its units are {known}")
    frame = claims.reset_index(drop=True)
    return frame[["unit", "description"]].assign(sign=frame["sign"] if "sign" in frame else 1)


def _measured(
    subject: Subject,
    claims: pd.DataFrame,
    written: pd.DataFrame,
    pool: str,
    permutations: int,
    seed: int,
    progress: bool,
) -> pd.DataFrame:
    """others to as_good of each claim, on the new texts; NaN where these are too few."""
    used = written[written["outcome"] == "new"].reset_index(drop=True)
    columns = ["mean", "mean_others", "auroc", "low", "high", "p", "as_good"]
    found = pd.DataFrame(np.nan, claims.index, columns)
    found.insert(0, "others", len(used) - claims["texts"])
    kept = claims.index[(claims["texts"] >= FEWEST) & (found["others"] >= FEWEST)]
    if len(kept):
        sites = claims.loc[kept, "unit"].str.rpartition(".")[0].unique().tolist()
        texts = Texts.from_list(used["text"].tolist(), "written")
        options = {"sites": sites, "pool": pool, "dtype": "float32", "cache": False, "progress": progress}
        stored = activations.capture(subject, texts, **options)
        of = used["description"].to_numpy()[stored.rows["text_id"]]
        found.loc[kept, columns] = _figures(stored, of, claims.loc[kept], permutations, seed)
    return found


def _counts(written: pd.DataFrame) -> pd.DataFrame:
    """[description] texts that count, and those that do not, by why."""
    named = {
        "new": "texts",
        "duplicate": "duplicates",
        "copy": "copies",
        "shared": "shared",
        "empty": "empty",
    }
    kinds = written["outcome"].map(lambda outcome: named.get(outcome, "lost"))
    columns = ["texts", "duplicates", "shared", "copies", "empty", "lost"]
    return pd.crosstab(written["description"], kinds).reindex(columns=columns, fill_value=0)


def _figures(
    stored: activations.Activations, of: np.ndarray, claims: pd.DataFrame, permutations: int, seed: int
) -> np.ndarray:
    """[claim, figure] mean to as_good; ``of`` [text] is the description each text was written for."""
    sign = np.sign(claims["sign"].to_numpy(float))
    columns = np.array([stored.column(unit) for unit in claims["unit"]])
    values = np.asarray(stored.values[:, columns], dtype=float) * sign
    on = of[:, None] == claims["description"].to_numpy()
    ranks = scipy.stats.rankdata(values, axis=0)
    auroc = auroc_of(ranks, on)
    low, high = auroc_interval(ranks, on, auroc, None)
    p = stats.p_values(auroc, null_of(ranks, on, None, permutations, seed))
    every = stats.auroc_of_ranks(on.T.astype(float), stats.ranks(np.ascontiguousarray(stored.values.T)))
    site = stored.units["unit"].str.rpartition(".")[0].to_numpy()
    as_good = []
    for i, column in enumerate(columns):
        beside = site == site[column]
        beside[column] = False
        others = every[i, beside] if sign[i] > 0 else 1 - every[i, beside]
        as_good.append((others >= auroc[i] - 1e-6).mean())
    means = [(values * side).sum(0) / side.sum(0) for side in (on, ~on)]
    return np.stack([*means, auroc, low, high, p, np.array(as_good)], axis=1)
