"""Readers: however a file is written, its texts are read, counted as dropped, or refused by name."""

import csv
import io
import json
import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from nbkit import texts

QUIET = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))

#: How a file is encoded, and the encoding to ask for (None: it is found out).
ENCODINGS = [
    ("utf-8", None),
    ("utf-8-sig", None),
    ("utf-16", None),
    ("utf-32", None),
    ("utf-16-le", "utf-16-le"),
    ("utf-16-be", "utf-16-be"),
    ("latin-1", "latin-1"),
    ("cp1252", "cp1252"),
    ("gb18030", "gb18030"),
]
ODD = [
    " ",
    '"',
    "'",
    ",",
    ";",
    "|",
    "é",
    "ß",
    "“",
    "漢",
    "？",
    "🙂",
    "\u2028",
    "\x85",
    "\x1c",
    "#",
    "\\",
    "0",
    "a",
    "b",
]


def alphabet(encoding: str, without: str = ""):
    codec = "utf-8" if encoding.startswith("utf") else encoding
    letters = st.characters(
        codec=codec, exclude_characters="\0\ufeff\r\n" + without, exclude_categories=["Cs"]
    )
    odd = [c for c in ODD if c not in without and _encodes(c, codec)]
    return st.one_of(st.sampled_from(odd), letters)


def _encodes(character: str, codec: str) -> bool:
    try:
        return character.encode(codec).decode(codec) == character
    except UnicodeError:
        return False


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def expected(lines: list[str]) -> tuple[list[str], dict[str, int]]:
    """What is to be kept of texts, and counted: each once, none empty."""
    stripped = [line.strip() for line in lines]
    filled = [line for line in stripped if line]
    kept = list(dict.fromkeys(filled))
    counts = {"empty": len(stripped) - len(filled), "duplicate": len(filled) - len(kept)}
    return kept, {reason: n for reason, n in counts.items() if n}


def assert_read(path, lines, **options):
    kept, dropped = expected(lines)
    if not kept:
        with pytest.raises(ValueError, match="no text left"):
            texts.load(path, **options)
        return
    corpus = texts.load(path, **options)
    assert corpus.frame["text"].tolist() == kept
    assert corpus.dropped == dropped


# -------------------------------------------------- readers x encodings x separators x line ends x header


@QUIET
@given(data=st.data(), end=st.sampled_from(["\n", "\r\n", "\r"]), suffix=st.sampled_from([".txt", ".jsonl"]))
def test_lines_and_json_are_read_in_any_encoding(tmp_path, data, end, suffix):
    encoding, asked = data.draw(st.sampled_from(ENCODINGS))
    lines = data.draw(st.lists(st.text(alphabet(encoding), max_size=12), min_size=1, max_size=6))
    written = lines if suffix == ".txt" else [json.dumps({"text": x}, ensure_ascii=False) for x in lines]
    path = write(tmp_path / f"x{suffix}", (end.join(written) + end).encode(encoding))
    assert_read(path, lines, encoding=asked)


@QUIET
@given(
    data=st.data(),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    names=st.sampled_from(["header", "names", "none"]),
)
@pytest.mark.parametrize("separator", [",", ";", "\t", "|", "tsv"])
def test_tables_are_read_however_they_are_written(tmp_path, separator, data, end, names):
    encoding, asked = data.draw(st.sampled_from(ENCODINGS))
    plain = separator == "tsv"  # no quotes there: a tab or a quote is what it is
    letters = alphabet(encoding, without="\t" if plain else "")
    text = st.text(letters if plain else st.one_of(letters, st.sampled_from("\n\t")), max_size=12)
    lines = data.draw(st.lists(text, min_size=1, max_size=6))
    rows = [["text", "label"]] * (names == "header") + [[x, str(7 + i)] for i, x in enumerate(lines)]
    if plain:
        content = "".join("\t".join(row) + end for row in rows)
    else:
        buffer = io.StringIO(newline="")
        # Python's writer does not quote a line end other than its own
        quoting = csv.QUOTE_ALL if any("\n" in line for line in lines) else csv.QUOTE_MINIMAL
        csv.writer(buffer, delimiter=separator, lineterminator=end, quoting=quoting).writerows(rows)
        content = buffer.getvalue()
    path = write(tmp_path / ("x.tsv" if plain else "x.csv"), content.encode(encoding))
    options = {"encoding": asked}
    if names == "names":
        options["names"] = ["text", "label"]
    elif names == "none":
        options |= {"header": False, "text": "column_1"}
    # without a header two separators can cut the lines alike: then one has to be given
    assert_read(path, lines, separator=None if plain or names == "header" else separator, **options)


