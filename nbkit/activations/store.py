"""The store: a checksummed on-disk cache of activations, and ``capture``, which fills or loads it.

``<cache>/activations/<key>/`` holds ``manifest.json``, ``rows.parquet``, ``units.parquet`` and
``values.bin``. The key is a hash of everything that changes the numbers (``plan.IDENTITY``). Values lie unit
after unit (``Activations.values`` is the transposed view), because a browser reads one unit over all rows.

A store is filled beside its place, as ``<key>.part``, block after block; a block counts once its bytes are on
disk and its line is in the journal. One block is written while the next one is computed; on a GPU a block
stays on the device until it is complete, then leaves through pinned memory. The complete store gets its
name by a rename, so that a folder with a manifest is complete: it is loaded without a lock.

It is written with what every system has (seek, write, replace), and nothing is renamed or removed while it is
open here. A cache inside a folder that a cloud client synchronises (OneDrive, iCloud, Dropbox) is a risk: the
client uploads gigabytes and may have a file open when it gets its name.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import filelock
import ml_dtypes
import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from nbkit import provenance
from nbkit.activations.checks import VERIFIED_TEXTS, announce, verify
from nbkit.activations.dask import deal
from nbkit.activations.forward import block_values, progress_bar
from nbkit.activations.plan import DTYPES, IDENTITY, Work, identity_of, work_of
from nbkit.models import Subject
from nbkit.texts import Texts

log = logging.getLogger(__name__)
FRAMES = ("rows", "units")


@dataclass(frozen=True)
class Activations:
    """Activations of one subject on one corpus, rows and columns described.

    ``values`` is ``[row, unit]``; ``rows`` and ``units`` are frames of that length. ``unit`` names a
    column wherever it is used ("layer.3.ffn.512"), so that stores of several corpora can be joined.
    """

    values: np.ndarray
    rows: pd.DataFrame
    units: pd.DataFrame
    manifest: dict[str, Any]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        what = f"{len(self.rows):,} {self.manifest['rows']}s x {len(self.units):,} units"
        return f"Activations({self.manifest['corpus']}: {what}, {self.manifest['pool']})"

    def column(self, unit: str | int) -> int:
        """The column of ``unit``, given by name or by position. Unknown: ``ValueError``."""
        if isinstance(unit, (int, np.integer)):
            if not 0 <= unit < len(self.units):
                raise ValueError(f"unit {unit} is not among the {len(self.units)} units of {self!r}")
            return int(unit)
        found = np.flatnonzero((self.units["unit"] == unit).to_numpy())
        if not len(found):
            some = ", ".join(self.units["unit"].iloc[:3])
            raise ValueError(f"unknown unit {unit!r}; this store has names such as {some}")
        return int(found[0])

    def select(
        self,
        *,
        sites: str | Sequence[str] | None = None,
        units: Sequence[str | int] | None = None,
        text_ids: Sequence[int] | None = None,
    ) -> Activations:
        """The columns of some sites or units, or the rows of some texts.

        ``sites`` are site names ("layer.5.hidden"); neighbouring columns stay a view, anything else is
        copied. Nothing left is a ``ValueError``.
        """
        columns = np.arange(len(self.units))
        if sites is not None:
            wanted = [sites] if isinstance(sites, str) else list(sites)
            unknown = set(wanted) - set(self.units["site"])
            if unknown:
                here = ", ".join(self.units["site"].unique())
                raise ValueError(f"no site {sorted(unknown)[0]!r} in this store; it holds {here}")
            columns = np.flatnonzero(self.units["site"].isin(wanted))
        if units is not None:
            columns = np.array([self.column(unit) for unit in units], dtype=int)
        values = self.values
        contiguous = len(columns) and np.array_equal(columns, np.arange(columns[0], columns[-1] + 1))
        values = values[:, columns[0] : columns[-1] + 1] if contiguous else values[:, columns]
        rows = self.rows
        if text_ids is not None:
            keep = np.flatnonzero(rows["text_id"].isin(np.asarray(text_ids)))
            values, rows = values[keep], rows.iloc[keep].reset_index(drop=True)
        if not values.size:
            raise ValueError(f"nothing is left of {self!r} for units={units!r}, text_ids={text_ids!r}")
        return Activations(values, rows, self.units.iloc[columns].reset_index(drop=True), self.manifest)


def capture(
    subject: Subject,
    texts: Texts,
    *,
    sites: str | Sequence[str] = "ffn",
    rows: str = "text",
    pool: str = "max",
    dtype: str = "float16",
    long: str = "truncate",
    sinks: str = "auto",
    cache: str | Path | bool | None = None,
    engine: Any = "local",
    progress: bool = True,
) -> Activations:
    """Activations [row, unit] of ``subject`` on ``texts``, from the store or in one forward pass.

    sites     a site ("layer.3.ffn"), a group ("hidden", "ffn", "all") or a list of these
    rows      "text", "word" (the corpus needs ``.words``) or "token"
    pool      "max", "mean", "first", "last", "cls"; ignored for token rows
    dtype     of the stored values: "float16", "float32" or "bfloat16" (coarser, but never overflows)
    long      texts longer than the model: "truncate" (counted) or "windows"
    sinks     "leave out" of pooling the first token of a text, the attention sink of a causal model, or
              "keep" it; "auto" leaves it out where the model is causal and a ``hidden`` site is asked for
    cache     the cache folder; None is ``provenance.cache_root()``, False keeps all in memory
    engine    "local", "dask" (workers on this machine) or a ``distributed.Client`` whose workers see the
              cache folder
    progress  a bar; before long work also a line with its time and disk (see ``estimate``)

    Raises ``ValueError`` for an unknown site, row kind, pool, dtype or engine, for texts without a single
    token, for a store that does not match its manifest, and for activations that are not finite or overflow
    ``dtype``; ``OSError`` for a cache folder that cannot be written, is too small, or is deleted meanwhile
    (``FileNotFoundError``).

    Where the corpus names the document of each text, ``rows`` has it in the column ``document``. It comes
    from ``texts`` and is not in the store: documents do not change activations.
    """
    options = {"sites": sites, "rows": rows, "pool": pool, "dtype": dtype, "long": long}
    identity = identity_of(subject, texts, **options, sinks=sinks, engine=engine)
    if cache is False:
        return _with_documents(_in_memory(subject, texts, identity, progress), texts)
    root = provenance.cache_root() if cache is None or cache is True else Path(cache)
    folder = folder_of(root, identity)
    if not (folder / "manifest.json").exists():
        with locked(folder):
            if not (folder / "manifest.json").exists():  # nobody filled it while we waited
                filled(folder, subject, texts, identity, engine=engine, progress=progress)
    return _with_documents(load(folder, expect=identity), texts)


def _with_documents(stored: Activations, texts: Texts) -> Activations:
    documents = texts.documents
    if documents is None:
        return stored
    named = documents.loc[stored.rows["text_id"]].to_numpy()
    return replace(stored, rows=stored.rows.assign(document=named))


def _in_memory(subject: Subject, texts: Texts, identity: dict, progress: bool) -> Activations:
    work = work_of(subject, texts, identity, progress)
    if progress:
        announce(subject, work, work.blocks)
    with progress_bar(subject, texts, progress) as bar:
        parts = [as_numpy(block_values(subject, work, block, bar)) for block in work.blocks]
    manifest = {**identity, "corpus": texts.name, "model": subject.name, "gated": subject.gated}
    manifest["dropped"] = work.plan.dropped
    return Activations(np.concatenate(parts), work.plan.rows, work.units, manifest)


def load(folder: str | Path, *, expect: dict[str, Any] | None = None) -> Activations:
    """The store in ``folder``, without a forward pass.

    A manifest that was changed, or that does not match the files or ``expect``, is a ``ValueError``
    that names the field; a missing store is a ``FileNotFoundError``.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").exists():
        raise FileNotFoundError(f"no activation store in {folder}: capture() makes one")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    _check_manifest(folder, manifest, expect or {})
    shape = (manifest["n_units"], manifest["n_rows"])
    values = np.memmap(folder / "values.bin", dtype=DTYPES[manifest["dtype"]], mode="r", shape=shape).T
    frames = [pd.read_parquet(folder / f"{name}.parquet") for name in FRAMES]
    for name, frame, n in zip(FRAMES, frames, reversed(shape), strict=True):
        if len(frame) != n:
            _refuse(folder, f"n_{name}", f"says {n}, {name}.parquet has {len(frame)}")
    rows, units = frames
    return Activations(values, rows, units, manifest)


