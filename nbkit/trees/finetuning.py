"""Finetuning."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import ttest_1samp
from tqdm.auto import tqdm

from nbkit.models import Subject
from nbkit.stats import bootstrap
from nbkit.texts import Texts
from nbkit.trees.classifier import Tuned, finetune_classifier, matthews
from nbkit.trees.depths import pseudo_depths
from nbkit.trees.probes import Probes

# ---------------------------------------------------------------------------------- fine-tuning


def finetune(
    subject: Subject,
    train: Texts,
    dev: Texts,
    column: str,
    *,
    sites: Sequence[str],
    weights: Sequence[float] = (10.0,),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    positive: str = "1",
    probes: Probes | None = None,
    frozen: bool = False,
    warmup: float = 0.0,
    rank: int | None = None,
    as_published: bool = False,
    done: pd.DataFrame | None = None,
    keep: Callable[[pd.DataFrame], None] | None = None,
    progress: bool = True,
    **options,
) -> pd.DataFrame:
    """Fine-tune on a sentence label with a tree term at one site: CE + weight * MSE(y s, y c(s)).

    y is 1 for texts of class ``positive`` and 0 for others, s the squared norms of the probed tokens at the
    site and c(s) their depth profile (Li et al. 2023; their weight is 10, at one hidden layer). For each seed
    a baseline without the term is trained too, with the same head, order and dropout.

    sites, weights, seeds    one run for each combination, and one baseline a seed; seed after seed
    probes      of ``fit("ssp")``, as a start; None: fresh ones, U(-.05, .05)
    frozen      the probe stays as it is
    warmup      the term's weight rises from 0 over this share of the steps
    as_published    special tokens and padding are scored too
    done        runs of an earlier call with the same options, which are not run again
    keep        called with the frame after every run, to save it: a sweep that was stopped goes on from there
    options     of ``tuning.finetune``

    Columns: site ("" for the baseline), weight, seed, matthews (whole of ``dev``), batch_matthews (the
    published average over batches of 32), collapsed (one class is all that is said), accuracy, term (last).
    """
    lines: list[dict] = [] if done is None else done.to_dict("records")
    runs = [("", 0.0), *itertools.product(sites, weights)]
    ran = {(line["site"], line["weight"], line["seed"]) for line in lines}
    todo = [(*run, seed) for seed in seeds for run in runs if (*run, seed) not in ran]
    for site in sites:
        subject.select(site)
    truth = dev.frame[column].astype(str).to_numpy()
    for site, weight, seed in tqdm(todo, desc="trees", leave=False, disable=not progress):
        if site:
            start = _start(subject, site, probes, rank, seed)
            matrix = torch.nn.Parameter(start, requires_grad=not frozen)
            tuned = _tuned_with_trees(
                subject, train, column, site, weight, matrix, positive, warmup, as_published, seed, options
            )
        else:
            tuned = finetune_classifier(subject, train, column, seed=seed, progress=False, **options)
        said = tuned.predict(dev)
        lines.append(
            {
                "site": site,
                "weight": weight,
                "seed": seed,
                "matthews": matthews(truth, said),
                "batch_matthews": _batch_matthews(truth, said),
                "collapsed": len(set(said)) == 1,
                "accuracy": float((truth == said).mean()),
                "term": float(tuned.history["term"].tail(20).mean()),
            }
        )
        if keep:
            keep(pd.DataFrame(lines))
    return pd.DataFrame(lines)


def _start(subject: Subject, site: str, probes: Probes | None, rank: int | None, seed: int) -> torch.Tensor:
    """[width, rank]"""
    if probes is not None:
        if site not in probes.sites:
            raise ValueError(f"the probes are of {', '.join(probes.sites)}, not of {site}")
        return probes.weight[probes.sites.index(site)].clone().to(subject.device)
    width = int(subject.sites.set_index("site")["width"][site])
    generator = torch.Generator().manual_seed(seed)
    shape = (width, rank or width // 2)
    return torch.empty(shape).uniform_(-0.05, 0.05, generator=generator).to(subject.device)


def _tuned_with_trees(
    subject, train, column, site, weight, matrix, positive, warmup, as_published, seed, options
) -> Tuned:
    classes = sorted(train.frame[column].astype(str).unique())
    if positive not in classes:
        raise ValueError(f"positive={positive!r} is no class of {column!r}: {', '.join(classes)}")
    batch, epochs = options.get("batch", 32), options.get("epochs", 3)
    steps, step = max(1.0, warmup * epochs * len(train) / batch), 0

    def term(seen: dict[str, torch.Tensor], own: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        nonlocal step
        step += 1
        s = (seen[site] @ matrix).square().sum(-1)
        mask = torch.ones_like(own) if as_published else own
        y = (labels == classes.index(positive)).float()[:, None]
        loss = (y * (s - pseudo_depths(s, mask=mask)) * mask).square().sum() / mask.sum().clamp(min=1)
        return weight * min(1.0, step / steps) * loss

    parameters = [matrix] if matrix.requires_grad else []
    return finetune_classifier(
        subject,
        train,
        column,
        sites=[site],
        term=term,
        parameters=parameters,
        seed=seed,
        progress=False,
        **options,
    )


def _batch_matthews(truth: np.ndarray, said: np.ndarray, size: int = 32) -> float:
    """Mean over batches: what the paper reports. Not the Matthews correlation of the set."""
    starts = range(0, len(truth), size)
    return float(np.mean([matthews(truth[i : i + size], said[i : i + size]) for i in starts]))


def differences(found: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Each site and weight against the baseline of the same seed.

    Columns: site, weight, seeds, matthews (mean), gain, low, high (mean paired difference, 95 % bootstrap
    over seeds), p (paired t test, times the number of settings tried: Bonferroni), collapsed (share).
    The bootstrap of few seeds is too narrow: an interval without 0 and a large p is no gain.
    ``found`` is of ``finetune``; without a baseline: ``ValueError``.
    """
    base = found[found["site"] == ""].set_index("seed")["matthews"]
    if base.empty:
        raise ValueError("no baseline (site '') among the runs")
    lines, settings = [], found[found["site"] != ""].groupby(["site", "weight"]).ngroups
    for (site, weight), runs in found.groupby(["site", "weight"], sort=False):
        paired = runs["matthews"].to_numpy() - base.loc[runs["seed"]].to_numpy()
        gain = bootstrap(paired, seed=seed)
        lines.append(
            {
                "site": site or "baseline",
                "weight": weight,
                "seeds": len(runs),
                "matthews": runs["matthews"].mean(),
                "gain": gain.value,
                "low": gain.low,
                "high": gain.high,
                "p": min(1.0, settings * _paired_p(paired)),
                "collapsed": runs["collapsed"].mean(),
            }
        )
    return pd.DataFrame(lines)


def _paired_p(differences: np.ndarray) -> float:
    """Of a t test; 1 where nothing differs or there is one seed only."""
    if len(differences) < 2 or not differences.any():
        return 1.0
    return float(ttest_1samp(differences, 0).pvalue)


def choose_site(found: pd.DataFrame) -> str:
    """The site to train trees at, from ``measure`` of sp and ssp: where X_ssp is largest beside X_sp.

    A large X_ssp says that no depth profile is there yet, a small X_sp that syntax is: room for the term
    where it is wanted. The paper proposes to choose a submodule by the metrics; this rule is ours.
    """
    table = found[found["null"] == "none"].pivot_table(
        index="site", columns="metric", values="loss", sort=False
    )
    missing = {"sp", "ssp"} - set(table)
    if missing:
        raise ValueError(f"measure {sorted(missing)[0]!r} too: the site is chosen by sp and ssp")
    return str((table["ssp"] / table["sp"]).idxmax())