@QUIET
@given(
    first=st.lists(
        st.sampled_from("a good bad day is it not so, why yes; no|".split()), min_size=2, max_size=7
    ),
    rest=st.lists(st.sampled_from(["fine day", "what a mess", "so, so", "no; never", "ok then"]), max_size=4),
    columns=st.sampled_from(["text", "text label", "label text", "text number"]),
    separator=st.sampled_from([",", ";", "\t", "|"]),
)
def test_a_table_without_a_header_is_never_short_of_its_first_text(tmp_path, first, rest, columns, separator):
    """Loaded without options: either all texts are there, or a sentence says what to set."""
    lines = [" ".join(first), *rest]
    label = {"label": lambda i: ["pos", "neg"][i % 2], "number": lambda i: str(i % 3)}
    made = [[x if c == "text" else label[c](i) for c in columns.split()] for i, x in enumerate(lines)]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=separator).writerows(made)
    path = write(tmp_path / "x.csv", buffer.getvalue())
    with pytest.raises(ValueError, match="header=False|names=|separator=|malformed"):
        texts.load(path)
    assert_read(
        path, lines, header=False, text=f"column_{columns.split().index('text') + 1}", separator=separator
    )


@QUIET
@given(
    st.lists(st.text(alphabet("latin-1"), max_size=12), min_size=2, max_size=8), st.sampled_from(ENCODINGS)
)
def test_a_wrong_encoding_loses_no_text_uncounted(tmp_path, lines, encoding):
    """Texts in one encoding read as UTF-8: what cannot be read is counted, or the file is refused."""
    assume(any(line.strip() for line in lines))
    content = "\n".join(lines).encode(encoding[0], errors="replace")
    path = write(tmp_path / "x.txt", content)
    try:
        corpus = texts.load(path)
    except ValueError as error:
        assert "encoding=" in str(error) or "no text left" in str(error)
        return
    whole = (
        "\n".join(lines) if encoding[0] in ("utf-8-sig", "utf-16", "utf-32") else content.decode("latin-1")
    )
    n = whole.count("\n") + (not whole.endswith("\n"))
    assert len(corpus) + sum(corpus.dropped.values()) == n


# ---------------------------------------------------------------------------------------------- header


@pytest.mark.parametrize(
    "name, content, why",
    [
        ("sst2.tsv", "a lovely film\t1\nit never wakes up\t0\n", "'1' is a number"),
        ("ag.csv", '"3","Bears Claw Back","Reuters - Short"\n"4","x y","z"\n', "'3' is a number"),
        ("dated.csv", "2024-01-31,all is well\n2024-02-01,not so\n", "'2024-01-31' is a number, a date"),
        ("web.csv", "https://x.org/1,all is well\nhttps://x.org/2,not so\n", "an address"),
        ("polarity.csv", "pos,great film\nneg,bad film\npos,nice\n", "'pos' is a value further down"),
        ("one.csv", "Hello there\nGood night\n", "'Hello there' reads like a sentence"),
        ("long.csv", "who wrote the first novel,q\nwhat is a whale,r\n", "reads like a sentence"),
        ("short.tsv", "a lovely film\tgood\nit never wakes up at all\tbad\n", "reads like a sentence"),
    ],
)
def test_a_header_that_looks_like_data_is_an_error_that_says_so(tmp_path, name, content, why):
    path = write(tmp_path / name, content)
    with pytest.raises(
        ValueError, match=rf"{name}: the first line looks like data.*{why}.*header=False or names="
    ):
        texts.load(path)
    first = next(csv.reader(content.splitlines(), delimiter="\t" if name.endswith("tsv") else ","))
    at = max(range(len(first)), key=lambda j: len(first[j]))
    whole = texts.load(path, header=False, text=f"column_{at + 1}")
    assert len(whole) == content.count("\n") and whole.frame.shape[1] == len(first) + 1
    assert len(texts.load(path, header=True, text=first[at])) == len(whole) - 1


@pytest.mark.parametrize(
    "header",
    [
        "text,2019,2020",
        "review,stars",
        "How old are you?,Tell us what you think of it",
        ",review,stars",
        "text,text,n",
    ],
)
def test_a_header_is_taken_for_one(tmp_path, header):
    width = header.count(",") + 1
    column = {",review,stars": 1, "How old are you?,Tell us what you think of it": 1}.get(header, 0)
    rows = [["5"] * width for _ in range(2)]
    for i, row in enumerate(rows):
        row[column] = f"a text of words {i}"
    corpus = texts.load(write(tmp_path / "x.csv", "\n".join([header, *map(",".join, rows)])))
    assert corpus.frame["text"].tolist() == ["a text of words 0", "a text of words 1"]


