"""Datasets of the Hugging Face hub, streamed at one commit."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from nbkit.texts.readers import Raw, table_of, text_column

log = logging.getLogger(__name__)

FIRST_ROWS = 100  # which tell the column of the texts


def read_hub(
    spec: str,
    split: str,
    limit: int | None,
    revision: str | None,
    seed: int,
    text: str | None,
    shuffle: int,
) -> Raw:
    """Stream a dataset at one commit, as far as `limit` distinct texts."""
    import datasets

    name, config, commit = _locate(spec, revision)
    try:
        stream = datasets.load_dataset(name, config, split=split, revision=commit, streaming=True)
        if shuffle:
            stream = stream.shuffle(seed=seed, buffer_size=shuffle)
        rows = table_of(_first_texts(stream, limit, text, spec))
    except Exception as error:
        raise _hub_error(spec, split, error) from error
    if limit is not None and len(rows) < limit:
        log.info("%s: limit=%d, the stream holds %d rows, all taken", spec, limit, len(rows))
    label = name if config is None else f"{name}/{config}"
    return Raw(f"hf:{label}", rows, revision=commit)


def _locate(spec: str, revision: str | None) -> tuple[str, str | None, str | None]:
    """(dataset, config, commit). One rule: the whole name if there is such a dataset (or local
    folder), otherwise the last part is the config. Three parts always end in a config, because
    a dataset's name has at most two."""
    whole = spec.removeprefix("hf:")
    if Path(whole).expanduser().is_dir():
        return str(Path(whole).expanduser()), None, None
    front, _, last = whole.rpartition("/")
    candidates = [(whole, None)] if whole.count("/") < 2 else []
    candidates += [(front, last)] if front else []
    for name, config in candidates:
        try:
            return name, config, _commit(name, revision, spec)
        except FileNotFoundError:
            log.debug("no dataset %s on the hub", name)
    tried = " or ".join(
        name if config is None else f"{name} (config {config})" for name, config in candidates
    )
    raise FileNotFoundError(
        f"no dataset {tried} on the hub for {spec!r}: check the name; a private or gated one "
        f"needs `hf auth login`"
    )


def _commit(name: str, revision: str | None, spec: str) -> str | None:
    """The commit hash of a revision (None: the newest), or `revision` itself if the hub, though
    reached, does not tell. Asked first because the hub's loader retries for half a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return HfApi().dataset_info(name, revision=revision).sha
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(name) from error
    except RevisionNotFoundError as error:
        raise ValueError(
            f"{spec!r} has no revision {revision!r}: give a commit, branch or tag, or None for the newest"
        ) from error
    except Exception as error:
        if _unreachable(error):
            raise _hub_error(spec, None, error) from error
        log.warning("%s: no commit known for revision %r (%s)", spec, revision, error)
        return revision


def _unreachable(error: BaseException | None) -> bool:
    """Whether the hub could not be reached, by any of the libraries that talk to it."""
    while error is not None:
        names = {c.__name__ for c in type(error).__mro__}
        if names & {"ConnectionError", "TransportError", "Timeout", "LocalEntryNotFoundError"}:
            return True
        error = error.__cause__
    return False


def _hub_error(spec: str, split: str | None, error: Exception) -> Exception:
    if _unreachable(error):
        return ConnectionError(
            f"{spec!r} could not be reached ({error}): connect to the network, or save the dataset "
            f"to a file elsewhere and load that; 'sample:reviews' needs no network"
        )
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{spec!r} was not found: {error}")
    return ValueError(f"{spec!r}, split {split!r}, could not be read: {error}")


def _first_texts(stream: Iterable[dict], limit: int | None, text: str | None, spec: str) -> list[dict]:
    """Rows of a stream until `limit` distinct, non-empty texts were seen (cleaning drops the
    others later, and counts them)."""
    from tqdm.auto import tqdm

    rows, seen, head, rest = [], set(), [], iter(stream)
    for row in rest:  # in one row alone, the text can be missing
        head.append(row)
        if len(head) >= FIRST_ROWS and any(isinstance(value, str) for value in row.values()):
            break
    column = text_column(pd.DataFrame(head), text, spec) if head else None
    for row in tqdm(itertools.chain(head, rest), desc=spec, unit="row", leave=False):
        rows.append(row)
        value = row.get(column)
        seen.update([value.strip()] if isinstance(value, str) and value.strip() else [])
        if limit is not None and len(seen) >= limit:
            break
    return rows
