"""Geometry: where the corpora lie in the space of a site, and why a tag may hold in one of them only.

After Bolukbasi et al. 2021 (arXiv 2104.07143, read second hand). A direction's top texts come from the
region a corpus occupies, so two corpora can answer the same direction with different things.

    confusion(values_by_corpus)      -> frame [corpus, predicted]: a linear SVM's guesses, cross-validated
    outlier_share(values_by_corpus)  -> frame: how many top-k places the most distant texts fill

Both take matrices [text, unit], one for each corpus, of one site.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd


def confusion(values_by_corpus: Mapping[str, np.ndarray], *, folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """Can a linear SVM tell from the activations which corpus a text is from?

    A frame [corpus, predicted] whose rows sum to 1, every text judged by a model that did not see it
    (the paper's diagonal: .73 to 1.00). Units are standardized on the training folds, classes weighted
    by their sizes (ours). Raises ``ValueError`` for fewer than two corpora, or fewer texts than ``folds``.
    """
    from sklearn.metrics import confusion_matrix
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    names = list(values_by_corpus)
    if len(names) < 2:
        raise ValueError(f"{len(names)} corpus: a comparison needs two or more")
    for name, values in values_by_corpus.items():
        if len(values) < folds:
            raise ValueError(f"{name!r} has {len(values)} texts, fewer than {folds} folds: lower folds")
    x = np.concatenate([np.asarray(v, dtype=np.float32) for v in values_by_corpus.values()])
    y = np.repeat(np.arange(len(names)), [len(v) for v in values_by_corpus.values()])
    model = make_pipeline(StandardScaler(), LinearSVC(class_weight="balanced", dual=False, random_state=seed))
    cut = StratifiedKFold(folds, shuffle=True, random_state=seed)
    shares = confusion_matrix(y, cross_val_predict(model, x, y, cv=cut), normalize="true")
    index = pd.Index(names, name="corpus")
    return pd.DataFrame(shares, index=index, columns=pd.Index(names, name="predicted"))


def outlier_share(
    values_by_corpus: Mapping[str, np.ndarray], *, distant: float = 0.01, k: int = 10
) -> pd.DataFrame:
    """How many of the units' top-``k`` places does the most distant share of the texts fill?

    Distance is Euclidean, from the mean of the corpus (ours; the paper's 1 % of QQP fill .48). A frame
    with corpus, texts, outliers (their number, at least 1) and share, to be read beside ``distant``.
    """
    lines = []
    for name, stored in values_by_corpus.items():
        values = np.asarray(stored, dtype=np.float32)
        distance = np.linalg.norm(values - values.mean(0), axis=1)
        n = max(1, round(distant * len(values)))
        outlier = np.zeros(len(values), dtype=bool)
        outlier[np.argsort(-distance, kind="stable")[:n]] = True
        top = np.argsort(-values, axis=0, kind="stable")[:k]
        lines.append((name, len(values), n, float(outlier[top].mean())))
    return pd.DataFrame(lines, columns=["corpus", "texts", "outliers", "share"])
