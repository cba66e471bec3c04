"""Tuning: train a subject on a sentence label, and get a subject back.

    tuned = finetune(subject, train, "polarity", epochs=3, seed=0)
    tuned.subject                a Subject like any other: capture it again, compare it with the first
    tuned.predict(texts)         class of each text
    tuned.history                loss by step
    matthews(truth, said)        the correlation that CoLA is scored with

The usual recipe: a linear layer on a pooled text, AdamW at 2e-5, warm-up over the first tenth of the steps,
then a linear fall to 0, gradients clipped at 1. The subject given is never changed. ``term`` adds to the
loss what you compute from any site (``nbkit.trees`` adds its trees there).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import matthews_corrcoef
from tqdm.auto import tqdm

from nbkit.models import Subject
from nbkit.texts import Texts

#: term(seen {site: [text, token, width]}, mask [text, token] of own tokens, labels [text]) -> a number
AuxiliaryLoss = Callable[[dict[str, torch.Tensor], torch.Tensor, torch.Tensor], torch.Tensor]

GROUPED = 50  # batches whose texts are sorted by length together, so that little is padding


class Tuned(NamedTuple):
    """A trained subject and its head."""

    subject: Subject
    head: torch.nn.Linear
    classes: list[str]
    history: pd.DataFrame  # step, loss, term
    pool: str

    @torch.inference_mode()
    def predict(self, texts: Texts, *, batch: int = 128) -> np.ndarray:
        """Class of each text [text], in their order."""
        strings, said = texts.frame["text"].tolist(), np.zeros(len(texts), dtype=int)
        order = np.argsort([-len(s) for s in strings], kind="stable")
        last = self.subject.select("hidden")[-1]
        for rows in np.array_split(order, max(1, -(-len(order) // batch))):
            encoded, own = self.subject.encode([strings[i] for i in rows])
            hidden = self.subject.run(encoded, last)[last]
            said[rows] = self.head(pooled(hidden, own, self.pool)).argmax(1).cpu().numpy()
        return np.array(self.classes, dtype=object)[said]


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
    term: AuxiliaryLoss | None = None,
    parameters: Sequence[torch.nn.Parameter] = (),
    seed: int = 0,
    progress: bool = True,
) -> Tuned:
    """Train a copy of ``subject`` to tell the classes in ``column`` of ``texts`` apart.

    pool         what the linear layer reads of the last layer: "mean" over the tokens, or "cls"
    half         forward passes in bfloat16 (about twice as fast where the processor has it)
    sites, term  a further term of the loss, computed from the tensors at ``sites``
    parameters   what ``term`` trains besides the subject
    seed         of the head, the dropout and the order of the texts

    Texts longer than the model are cut. A missing column, a single class and an unknown ``pool`` are a
    ``ValueError``; so is a loss that is no longer finite, with the step.
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
                read = torch.nn.functional.dropout(pooled(seen[last], own, pool), 0.1)
                loss = torch.nn.functional.cross_entropy(head(read).float(), labels)
            more = term({site: seen[site].float() for site in sites}, own, labels) if term else None
            total = loss if more is None else loss + more
            if not torch.isfinite(total):
                raise ValueError(
                    f"the loss is {total.item():g} at step {step}: lower the learning_rate or the weight"
                )
            _step(total, trained, optimizer, schedule)
            lines.append((step, float(loss.detach()), float(more.detach()) if more is not None else 0.0))
    history = pd.DataFrame(lines, columns=["step", "loss", "term"])
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


def _step(total: torch.Tensor, trained: list, optimizer, schedule) -> None:
    optimizer.zero_grad()
    total.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    schedule.step()


def pooled(hidden: torch.Tensor, own: torch.Tensor, pool: str) -> torch.Tensor:
    """[text, width] of [text, token, width]."""
    if pool == "cls":
        return hidden[:, 0]
    weight = own.to(hidden.dtype)[..., None]
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)


def matthews(truth: Sequence, said: Sequence) -> float:
    """Matthews correlation over all texts; 0 where one class is all that is said (scikit-learn's)."""
    return float(matthews_corrcoef(np.asarray(truth).astype(str), np.asarray(said).astype(str)))


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
