"""A sentence encoder that embeds no string twice: the same phrases come back at every step of discovery."""

from __future__ import annotations

from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

MOST = 100_000  # strings kept, 150 MB
#: Options that leave a string its vector: minilm's have length 1 in any case.
PLAIN = {"batch_size", "show_progress_bar", "normalize_embeddings"}


class Remembering(SentenceTransformer):
    """``encode`` of a list of strings remembers their vectors; whatever else it is asked is passed on."""

    _known: dict[str, np.ndarray]

    def encode(self, inputs: Any, *args: Any, **options: Any) -> Any:
        plain = isinstance(inputs, (list, tuple, np.ndarray)) and len(inputs) and not args
        if not plain or set(options) - PLAIN or not all(isinstance(string, str) for string in inputs):
            return super().encode(inputs, *args, **options)
        if "_known" not in vars(self):
            self._known = {}
        known = self._known
        absent = [string for string in dict.fromkeys(inputs) if string not in known]
        if len(known) + len(absent) > MOST:
            known.clear()
            absent = list(dict.fromkeys(inputs))
        if absent:
            known.update(zip(absent, super().encode(absent, **options), strict=True))
        return np.stack([known[string] for string in inputs])
