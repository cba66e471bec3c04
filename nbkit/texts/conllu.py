"""CoNLL-U: sentences, the spans of their words, comments as columns."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from nbkit.texts.corpus import ANNOTATION
from nbkit.texts.readers import Dropped, Layout, Raw, open_text, undecodable

# EWT has no genre comment: its genre is the first part of the sentence id.
EWT_GENRES = ("answers", "email", "newsgroup", "reviews", "weblog")


COMMENT = re.compile(r"#\s*([\w:]+(?: \w+)?)\s*=\s*(.*)")
# "# newdoc id = A" by the format; also "#newdoc", "# newdoc_id = A", "# newdoc A" and "# Newdoc id: A"
BEGINNING = re.compile(r"#+\s*new(doc|par)(?:[\s_]+id\b)?(?:\s*[=:]\s*|\s+|$)(.*)", re.IGNORECASE)
OF_SENTENCE = re.compile(r"(?:sent_id|text)(?:\W|_|$)")  # no comment after these is about the document


class _Malformed(ValueError):
    """A sentence that cannot be used; the message is the reason under which it is counted."""


def read_conllu(path: Path, layout: Layout) -> Raw:
    """Sentences with their words aligned in `# text`; comments become columns.

    `newdoc id` and `newpar id` are carried forward as `doc_id` and `par_id`; a document without an id is
    FILE#2 if it is the second. Comments between `# newdoc` (or `# newpar`) and the first of its sentence,
    and all of `meta::`, belong to the document (or paragraph) and are carried forward, too. A sentence
    without `# text` is rebuilt from its forms and SpaceAfter=No. A missing head (`_`) is -1.
    """
    lost, rows, words = Dropped(path), [], []
    carried = _Carried(path.stem)
    with open_text(path, layout.encoding) as file:
        for number, lines_of_comments, lines in _blocks(file):
            comments = carried.read(lines_of_comments, alone=not lines)
            if not lines:
                if {"text", "sent_id"} & set(comments):
                    lost.add("malformed", number)  # a sentence without words
                continue
            try:
                text, found = _sentence(comments.get("text"), lines, lost, number)
            except _Malformed as reason:
                lost.add(str(reason), number)
                continue
            words += [(len(rows), *word) for word in found]
            rows.append({**comments, "text": text})
    columns = ["text_id", "word_id", "form", "start", "end", *ANNOTATION]
    frame = _with_genre(pd.DataFrame(rows))
    table = pd.DataFrame(words, columns=columns)
    table = table.astype({"text_id": int, "word_id": int, "start": int, "end": int, "head": int, "mwt": bool})
    return Raw(path.stem, frame, table, lost.count, lost.first)


def _blocks(file: Iterable[str]) -> Iterator[tuple[int, list[str], list[str]]]:
    """Number of the first line, comment lines, word lines; comments may stand alone, before a sentence."""
    first, comments, lines = 1, [], []
    for number, line in enumerate(itertools.chain(file, [""]), start=1):
        line = line.rstrip("\n")
        if not line.strip():
            if comments or lines:
                yield first, comments, lines
            first, comments, lines = number + 1, [], []
        elif line.startswith("#") and not lines:
            comments.append(line)
        elif lines and _begins_anew(line, lines):  # the empty line between two sentences is missing
            yield first, comments, lines
            comment = line.startswith("#")
            first, comments, lines = number, [line] * comment, [line] * (not comment)
        else:
            lines.append(line)


def _begins_anew(line: str, lines: list[str]) -> bool:
    """Whether a line below words is of another sentence: a comment, or a word 1 where there is one.

    A "#" with tabs can be a damaged word line.
    """
    if line.startswith("#"):
        return "\t" not in line and bool(COMMENT.fullmatch(line) or BEGINNING.fullmatch(line))
    return line.startswith(("1\t", "1-")) and any(before.startswith("1\t") for before in lines)


class _Carried:
    """What comments say about the document and the paragraph so far."""

    def __init__(self, file: str):
        self.file, self.documents = file, 0
        self.doc: dict[str, str] = {}
        self.par: dict[str, str] = {}

    def read(self, lines: list[str], *, alone: bool = False) -> dict[str, str]:
        """The columns of one sentence, from its comments and those before it.

        Comments that stand alone, without a sentence, are the document's.
        """
        own: dict[str, str] = {}
        meta: dict[str, str] = {}
        scope = self.doc if alone else own
        for line in lines:
            if match := BEGINNING.fullmatch(line):
                scope = self._begin(match[1].lower(), match[2].strip())
            elif match := COMMENT.fullmatch(line):
                scope = own if OF_SENTENCE.match(match[1]) else scope
                target = meta if match[1].startswith("meta::") else scope
                value = match[2] if match[1] == "text" else match[2].strip()
                target[re.sub(r"\W+", "_", match[1])] = value
        self.doc.update(meta)  # at the end: it may stand before the "# newdoc" of its document
        return {**self.doc, **self.par, **own}

    def _begin(self, what: str, name: str) -> dict[str, str]:
        if what == "par":
            self.par = {"par_id": name} if name else {}
            return self.par
        self.documents += 1
        self.doc, self.par = {"doc_id": name or f"{self.file}#{self.documents}"}, {}
        return self.doc


def _sentence(text: str | None, lines: list[str], lost: Dropped, number: int):
    """The text and its word rows (word_id, form, start, end, then ANNOTATION)."""
    fields = [line.split("\t") for line in lines]
    if any(len(f) != 10 for f in fields):
        raise _Malformed("malformed")
    if undecodable(text or "") or any(map(undecodable, lines)):
        raise _Malformed("undecodable")
    for f in fields:
        if "." in f[0]:
            lost.add("empty_node", number)
    fields = [f for f in fields if "." not in f[0]]
    tokens = _surface_tokens(fields)
    if text is None:
        text = "".join(f[1] + ("" if "SpaceAfter=No" in f[9].split("|") else " ") for f, _ in tokens).strip()
    spans = _aligned(text, tokens)
    syntactic = [f for f in fields if "-" not in f[0]]
    return text, _word_rows(syntactic, spans)


def _surface_tokens(fields: list[list[str]]) -> list[tuple[list[str], int]]:
    """What is written in the text, in order: (fields, how many words it stands for, 0 if one)."""
    tokens, inside = [], 0
    for f in fields:
        if "-" in f[0]:
            first, _, last = f[0].partition("-")
            if inside or not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
                raise _Malformed("malformed")
            inside = int(last) - int(first) + 1
            tokens.append((f, inside))
        elif inside:
            inside -= 1
        else:
            tokens.append((f, 0))
    if inside:
        raise _Malformed("malformed")
    return tokens


def _aligned(text: str, tokens: list[tuple[list[str], int]]) -> list[tuple[int, int, bool]]:
    """(start, end, mwt) of every word: each form follows the one before, white space apart."""
    spans, at = [], 0
    for f, count in tokens:
        form = f[1]
        if form.isspace():  # a token of white space is found in it, or else left without a span
            gap = len(text) - len(text[at:].lstrip())
            found = text.find(form, at, gap)
            at = at if found < 0 else found
            form = form if found >= 0 else ""
        else:
            while at < len(text) and text[at].isspace():
                at += 1
        if not text.startswith(form, at):
            raise _Malformed("misaligned")
        spans += [(at, at + len(form), count > 0)] * max(count, 1)
        at += len(form)
    if text[at:].strip():
        raise _Malformed("misaligned")
    return spans


def _word_rows(fields: list[list[str]], spans: list[tuple[int, int, bool]]) -> list[tuple]:
    rows = []
    for word_id, (f, (start, end, mwt)) in enumerate(zip(fields, spans, strict=True), start=1):
        head = int(f[6]) if f[6].isdecimal() else -1 if f[6] == "_" else None
        if f[0] != str(word_id) or head is None or head > len(fields):
            raise _Malformed("malformed")
        lemma = f[2] if f[2] != "_" or f[1] == "_" else ""
        upos, xpos, feats, deprel = ("" if f[j] == "_" else f[j] for j in (3, 4, 5, 7))
        rows.append((word_id, f[1], start, end, lemma, upos, xpos, head, deprel, feats, mwt))
    return rows


def _with_genre(frame: pd.DataFrame) -> pd.DataFrame:
    """Add EWT's genre, which is the first part of its sentence ids, unless a comment gives it."""
    if "genre" in frame or "sent_id" not in frame:
        return frame
    genre = frame["sent_id"].str.replace(r"-.*", "", regex=True)
    return frame.assign(genre=genre) if genre.isin(EWT_GENRES).all() else frame