def key_of(identity: dict[str, Any]) -> str:
    """The store's name: a hash of the identity fields."""
    return provenance.fingerprint([identity[field] for field in IDENTITY])[:24]


def folder_of(root: Path, identity: dict[str, Any]) -> Path:
    """Where the store is, below a cache folder."""
    return root / "activations" / key_of(identity)


def as_numpy(values: torch.Tensor) -> np.ndarray:
    """The same numbers; numpy knows bfloat16 only through ml_dtypes."""
    values = values.cpu()
    if values.dtype == torch.bfloat16:
        return values.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return values.numpy()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time for a store; a cache that cannot be written is said so."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(f"{folder}.lock")
        lock.acquire()
    except OSError as error:
        raise OSError(
            f"the cache folder {folder.parent} cannot be written ({error.strerror or error}): give another"
            " one as cache=..., or set NBKIT_CACHE"
        ) from error
    try:
        yield
    finally:
        lock.release()


def filled(
    folder: Path,
    subject: Subject,
    texts: Texts,
    identity: dict,
    *,
    engine: Any = "local",
    progress: bool = True,
    ready: torch.Tensor | None = None,
) -> None:
    """Compute what is missing of a store beside ``folder``, then give it its name.

    ``ready``: the values [row, unit] of its only block, which are then not computed.
    """
    _clear(folder)
    part = folder.with_name(folder.name + ".part")
    part.mkdir(exist_ok=True)
    work = work_of(subject, texts, identity, progress)
    size = len(work.plan.rows) * len(work.units) * DTYPES[identity["dtype"]].itemsize
    done = _done_blocks(part, work, size)
    _reserve(part / "values.bin", size, folder)
    checks = verify(subject, texts, sites=identity["sites"], dtype=identity["dtype"], n=VERIFIED_TEXTS)
    for line in checks[~checks["ok"]].itertuples():
        log.warning("%s: check %r failed, %s %.2g", subject.name, line.check, line.tolerance, line.error)
    if progress and ready is None:
        announce(subject, work, [block for block in work.blocks if block not in done])
    with (
        open(part / "journal", "a", encoding="utf-8", newline="\n") as journal,
        progress_bar(subject, texts, progress and ready is None) as bar,
    ):
        bar.update(sum(b - a for a, b in done))
        with _or_say_deleted(journal, part), provenance.stopwatch() as clock:
            _fill_blocks(subject, work, done, part, engine, journal, bar, ready)
        facts = {"corpus": texts.name, "model": subject.name, "gated": subject.gated}
        facts["device"] = str(subject.device)
        facts |= {"verified": checks.round(6).to_dict("records"), "seconds": round(clock.seconds, 3)}
        with _or_say_deleted(journal, part):
            _describe(part, work, {**identity, **facts}, done)
    # nothing of the folder is open any more: where a file is, Windows neither removes nor renames it
    (part / "journal").unlink()
    provenance.replace(part, folder)