def test_names_replace_or_stand_in_for_a_header(tmp_path):
    path = write(tmp_path / "x.csv", "1,hello\n0,bye\n")
    corpus = texts.load(path, names=["label", "text"])
    assert corpus.frame[["text", "label"]].values.tolist() == [["hello", 1], ["bye", 0]]
    assert corpus.source["names"] == ["label", "text"]
    titled = write(tmp_path / "t.csv", "label,sentence\n1,hello\n")
    assert texts.load(titled, names=["label", "sentence"]).frame["text"].tolist() == ["hello"]
    assert texts.load(titled, names=["y", "text"], header=True).frame["text"].tolist() == ["hello"]
    for wrong in (["a"], ["a", "a"], ["a", "b", "c"], "text"):
        with pytest.raises(ValueError, match="x.csv has 2 columns, name each"):
            texts.load(path, names=wrong)


def test_options_of_other_files_are_refused(tmp_path):
    for name, options in [
        ("a.txt", {"header": False}),
        ("a.jsonl", {"separator": ";"}),
        ("a.conllu", {"names": ["text"]}),
        ("a.parquet", {"encoding": "latin-1"}),
    ]:
        with pytest.raises(ValueError, match=rf"{next(iter(options))}=.* does not apply to .*{name}"):
            texts.load(write(tmp_path / name, "x"), **options)
    with pytest.raises(ValueError, match="encoding='utf-8' does not apply to 'hf:x'"):
        texts.load("hf:x", encoding="utf-8")
    with pytest.raises(ValueError, match="separator='::'.*one character"):
        texts.load(write(tmp_path / "a.csv", "text::n\na::1\n"), separator="::")


# ------------------------------------------------------------------------------------------- separators


def test_two_separators_that_cut_alike_are_asked_about(tmp_path):
    path = write(tmp_path / "x.csv", "Good;0,5\nBad;0,7\n")
    with pytest.raises(ValueError, match=r"x.csv: ',' and ';' separate its lines alike: give separator="):
        texts.load(path)
    corpus = texts.load(path, separator=";", names=["text", "score"])
    assert corpus.frame["score"].tolist() == ["0,5", "0,7"]  # no number that can be written back


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
def test_the_separator_is_found_and_said(tmp_path, caplog, separator):
    lines = [f"text{separator}label", f"Good, night{separator}0", f"So; long{separator}1", f"a|b{separator}2"]
    content = "\n".join(lines if separator not in ",|" else [*lines[:1], f"x{separator}1"])
    with caplog.at_level(logging.INFO, "nbkit.texts"):
        corpus = texts.load(write(tmp_path / "x.csv", content))
    assert list(corpus.frame) == ["text_id", "text", "label"]
    assert ("separated by" in caplog.text) == (separator != ",")


def test_one_column_of_prose_has_no_separator(tmp_path):
    path = write(tmp_path / "x.csv", 'review\n"Well, yes"\nno; never\n"a; b, c"\n')
    assert texts.load(path).frame["text"].tolist() == ["Well, yes", "no; never", "a; b, c"]


# ----------------------------------------------------------------------------------------------- quotes


@pytest.mark.parametrize(
    "content, line",
    [
        ('text,n\nfine,1\n"open,2\nnext,3\nlast,4\n', 3),  # never closed
        ('text,n\nfine,1\nok,2\n"open,2\nnext,3\nhe said "no",4\n', 4),  # closed in the middle of another
        ('n,text\n1,"open\n2,next\n3,"last"\n', 2),
        ('text,n\n"two\nlines",1\n"open', 4),
    ],
)
def test_a_quote_that_is_never_closed_is_an_error_with_its_line(tmp_path, content, line):
    with pytest.raises(
        ValueError, match=rf"x.csv line {line}: the quote opened there is never closed.*\.tsv"
    ):
        texts.load(write(tmp_path / "x.csv", content))


@QUIET
@given(n=st.integers(2, 30), at=st.integers(0, 28), quote_at=st.sampled_from([None, 1, 2, 3]))
def test_no_row_disappears_behind_a_quote(tmp_path, n, at, quote_at):
    """One text begins with a quote that is not closed: an error, or a warning that names the line."""
    at = at % n
    rows = [f"{'1,' if quote_at else ''}text number {i},{i}" for i in range(n)]
    rows[at] = rows[at].replace("text", '"text', 1)
    if quote_at and at + quote_at < n:
        rows[at + quote_at] += '"'  # here another happens to close it
    path = write(tmp_path / "x.csv", "\n".join([("a," if quote_at else "") + "text,n", *rows]) + "\n")
    try:
        corpus = texts.load(path)
    except ValueError as error:
        assert f"x.csv line {at + 2}: the quote" in str(error) or f"{n} malformed" in str(error)
        return
    assert len(corpus) + sum(corpus.dropped.values()) == n


