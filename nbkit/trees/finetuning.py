"""Fine-tuning: train a subject on a sentence label, alone or with trees in the loss.

The usual recipe: a linear layer on a pooled text, AdamW, warm-up over the first tenth of the steps, then a
linear fall of the rate to 0, gradients clipped at 1. The subject given is never changed.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import ttest_1samp
from sklearn.metrics import matthews_corrcoef
from tqdm.auto import tqdm

from nbkit.models import Subject
from nbkit.stats import mean_of_few
from nbkit.texts import Texts
from nbkit.trees.depths import pseudo_depths
from nbkit.trees.probes import Probes

#: (seen {site: [text, token, width]}, mask [text, token] of the texts' own tokens, labels [text]) -> a number
AuxiliaryLoss = Callable[[dict[str, torch.Tensor], torch.Tensor, torch.Tensor], torch.Tensor]

BATCH = 32  # of the published mean of Matthews correlations
GROUPED = 50  # batches whose texts are sorted by length together, so that little is padding


class Tuned(NamedTuple):
    """A trained subject and the linear layer on it."""

    subject: Subject  # like any other: it can be captured, probed and compared
    head: torch.nn.Linear
    classes: list[str]
    history: pd.DataFrame  # step, loss, auxiliary_loss
    pool: str

    @torch.inference_mode()
    def predict(self, texts: Texts, *, batch: int = 128) -> np.ndarray:
        """Class of each text [text], in their order."""
        strings, predicted = texts.frame["text"].tolist(), np.zeros(len(texts), dtype=int)
        order = np.argsort([-len(s) for s in strings], kind="stable")
        last = self.subject.select("hidden")[-1]
        for rows in np.array_split(order, max(1, -(-len(order) // batch))):
            encoded, own = self.subject.encode([strings[i] for i in rows])
            hidden = self.subject.run(encoded, last)[last]
            predicted[rows] = self.head(_pooled(hidden, own, self.pool)).argmax(1).cpu().numpy()
        return np.array(self.classes, dtype=object)[predicted]


def finetune_classifier(
    subject: Subject,
    texts: Texts,
    column: str,
    *,
    epochs: int = 3,
    learning_rate: float = 2e-5,
    batch: int = 32,
    warmup: float = 0.1,
    pool: str = "mean",
    half: bool = False,
    sites: Sequence[str] = (),
    auxiliary_loss: AuxiliaryLoss | None = None,
    parameters: Sequence[torch.nn.Parameter] = (),
    seed: int = 0,
    progress: bool = True,
) -> Tuned:
    """Train a copy of ``subject`` to tell the classes in ``column`` of ``texts`` apart.

    learning_rate    the highest; ``warmup`` is the share of the steps in which it rises
    pool             what the linear layer reads of the last layer: "mean" over the tokens, or "cls"
    half             forward passes in bfloat16 (about twice as fast where the processor has it)
    auxiliary_loss   added to the loss; computed from the tensors at ``sites``
    parameters       what ``auxiliary_loss`` trains besides the subject
    seed             of the linear layer, the dropout and the order of the texts

    Texts longer than the model are cut. A missing column, a single class, an unknown ``pool`` and a loss that
    is no longer finite are a ``ValueError``.
    """
    codes, classes = _classes(texts, column)
    if pool not in ("mean", "cls"):
        raise ValueError(f'pool={pool!r}: "mean" or "cls"')
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        copied = Subject(f"{subject.name}-tuned", copy.deepcopy(subject.model), subject.tokenizer)
        copied.model.train().requires_grad_(True)
        head = torch.nn.Linear(int(subject.sites["width"].iloc[-1]), len(classes)).to(subject.device)
        trained = [*copied.model.parameters(), *head.parameters(), *parameters]
        order = [rows for _ in range(epochs) for rows in _epoch(texts, batch)]
        optimizer, schedule = _optimizer(trained, learning_rate, len(order), warmup)
        strings, last = texts.frame["text"].tolist(), copied.select("hidden")[-1]
        lines = []
        for step, rows in enumerate(tqdm(order, desc="fine-tune", leave=False, disable=not progress)):
            encoded, own = copied.encode([strings[i] for i in rows])
            labels = torch.from_numpy(codes[rows]).to(subject.device)
            with (
                torch.autocast(subject.device.type, torch.bfloat16, enabled=half),
                copied.record([last, *sites]) as seen,
            ):
                copied.model(**encoded)
                read = torch.nn.functional.dropout(_pooled(seen[last], own, pool), 0.1)
                loss = torch.nn.functional.cross_entropy(head(read).float(), labels)
            more = torch.zeros(())
            if auxiliary_loss:
                more = auxiliary_loss({site: seen[site].float() for site in sites}, own, labels)
            _step(loss + more, step, trained, optimizer, schedule)
            lines.append((step, float(loss.detach()), float(more.detach())))
    history = pd.DataFrame(lines, columns=["step", "loss", "auxiliary_loss"])
    done = Subject(copied.name, copied.model, copied.tokenizer)  # frozen again, with a fingerprint of its own
    return Tuned(done, head.requires_grad_(False), classes, history, pool)


def _optimizer(trained: list, learning_rate: float, steps: int, warmup: float) -> tuple:
    """AdamW, and its rate: up over the first ``warmup`` of the steps, then down to 0."""
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.01, fused=True)
    rise = max(1.0, warmup * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rise, (steps - step) / max(1.0, steps - rise))
    )
    return optimizer, schedule


def _step(total: torch.Tensor, step: int, trained: list, optimizer: Any, schedule: Any) -> None:
    if not torch.isfinite(total):
        raise ValueError(
            f"the loss is {total.item():g} at step {step}: lower the learning_rate or the weight"
        )
    optimizer.zero_grad()
    total.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    schedule.step()


def _pooled(hidden: torch.Tensor, own: torch.Tensor, pool: str) -> torch.Tensor:
    """[text, width] of [text, token, width]."""
    if pool == "cls":
        return hidden[:, 0]
    weight = own.to(hidden.dtype)[..., None]
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)


def _classes(texts: Texts, column: str) -> tuple[np.ndarray, list[str]]:
    if column not in texts.frame:
        raise ValueError(f"{texts.name} has no column {column!r}: {', '.join(texts.frame)}")
    codes, names = pd.factorize(texts.frame[column].astype(str), sort=True)
    if len(names) < 2:
        raise ValueError(f"{column!r} of {texts.name} has a single class, {names[0]!r}: nothing to learn")
    return codes.astype(np.int64), list(names)


def _epoch(texts: Texts, batch: int) -> list[np.ndarray]:
    """All rows in random order, in batches of texts of like length."""
    order = torch.randperm(len(texts)).numpy()
    lengths = texts.frame["text"].str.len().to_numpy()
    chunks = np.array_split(order, max(1, -(-len(order) // (batch * GROUPED))))
    found = []
    for chunk in chunks:
        chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
        found += [chunk[i : i + batch] for i in range(0, len(chunk), batch)]
    return [found[i] for i in torch.randperm(len(found)).tolist()]


# ---------------------------------------------------------------------------------- trees in the loss


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
    **options: Any,
) -> pd.DataFrame:
    """Fine-tune on a sentence label with trees in the loss at one site, and without: one line per run.

    The loss is cross-entropy + weight * mean (y s - y c(s))^2 over the texts' own tokens: y is 1 for texts of
    class ``positive`` and 0 for others, s = |B' h|^2 at the site, c(s) the nearest depth profile
    (``pseudo_depths``). For each seed there is a baseline without this auxiliary loss, with the same head,
    order and dropout.

    sites, weights, seeds    one run for each combination, and one baseline per seed; seed after seed
    probes         of ``fit("ssp")``, to start from; None: fresh ones of ``rank`` columns, U(-.05, .05)
    frozen         the probe stays as it is
    warmup         the weight rises from 0 over this share of the steps
    as_published   special tokens and padding are scored too
    done           runs of an earlier call with the same options, which are not run again
    keep           called with the frame after every run, to save it: a stopped sweep goes on from there
    options        of ``finetune_classifier``

    Columns: site ("" for the baseline), weight, seed, matthews (of the whole of ``dev``), batch_matthews (its
    mean over batches of 32, as published), collapsed (a single class is predicted), accuracy,
    auxiliary_loss (mean of the last 20 steps).
    """
    lines: list[dict] = [] if done is None else done.to_dict("records")
    runs = [("", 0.0), *itertools.product(sites, weights)]
    ran = {(line["site"], line["weight"], line["seed"]) for line in lines}
    todo = [(*run, seed) for seed in seeds for run in runs if (*run, seed) not in ran]
    for site in sites:
        subject.select(site)
    for site, weight, seed in tqdm(todo, desc="trees", leave=False, disable=not progress):
        if site:
            matrix = torch.nn.Parameter(_start(subject, site, probes, rank, seed), requires_grad=not frozen)
            tuned = _tuned_with_trees(
                subject, train, column, site, weight, matrix, positive, warmup, as_published, seed, options
            )
        else:
            tuned = finetune_classifier(subject, train, column, seed=seed, progress=False, **options)
        lines.append({"site": site, "weight": weight, "seed": seed, **_judged(tuned, dev, column)})
        if keep:
            keep(pd.DataFrame(lines))
    return pd.DataFrame(lines)


def _judged(tuned: Tuned, dev: Texts, column: str) -> dict[str, Any]:
    """The figures of one run."""
    y_true, y_pred = dev.frame[column].astype(str).to_numpy(), tuned.predict(dev).astype(str)
    batches = [slice(i, i + BATCH) for i in range(0, len(dev), BATCH)]
    return {
        "matthews": float(matthews_corrcoef(y_true, y_pred)),
        "batch_matthews": float(np.mean([matthews_corrcoef(y_true[b], y_pred[b]) for b in batches])),
        "collapsed": len(set(y_pred)) == 1,
        "accuracy": float((y_true == y_pred).mean()),
        "auxiliary_loss": float(tuned.history["auxiliary_loss"].tail(20).mean()),
    }


def _start(subject: Subject, site: str, probes: Probes | None, rank: int | None, seed: int) -> torch.Tensor:
    """[width, rank]"""
    if probes is not None:
        if site not in probes.sites:
            raise ValueError(f"the probes are of {', '.join(probes.sites)}, not of {site}")
        at, scale = probes.sites.index(site), probes.options.get("scale")
        return probes.weight[at].clone().to(subject.device) * (1.0 if scale is None else float(scale[at]))
    width = int(subject.sites.set_index("site")["width"][site])
    generator = torch.Generator().manual_seed(seed)
    shape = (width, rank or width // 2)
    return torch.empty(shape).uniform_(-0.05, 0.05, generator=generator).to(subject.device)


def _tuned_with_trees(
    subject: Subject,
    train: Texts,
    column: str,
    site: str,
    weight: float,
    matrix: torch.nn.Parameter,
    positive: str,
    warmup: float,
    as_published: bool,
    seed: int,
    options: dict[str, Any],
) -> Tuned:
    classes = sorted(train.frame[column].astype(str).unique())
    if positive not in classes:
        raise ValueError(f"positive={positive!r} is no class of {column!r}: {', '.join(classes)}")
    batch, epochs = options.get("batch", 32), options.get("epochs", 3)
    steps, step = max(1.0, warmup * epochs * len(train) / batch), 0

    def loss_of_trees(seen: dict[str, torch.Tensor], own: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        nonlocal step
        step += 1
        s = (seen[site] @ matrix).square().sum(-1)
        mask = torch.ones_like(own) if as_published else own
        y = (labels == classes.index(positive)).float()[:, None]
        loss = (y * (s - pseudo_depths(s, mask=mask)) * mask).square().sum() / mask.sum().clamp(min=1)
        return weight * min(1.0, step / steps) * loss

    options = {"sites": [site], "parameters": [matrix] if matrix.requires_grad else [], **options}
    return finetune_classifier(
        subject, train, column, auxiliary_loss=loss_of_trees, seed=seed, progress=False, **options
    )


def differences(found: pd.DataFrame) -> pd.DataFrame:
    """Each site and weight of ``finetune`` against the baseline of the same seed.

    Columns: site, weight, seeds, matthews (mean), gain, low, high (mean paired difference, 95 % by Student's
    t; NaN with one seed), p (paired t test, times the number of settings tried: Bonferroni), collapsed
    (share). The interval is of one setting: the p counts all that were tried. Runs without a baseline are a
    ``ValueError``.
    """
    base = found[found["site"] == ""].set_index("seed")["matthews"]
    if base.empty:
        raise ValueError("no baseline (site '') among the runs")
    lines, settings = [], found[found["site"] != ""].groupby(["site", "weight"]).ngroups
    for (site, weight), runs in found.groupby(["site", "weight"], sort=False):
        paired = runs["matthews"].to_numpy() - base.loc[runs["seed"]].to_numpy()
        gain = mean_of_few(paired)
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
    found: Any = ttest_1samp(differences, 0)
    return float(found.pvalue)


def choose_site(found: pd.DataFrame) -> str:
    """The site to train trees at: the name of the one with the largest ssp loss / sp loss.

    found   frame of ``measure(subject, treebank, ["sp", "ssp"])``; only rows with null "none" count

    A large ssp says that no depth profile is there yet, a small sp that syntax is. Without the two metrics:
    ``ValueError``.
    """
    table = found[found["null"] == "none"].pivot_table(
        index="site", columns="metric", values="loss", sort=False
    )
    missing = {"sp", "ssp"} - set(table)
    if missing:
        raise ValueError(f"measure {sorted(missing)[0]!r} too: the site is chosen by sp and ssp")
    return str((table["ssp"] / table["sp"]).idxmax())