def _clear(folder: Path) -> None:
    """Remove what a deletion left of a store: without a manifest it is none."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise PermissionError(
            f"the store {folder} was deleted in part, and the rest cannot be: a notebook or another program"
            " has it open. Restart the kernels that used it, or give another cache folder"
        )


def _fill_blocks(
    subject: Subject,
    work: Work,
    done: dict,
    part: Path,
    engine: Any,
    journal: TextIO,
    bar: tqdm,
    ready: torch.Tensor | None,
) -> None:
    """Compute the blocks that are not in ``done``; each goes there, and into the journal, once on disk."""
    todo = [block for block in work.blocks if block not in done]
    fill = functools.partial(_fill_here, ready=ready) if engine == "local" else _fill_by_workers
    for block, crc in fill(subject, work, todo, part / "values.bin", engine, bar):
        if not _is_there(journal, part):
            raise FileNotFoundError(part)
        done[block] = crc
        journal.write(f"{block[0]} {block[1]} {crc}\n")
        journal.flush()
        os.fsync(journal.fileno())


def _describe(part: Path, work: Work, facts: dict[str, Any], done: dict) -> None:
    """Rows, units and the manifest beside the values."""
    work.plan.rows.to_parquet(part / "rows.parquet")
    work.units.to_parquet(part / "units.parquet")
    manifest = provenance.manifest(
        **facts,
        n_rows=len(work.plan.rows),
        n_units=len(work.units),
        dropped=work.plan.dropped,
        checksums=[[*block, done[block]] for block in work.blocks],
    )
    manifest["seals"] = {field: _seal(value) for field, value in manifest.items()}
    (part / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _is_there(journal: TextIO, part: Path) -> bool:
    """Whether the open journal is the one in ``part``: a deleted folder may be there again, another's."""
    try:
        return os.path.samestat(os.fstat(journal.fileno()), os.stat(part / "journal"))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _or_say_deleted(journal: TextIO, part: Path) -> Iterator[None]:
    """What is done inside counts only if the folder is still the same afterwards."""
    try:
        yield
        gone = None
    except FileNotFoundError as error:
        gone = error
    if not _is_there(journal, part):
        raise FileNotFoundError(
            f"the store {part.stem} was deleted from {part.parent} while it was being filled: nothing of it"
            " is used. Run the same line again, it starts anew"
        ) from gone
    if gone is not None:
        raise gone