def test_long_fields_of_several_lines_are_warned_about(tmp_path, caplog):
    swallowed = 'n,text\n1,"Great phone\n2,fine\n3,bad"\n4,ok\n'
    assert len(texts.load(write(tmp_path / "x.csv", swallowed))) == 2
    assert "1 fields run over lines that look like rows, the first from line 2 to 4" in caplog.text
    caplog.clear()
    poem = "\n".join(f"line {i} of the poem" for i in range(25))
    texts.load(write(tmp_path / "y.csv", f'text,n\n"{poem}",1\n'))
    assert "line 2 to 26" in caplog.text
    caplog.clear()
    texts.load(write(tmp_path / "z.csv", 'text,n\n"Dear all,\n\nit rains.\nYours",1\n"a, b",2\n'))
    assert not caplog.records  # ordinary paragraphs


# ------------------------------------------------------------------------------------------- encodings


def test_an_undecodable_file_names_the_encoding_and_the_option(tmp_path, caplog):
    path = write(tmp_path / "x.csv", "text,caté\nHello,1\n".encode("latin-1"))
    with pytest.raises(
        ValueError, match="x.csv line 1, the names.*is not UTF-8: give its encoding.*'latin-1'"
    ):
        texts.load(path)
    assert "caté" in texts.load(path, encoding="latin-1").frame
    with pytest.raises(ValueError, match="not UTF-8.*zero bytes.*encoding='utf-16-be'"):
        texts.load(write(tmp_path / "x.txt", "Hello there\n".encode("utf-16-be")))
    with pytest.raises(ValueError, match=r"x.txt.* is not what its byte order mark says.*encoding="):
        texts.load(write(tmp_path / "x.txt", "Hello\n".encode("utf-16") + b"a"))
    japanese = write(tmp_path / "j.txt", "東京\n大阪\n".encode("shift_jis") + b"\x81\xff\n")
    found = texts.load(japanese, encoding="shift_jis")
    assert found.frame["text"].tolist() == ["東京", "大阪"] and found.dropped == {"undecodable": 1}
    for unknown in ("utf-9", "base64"):
        with pytest.raises(ValueError, match=f"encoding='{unknown}'.*give one such as"):
            texts.load(path, encoding=unknown)
    texts.load(write(tmp_path / "some.txt", "one\ncaf\xe9\n".encode("latin-1")))
    assert "1 undecodable" in caplog.text and "give its encoding, such as encoding='latin-1'" in caplog.text


def test_a_byte_order_mark_is_believed_before_the_option(tmp_path):
    for name in ("utf-8-sig", "utf-16", "utf-32"):
        path = write(tmp_path / "x.txt", "é漢\n".encode(name))
        assert texts.load(path, encoding="latin-1").frame["text"].tolist() == ["é漢"]


def test_zero_bytes_never_come_into_a_text(tmp_path):
    plain = write(tmp_path / "x.txt", b"a long and ordinary line\nde\0f, the second line\nand a third one\n")
    assert texts.load(plain).dropped == {"undecodable": 1}
    rows = (
        '{"text": "a"}\n{"text": "b\\u0000"}\n{"text": "\\\\u0000"}\n{"text": "c", "x": {"y": ["\\ud800"]}}\n'
    )
    corpus = texts.load(write(tmp_path / "x.jsonl", rows))
    assert corpus.frame["text"].tolist() == ["a", "\\u0000"] and corpus.dropped == {"malformed": 2}
    pd.DataFrame({"text": ["a", "b\0"]}).to_parquet(tmp_path / "x.parquet")
    assert texts.load(tmp_path / "x.parquet").dropped == {"undecodable": 1}