def _fill_here(
    subject: Subject,
    work: Work,
    blocks: list,
    path: Path,
    engine: str,
    bar: tqdm,
    *,
    ready: torch.Tensor | None,
) -> Iterator:
    """Blocks with their checksums once on disk; one is written while the next one is computed."""
    with ThreadPoolExecutor(1) as writer:
        pending = None
        for block in blocks:
            values = _leaving(block_values(subject, work, block, bar) if ready is None else ready)
            if pending is not None:
                yield pending[0], pending[1].result()
            pending = block, writer.submit(_write_block, path, values, work, block)
        if pending is not None:
            yield pending[0], pending[1].result()


def _leaving(values: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """The block unit after unit, on its way to the CPU, and the event of its arrival there."""
    columns = values.T.contiguous()
    if not columns.is_cuda:
        return columns, None
    pinned = torch.empty(columns.shape, dtype=columns.dtype, pin_memory=True)
    pinned.copy_(columns, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return pinned, arrived


def _fill_by_workers(subject, work: Work, blocks: list, path: Path, engine: Any, bar: tqdm) -> Iterator:
    for block, crc in deal(_filled, blocks, engine, subject, work, path):
        bar.update(block[1] - block[0])
        yield block, crc


def _filled(block: tuple[int, int], subject: Subject, work: Work, path: Path) -> int:
    """On a worker: one block, on disk; its checksum."""
    return _write_block(path, _leaving(block_values(subject, work, block, None)), work, block)


def _done_blocks(part: Path, work: Work, size: int) -> dict[tuple[int, int], int]:
    """The blocks that a killed run had finished, with their checksums. A torn line does not count."""
    journal, values = part / "journal", part / "values.bin"
    if not journal.exists() or not values.exists() or values.stat().st_size != size:
        journal.unlink(missing_ok=True)
        return {}
    lines = journal.read_text(encoding="utf-8").split("\n")
    journal.write_text("\n".join([*lines[:-1], ""]), encoding="utf-8", newline="\n")
    found = [tuple(map(int, line.split())) for line in lines[:-1]]
    planned = set(work.blocks)
    return {(a, b): crc for a, b, crc in found if (a, b) in planned}


def _reserve(path: Path, size: int, folder: Path) -> None:
    """Take the whole space now, so that a full disk is known before hours of work."""
    taken = _taken(path) if path.exists() else 0
    free = shutil.disk_usage(folder.parent).free + taken
    if size > free:
        raise OSError(
            f"the store {folder} needs {size / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB:"
            " capture fewer sites or texts, or give another cache folder"
        )
    with open(path, "r+b" if path.exists() else "w+b") as out:
        out.truncate(size)


def _taken(path: Path) -> float:
    """Bytes that a file has on the disk; Windows does not say, and leaves no holes in a file: all of them."""
    found = path.stat()
    return 512 * getattr(found, "st_blocks", found.st_size / 512)


def _write_block(path: Path, leaving: tuple[torch.Tensor, Any], work: Work, block: tuple[int, int]) -> int:
    """Write ``[unit, row]`` into the unit-major file; on disk when this returns. The CRC-32."""
    columns, arrived = leaving
    if arrived is not None:
        arrived.synchronize()
    numbers = as_numpy(columns)
    n_rows, first, item = len(work.plan.rows), int(work.plan.first_row[block[0]]), numbers.itemsize
    try:
        with open(path, "r+b", buffering=0) as out:
            for unit, column in enumerate(numbers.view(np.uint8).reshape(len(numbers), -1)):
                _write_at(out, (unit * n_rows + first) * item, column.data)
            os.fsync(out.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            f"the disk of {path.parent} is full; the blocks before are kept: free some space and run the"
            " same line again, it goes on from there"
        ) from error
    return zlib.crc32(numbers.view(np.uint8).data)


def _write_at(out: io.FileIO, place: int, data: memoryview) -> None:
    """Seek and write, which every system has. Writers open the file each for itself."""
    out.seek(place)
    written = out.write(data)
    while written < len(data):
        written += out.write(data[written:])


def _seal(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _refuse(folder: Path, field: str, reason: str) -> None:
    raise ValueError(
        f"the activation store {folder} is not what its manifest says: field {field!r} {reason}."
        " Delete that folder and capture again"
    )


def _check_manifest(folder: Path, manifest: dict[str, Any], expect: dict[str, Any]) -> None:
    seals = manifest.get("seals", {})
    for field in (*IDENTITY, "n_rows", "n_units", "checksums"):
        if field not in manifest:
            _refuse(folder, field, "is missing")
    for field, value in manifest.items():
        if field != "seals" and seals.get(field) != _seal(value):
            _refuse(folder, field, "was changed after the store was made")
    for field, value in expect.items():
        if manifest[field] != value:
            _refuse(folder, field, f"is {manifest[field]!r} and should be {value!r}")
    if folder.name != key_of(manifest):
        _refuse(folder, "schema", f"and the others hash to {key_of(manifest)}, not to the folder")
    size = manifest["n_rows"] * manifest["n_units"] * DTYPES[manifest["dtype"]].itemsize
    path = folder / "values.bin"
    found = path.stat().st_size if path.exists() else 0
    if found != size:
        _refuse(folder, "n_rows", f"asks for {size} bytes of values.bin, which has {found}")
    for name in FRAMES:
        if not (folder / f"{name}.parquet").exists():
            _refuse(folder, f"n_{name}", f"says {manifest[f'n_{name}']}, and {name}.parquet is not there")