# ---------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    "values, kept",
    [
        (["1", "2", "-3", "0"], [1, 2, -3, 0]),
        (["1234567890123456789", "1"], ["1234567890123456789", "1"]),  # a float would round it
        (["123456789012345678", "1"], [123456789012345678, 1]),
        (["007", "7"], ["007", "7"]),
        (["+49123", "1"], ["+49123", "1"]),
        (["1.50", "2", "-0.25", "1e-05"], [1.5, 2.0, -0.25, 1e-05]),
        (["0.1234567890123456789", "1"], ["0.1234567890123456789", "1"]),
        (["9007199254740993", "0.5"], ["9007199254740993", "0.5"]),
        (["12e4", "3"], ["12e4", "3"]),  # the beginning of a hash as likely as a number
        (["nan", "1"], ["nan", "1"]),
        (["inf", "1"], ["inf", "1"]),
        (["1e+999", "1"], ["1e+999", "1"]),
        (["1_000", "1"], ["1_000", "1"]),
        (["٣", "1"], ["٣", "1"]),
    ],
)
def test_only_what_can_be_written_back_becomes_a_number(tmp_path, values, kept):
    for gap in (False, True):  # an empty cell is a missing number, and no reason to round the others
        lines = [f"t{i},{v}" for i, v in enumerate(values)] + ["gap,"] * gap
        column = texts.load(write(tmp_path / "x.csv", "\n".join(["text,n", *lines]))).frame["n"]
        found = column.tolist()[: len(values)]
        small = all(not isinstance(k, int) or abs(k) < 2**53 for k in kept)
        assert found == (kept if small or not gap else values)
        if gap:
            assert column.isna().iloc[-1] or column.iloc[-1] == ""


@QUIET
@given(
    st.lists(
        st.one_of(
            st.integers(-(10**20), 10**20).map(str), st.from_regex(r"\A-?[0-9]{1,20}(\.[0-9]{1,4})?\Z")
        ),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
def test_a_column_of_numbers_can_be_told_from_its_text(tmp_path, values, gap):
    lines = [f"t{i},{v}" for i, v in enumerate(values)] + ["gap,"] * gap
    column = texts.load(write(tmp_path / "x.csv", "\n".join(["text,n", *lines]))).frame["n"][: len(values)]
    if pd.api.types.is_integer_dtype(column):
        assert column.astype(str).tolist() == values
    elif pd.api.types.is_float_dtype(column):
        assert [np.format_float_positional(x, trim="-") for x in column] == [
            v.rstrip("0").rstrip(".") if "." in v else v for v in values
        ]
    else:
        assert column.tolist() == values


# ------------------------------------------------------------------------------------- JSON and parquet


def test_json_that_python_cannot_hold_is_malformed(tmp_path):
    deep = '{"text": "deep", "x": ' + "[" * 100_000 + "]" * 100_000 + "}"
    wide = '{"text": "wide", "n": ' + "1" * 5000 + "}"
    corpus = texts.load(write(tmp_path / "x.jsonl", "\n".join(['{"text": "ok"}', deep, wide])))
    assert corpus.frame["text"].tolist() == ["ok"] and corpus.dropped == {"malformed": 2}


@pytest.mark.parametrize("names", [["url"], ["site", "page"], ["text_id"]])
def test_a_named_index_of_parquet_is_a_column(tmp_path, names):
    frame = pd.DataFrame({"text": ["a", "b"], "n": [1, 2]})
    levels = [["x", "y"], [5, 6]][: len(names)]
    frame.set_index(
        pd.MultiIndex.from_arrays(levels, names=names)
        if len(names) > 1
        else pd.Index(levels[0], name=names[0])
    ).to_parquet(tmp_path / "x.parquet")
    found = texts.load(tmp_path / "x.parquet").frame
    for name, level in zip(names, levels, strict=True):
        assert found["source_text_id" if name == "text_id" else name].tolist() == level


def test_descriptors_of_other_types_are_read_or_refused(tmp_path):
    def written(*values):
        rows = [json.dumps({"text": f"t{i}", "descriptors": v}) for i, v in enumerate(values)]
        return texts.load(write(tmp_path / "d.jsonl", "\n".join(rows))).descriptors("written")

    found = written([1, "x"], [None, 1], None, [], ["x", 2.5, True])
    assert found.columns.tolist() == ["1", "x", "2.5", "True"]
    assert found.to_numpy().sum(axis=1).tolist() == [2, 1, 0, 0, 3]
    for wrong in ("food, praise", {"a": 1}, [["x"]], [{"a": 1}], 7):
        with pytest.raises(ValueError, match="descriptors of text 1 of 'd' are .*give a list of strings"):
            written(["x"], wrong)


def test_a_stream_whose_first_texts_are_missing_finds_its_column(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"body": None, "n": i} for i in range(130)] + [{"body": f"text {i}", "n": i} for i in range(9)]
    write(folder / "train.jsonl", "\n".join(map(json.dumps, rows)))
    corpus = texts.load(f"hf:{folder}", limit=3)
    assert corpus.frame["text"].tolist() == ["text 0", "text 1", "text 2"] and corpus.dropped == {
        "empty": 130
    }
    one = write(folder / "train.jsonl", '{"body": null, "n": 1}\n{"body": "two", "n": 2}\n')
    assert texts.load(f"hf:{one.parent}").frame["text"].tolist() == ["two"]
