"""texts: exact spans, sub-corpora that partition, losses counted, errors that say the mend."""

import json
import logging
import re
import socket
import unicodedata

import datasets
import huggingface_hub
import numpy as np
import pandas as pd
import pytest
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbkit import texts
from nbkit.texts import corpus, loading

# Any text that UTF-8 can hold on one line.
LINE = st.text(
    st.characters(codec="utf-8", exclude_characters="\n\r\0", exclude_categories=["Cs"]),
    max_size=40,
)
FORM = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Zs", "Zl", "Zp", "Cc"]),
    min_size=1,
    max_size=6,
).filter(lambda form: not any(c.isspace() for c in form) and form != "_")

SELECTORS = {*map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0), 0x34F, *range(0x180B, 0x1810)])}

QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def word(word_id, form, upos="X", head=0, deprel="dep", misc="_", feats="_", lemma=None, xpos="_"):
    columns = [word_id, form, lemma or form, upos, xpos, feats, head, deprel, "_", misc]
    return "\t".join(map(str, columns))


def sentence(*lines, text=None, **comments):
    head = [f"# {key} = {value}" for key, value in comments.items()]
    head += [f"# text = {text}"] if text is not None else []
    return "\n".join([*head, *lines]) + "\n\n"


def corpus_of(tmp_path, *lines):
    return texts.load(write(tmp_path / "corpus.txt", "\n".join(lines)))


@pytest.fixture
def hundred(tmp_path):
    return corpus_of(tmp_path, *(f"text number {i}" for i in range(100)))


def assert_spans_exact(corpus):
    by_id = corpus.frame.set_index("text_id")["text"]
    for w in corpus.words.itertuples():
        found = by_id[w.text_id][w.start : w.end]
        assert getattr(w, "mwt", False) or found == w.form, (by_id[w.text_id], w)


# ------------------------------------------------------------------------------------ words, spans


def test_words_of_a_plain_text():
    found = [w.form for w in corpus.words_of("Don't go—it's a well-known trap!")]
    assert found == ["Don't", "go", "—", "it's", "a", "well-known", "trap", "!"]


@QUIET
@given(LINE)
def test_words_of_any_text_are_its_own_slices_and_cover_all_but_white_space(text):
    words = corpus.words_of(text)
    assert all(text[w.start : w.end] == w.form for w in words)
    assert all(a.end <= b.start for a, b in zip(words, words[1:], strict=False))
    covered = {i for w in words for i in range(w.start, w.end)}
    left = {
        unicodedata.category(text[i])
        for i in range(len(text))
        if i not in covered and text[i] not in SELECTORS
    }
    left -= {unicodedata.category(c) for c in text if c.isspace()}
    assert left <= {"Cc", "Cf"}
    assert not any(c.isspace() for w in words for c in w.form)


@QUIET
@given(
    LINE, st.sampled_from(["\u00ad", "\u200b", "\u200d", "\u2060", "\u0301", "\ufe0f", "\u093e"]), st.data()
)
def test_marks_and_format_characters_cut_no_word(text, between, data):
    """One more of them inside a word leaves the number of words as it is, and makes no word elsewhere."""
    words = corpus.words_of(text)
    inner = [
        i for w in words for i in range(w.start + 1, w.end) if text[i - 1].isalnum() and text[i].isalnum()
    ]
    if inner:
        at = data.draw(st.sampled_from(inner))
        longer = corpus.words_of(text[:at] + between + text[at:])
        assert [w.form.replace(between, "") for w in longer] == [w.form.replace(between, "") for w in words]
    assert [w.form for w in corpus.words_of("ab" + between)][0].rstrip(between) == "ab"
    assert len(corpus.words_of("ab " + "\u200b\u00ad\ufe0f" + " cd")) == 2


@pytest.mark.parametrize(
    "text, forms",
    [
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("cafe\u0301 noe\u0308l", ["cafe\u0301", "noe\u0308l"]),
        ("co\u00adop", ["co\u00adop"]),
        ("na\u200bme \u200b x\u200b", ["na\u200bme", "x"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("שָׁלוֹם", ["שָׁלוֹם"]),
        ("❤\ufe0f!", ["❤\ufe0f", "!"]),
        ("👩\u200d🔬👍🏽", ["👩\u200d🔬", "👍🏽"]),
        ("🇩🇪🇫🇷", ["🇩🇪", "🇫🇷"]),
        ("1\ufe0f\u20e3", ["1\ufe0f\u20e3"]),
        ("葛\U000e0100城", ["葛\U000e0100城"]),
    ],
)
def test_words_of_other_scripts_and_emoji(text, forms):
    assert [w.form for w in corpus.words_of(text)] == forms


@pytest.mark.needs_data
def test_ordinary_texts_have_the_words_of_the_plain_rule(shared_data):
    """Texts without marks, format and control characters are cut as by letters, digits and inner marks."""
    plain = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
    for path in sorted((shared_data / "corpora").glob("*.jsonl")):
        for text in texts.load(path).sample(1000, seed=0).frame["text"]:
            if not {unicodedata.category(c)[0] for c in text} & {"M", "C"}:
                assert [w.form for w in corpus.words_of(text)] == plain.findall(text)


@QUIET
@given(st.lists(LINE, min_size=1, max_size=5))
def test_tokenize_gives_exact_spans_and_ids_from_one(tmp_path, lines):
    kept = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    path = write(tmp_path / "any.jsonl", "\n".join(json.dumps({"text": x}) for x in lines))
    if not kept:
        with pytest.raises(ValueError, match="no text left"):
            texts.load(path)
        return
    corpus = texts.load(path).tokenize()
    assert corpus.frame["text"].tolist() == kept
    assert_spans_exact(corpus)
    for _, own in corpus.words.groupby("text_id"):
        assert own["word_id"].tolist() == list(range(1, len(own) + 1))


@QUIET
@given(st.lists(st.tuples(FORM, st.booleans()), min_size=1, max_size=8), st.booleans())
def test_conllu_words_are_aligned_with_and_without_a_text_comment(tmp_path, tokens, with_text):
    text = "".join(form + " " * space for form, space in tokens).strip()
    lines = [
        word(i, form, misc="_" if space else "SpaceAfter=No")
        for i, (form, space) in enumerate(tokens, start=1)
    ]
    content = sentence(*lines, text=text if with_text else None)
    corpus = texts.load(write(tmp_path / "any.conllu", content))
    assert corpus.frame["text"].tolist() == [text]
    assert corpus.words["form"].tolist() == [form for form, _ in tokens]
    assert_spans_exact(corpus)


def test_multi_word_token_gives_its_span_to_its_words(tmp_path):
    content = sentence(
        word(1, "Il"),
        word("2-3", "au", misc="SpaceAfter=No"),
        word(2, "à"),
        word(3, "le"),
        word(4, "."),
    )
    corpus = texts.load(write(tmp_path / "fr.conllu", content))
    assert corpus.frame["text"].tolist() == ["Il au."]
    assert corpus.words["form"].tolist() == ["Il", "à", "le", "."]
    assert corpus.words[["start", "end"]].to_numpy().tolist() == [[0, 2], [3, 5], [3, 5], [5, 6]]
    assert corpus.words["mwt"].tolist() == [False, True, True, False]
    assert_spans_exact(corpus)


def test_empty_nodes_are_skipped_and_counted(tmp_path):
    content = sentence(word(1, "a"), word("1.1", "ghost"), word(2, "b"), text="a b")
    corpus = texts.load(write(tmp_path / "x.conllu", content))
    assert corpus.words["form"].tolist() == ["a", "b"]
    assert corpus.dropped == {"empty_node": 1}


def test_conllu_columns_heads_and_missing_values(tmp_path):
    content = sentence(
        word(1, "They", "PRON", 2, "nsubj", feats="Person=3", lemma="they", xpos="PRP"),
        word(2, "left", "VERB", 0, "root", lemma="leave"),
        word(3, "_", "PUNCT", "_", "_", lemma="_"),
        text="They left _",
    )
    words = texts.load(write(tmp_path / "x.conllu", content)).words
    assert list(words) == ["text_id", "word_id", "form", "start", "end", *corpus.ANNOTATION]
    assert words["head"].tolist() == [2, 0, -1]  # the head is a word_id, 0 the root
    assert words["lemma"].tolist() == ["they", "leave", "_"]
    assert words["feats"].tolist() == ["Person=3", "", ""]
    assert words["deprel"].tolist() == ["nsubj", "root", ""]


def test_conllu_comments_become_columns_and_documents_are_carried_forward(tmp_path):
    content = (
        "# newdoc id = d1\n# newpar id = p1\n"
        + sentence(word(1, "a"), sent_id="s1", text="a", genre="note")
        + sentence(word(1, "b"), sent_id="s2", text="b", text_en="B")
        + "# newdoc id = d2\n# a remark = with too many = signs is kept; this one is not\n"
        + sentence(word(1, "c"), sent_id="s3", text="c")
    )
    frame = texts.load(write(tmp_path / "x.conllu", content)).frame
    assert frame["doc_id"].tolist() == ["d1", "d1", "d2"]
    assert texts.load(tmp_path / "x.conllu").documents.to_dict() == dict(enumerate(["d1", "d1", "d2"]))
    assert frame["par_id"].fillna("-").tolist() == ["p1", "p1", "-"]
    assert frame["sent_id"].tolist() == ["s1", "s2", "s3"]
    assert frame["genre"].fillna("-").tolist() == ["note", "-", "-"]
    assert frame["text_en"].fillna("-").tolist() == ["-", "B", "-"]


def test_genre_is_read_off_the_sentence_ids_of_ewt_only(tmp_path):
    two = sentence(word(1, "a"), sent_id="email-1-1", text="a")
    two += sentence(word(1, "b"), sent_id="weblog-x-1", text="b")
    ewt = texts.load(write(tmp_path / "a.conllu", two))
    assert ewt.frame["genre"].tolist() == ["email", "weblog"]
    other = texts.load(write(tmp_path / "b.conllu", two.replace("email", "n01")))
    assert "genre" not in other.frame


def test_damaged_sentences_are_dropped_and_counted_one_by_one(tmp_path, caplog):
    content = (
        sentence(word(1, "fine"), text="fine")
        + sentence(word(1, "lost"), text="found")  # words that are not in the text
        + sentence(word(1, "half"), text="half said")  # text that no word covers
        + sentence("1\tonly\tfour\tcolumns")
        + sentence(word(1, "a"), word(3, "b"))  # a gap in the ids
        + sentence(word(1, "a", head=7))  # a head outside the sentence
        + sentence(word("1-2", "au"), word(1, "à"))  # a range without its last word
    ).encode() + b"1\tbad\xff\tbad\tX\t_\t_\t0\troot\t_\t_\n\n"
    with caplog.at_level(logging.WARNING, "nbkit.texts"):
        corpus = texts.load(write(tmp_path / "x.conllu", content))
    assert corpus.frame["text"].tolist() == ["fine"]
    assert corpus.dropped == {"misaligned": 2, "malformed": 4, "undecodable": 1}
    [record] = caplog.records
    assert "first misaligned: x.conllu line 4" in record.getMessage()


def test_crlf_and_a_byte_order_mark_are_not_text(tmp_path):
    content = sentence(word(1, "a"), text="a").replace("\n", "\r\n")
    corpus = texts.load(write(tmp_path / "x.conllu", b"\xef\xbb\xbf" + content.encode()))
    assert corpus.frame["text"].tolist() == ["a"]
    lines = texts.load(write(tmp_path / "x.txt", b"\xef\xbb\xbfone\r\ntwo\r\n"))
    assert lines.frame["text"].tolist() == ["one", "two"]


# ------------------------------------------------------------------------------- the other formats

ROWS = [("a fine day", 3, "x"), ('she said "no", twice', 5, "y")]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_tables_keep_their_other_columns_as_labels(tmp_path, suffix):
    frame = pd.DataFrame(ROWS, columns=["text", "stars", "shop"])
    path = tmp_path / f"table{suffix}"
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    elif suffix == ".tsv":
        write(path, "text\tstars\tshop\n" + "".join("\t".join(map(str, r)) + "\n" for r in ROWS))
    elif suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    corpus = texts.load(path)
    assert list(corpus.frame) == ["text_id", "text", "stars", "shop"]
    assert corpus.frame["text"].tolist() == [row[0] for row in ROWS]
    assert corpus.frame["stars"].tolist() == [3, 5]
    assert corpus.words is None and corpus.dropped == {} and corpus.name == "table"


def test_an_opening_quote_in_a_tsv_does_not_swallow_the_lines_after_it(tmp_path):
    path = write(tmp_path / "x.tsv", 'text\tn\n"Well\t1\nhe said\t2\n')
    assert texts.load(path).frame["text"].tolist() == ['"Well', "he said"]


def test_the_text_column_is_named_or_the_only_one_of_strings(tmp_path):
    path = write(tmp_path / "a.csv", "body,stars\nhello,1\n")
    assert texts.load(path).frame["text"].tolist() == ["hello"]
    two = write(tmp_path / "b.csv", "text,body,text_id\nt,b,7\n")
    frame = texts.load(two, text="body").frame
    assert list(frame) == ["text_id", "text", "source_text", "source_text_id"]
    assert frame.iloc[0].tolist() == [0, "b", "t", 7]


def test_unknown_or_ambiguous_text_column(tmp_path):
    path = write(tmp_path / "a.csv", "title,review_body\nt,b\n")
    with pytest.raises(ValueError, match=r"2 columns of strings.*text=.*'title', 'review_body'"):
        texts.load(path)
    with pytest.raises(ValueError, match=r"no column 'review_bdy' \(did you mean 'review_body'"):
        texts.load(path, text="review_bdy")
    # a numeric "text" is not taken for one: every row would be empty
    numbers = write(tmp_path / "b.jsonl", '{"text": 1}\n')
    with pytest.raises(ValueError, match="no text left after cleaning: 1 empty"):
        texts.load(numbers)


# ------------------------------------------------------------------------------------------ dropped


def test_empty_duplicate_and_non_utf8_lines_are_counted_and_logged_once(tmp_path, caplog):
    path = write(tmp_path / "x.txt", b"one\n\n  \ntwo\none\ncaf\xe9\none \nthree\n")
    with caplog.at_level(logging.WARNING, "nbkit.texts"):
        corpus = texts.load(path)
    assert corpus.frame["text"].tolist() == ["one", "two", "three"]
    assert corpus.frame["text_id"].tolist() == [0, 1, 2]
    assert corpus.dropped == {"undecodable": 1, "empty": 2, "duplicate": 2}
    assert "1 undecodable, 2 empty, 2 duplicate" in repr(corpus)
    [record] = caplog.records
    assert "kept 3 texts" in record.getMessage()
    assert "first undecodable: x.txt line 6" in record.getMessage()


def test_only_the_bad_rows_of_a_table_are_dropped(tmp_path):
    csv = write(tmp_path / "x.csv", b'text,n\n"two\nlines",1\ncaf\xe9,2\nshort\n\nlast,3\n')
    corpus = texts.load(csv)
    assert corpus.frame["text"].tolist() == ["two\nlines", "last"]
    assert corpus.dropped == {"undecodable": 1, "malformed": 1, "empty": 1}
    jsonl = write(
        tmp_path / "x.jsonl",
        b'{"text": "ok"}\n\n{"text": "\xff"}\nnot json\n[1]\n{"text": "\\ud800"}\n{"text": null}\n',
    )
    corpus = texts.load(jsonl)
    assert corpus.frame["text"].tolist() == ["ok"]
    assert corpus.dropped == {"empty": 2, "undecodable": 1, "malformed": 3}


@pytest.mark.parametrize("suffix", list(loading.READERS))
def test_a_corpus_with_nothing_in_it_is_refused_by_name(tmp_path, suffix):
    path = tmp_path / f"none{suffix}"
    if suffix == ".parquet":
        pd.DataFrame({"text": []}).to_parquet(path)
    else:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"none\{suffix}.* has no text left.*no line"):
        texts.load(path)


def test_a_corpus_that_loses_everything_says_what_and_the_mend(tmp_path):
    path = write(tmp_path / "latin.txt", "café\nnoël\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.txt.*2 undecodable; give its encoding, .*save it as UTF-8"):
        texts.load(path)
    assert not list(tmp_path.glob("*cache*"))


# --------------------------------------------------------------------------------------- bad input


def test_missing_file_names_its_neighbour(tmp_path):
    write(tmp_path / "reviews.txt", "x")
    with pytest.raises(FileNotFoundError, match=r"review.txt'? \(did you mean 'reviews.txt'\?\)"):
        texts.load(tmp_path / "review.txt")
    with pytest.raises(FileNotFoundError, match="nowhere/at/all.txt"):
        texts.load("nowhere/at/all.txt")


@pytest.mark.parametrize("source", ["reviews", "sample:review", "samples:reviews"])
def test_unknown_source_offers_the_nearest(source):
    with pytest.raises(ValueError, match=rf"unknown s.*'{source}'.*did you mean 'sample:reviews'"):
        texts.load(source)


def test_unknown_suffix_parquet_that_is_none_and_folder_without_treebank(tmp_path):
    with pytest.raises(ValueError, match=r"\.txt, \.csv.*not '\.docx'"):
        texts.load(write(tmp_path / "a.docx", "x"))
    with pytest.raises(ValueError, match="not a readable parquet"):
        texts.load(write(tmp_path / "a.parquet", "x"))
    with pytest.raises(ValueError, match="folder without .conllu"):
        texts.load(tmp_path)


def test_options_that_do_not_apply_are_refused(tmp_path):
    path = write(tmp_path / "a.txt", "x")
    with pytest.raises(ValueError, match="split='dev'.*one file"):
        texts.load(path, split="dev")
    with pytest.raises(ValueError, match="revision='abc' is for 'hf:' sources"):
        texts.load(path, revision="abc")
    with pytest.raises(ValueError, match="limit=0"):
        texts.load(path, limit=0)
    with pytest.raises(ValueError, match="split='dev'.*has no splits"):
        texts.load("sample:reviews", split="dev")


def test_methods_refuse_what_they_cannot_do(hundred):
    with pytest.raises(ValueError, match="cannot sample 101 of the 100 texts of 'corpus'"):
        hundred.sample(101, seed=0)
    with pytest.raises(ValueError, match="cannot sample 0"):
        hundred.sample(0)
    with pytest.raises(ValueError, match=r"fraction=1\.0"):
        hundred.split(1.0)
    with pytest.raises(ValueError, match=r"no column 'txt' \(did you mean 'text' or"):
        hundred.where(txt="x")
    with pytest.raises(ValueError, match=r"no text of 'corpus' has text='x'; values there: .*r 0"):
        hundred.where(text="x")
    with pytest.raises(ValueError, match="only one text"):
        hundred.sample(1).split(0.5)
    with pytest.raises(ValueError, match="no annotation.*'surface'"):
        hundred.descriptors("annotation")
    with pytest.raises(ValueError, match="no written descriptors"):
        hundred.descriptors("written")
    with pytest.raises(ValueError, match="descriptors from 'gold'"):
        hundred.descriptors("gold")


# ------------------------------------------------------------------------- corpora made in memory


def test_a_frame_becomes_a_corpus_with_its_other_columns_as_labels():
    frame = pd.DataFrame({"body": ["a", "b b", "a"], "text": [1, 2, 3], "stars": [5, 1, 5]}, index=[7, 3, 5])
    corpus = texts.Texts.from_frame(frame, "shop", text="body")
    assert list(corpus.frame) == ["text_id", "text", "source_text", "stars"]
    assert corpus.frame.values.tolist() == [[0, "a", 1, 5], [1, "b b", 2, 1], [2, "a", 3, 5]]
    assert corpus.fingerprint == texts.Texts.from_list(["a", "b b", "a"]).fingerprint
    assert list(frame) == ["body", "text", "stars"]  # the caller's frame is as it was


def test_a_frame_keeps_its_ids_and_named_index(hundred):
    part = hundred.sample(9, seed=2)
    again = texts.Texts.from_frame(part.frame.assign(even=1), part.name)
    assert again.fingerprint == part.fingerprint and "even" in again.frame
    by_id = texts.Texts.from_frame(part.frame.set_index("text_id"))
    assert by_id.fingerprint == part.fingerprint
    by_url = texts.Texts.from_frame(part.frame[["text"]].set_index(pd.Index(list("abcdefghi"), name="url")))
    assert by_url.frame["url"].tolist() == list("abcdefghi")


@pytest.mark.parametrize(
    "values, message",
    [
        ("hello", r"one string, 'hello': give a list"),
        ([], "would have no text"),
        (["a", None], r"text 1 of 'texts' is None, not a string"),
        (["a", float("nan")], "text 1 of 'texts' is nan"),
        ([b"a"], r"text 0 of 'texts' is b'a'"),
        (["a", "b\ud800"], r"text 1 of 'texts' holds half a character"),
    ],
)
def test_what_is_no_list_of_texts_is_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        texts.Texts.from_list(values)


@pytest.mark.parametrize("ids", [[1, 0], [0, 0], [-1, 3], [0.5, 1], ["a", "b"], [0, None]])
def test_ids_that_do_not_ascend_are_refused(ids):
    with pytest.raises(ValueError, match="text_id of 'texts' must be whole numbers.*it begins"):
        texts.Texts.from_frame(pd.DataFrame({"text": ["a", "b"], "text_id": ids}))
    with pytest.raises(ValueError, match=r"no column 'txt' \(did you mean 'text'"):
        texts.Texts.from_frame(pd.DataFrame({"text": ["a"]}), text="txt")


def test_concat_puts_corpora_one_after_another(treebank, hundred):
    odd, few = treebank.where(kind="odd"), treebank.sample(4, seed=0)
    both = texts.Texts.concat({"odd": odd, "few": few}, "both")
    assert both.name == "both" and both.frame["text_id"].tolist() == list(range(len(odd) + 4))
    assert both.frame["text"].tolist() == [*odd.frame["text"], *few.frame["text"]]
    assert both.frame["of_corpus"].tolist() == [*odd.frame["text_id"], *few.frame["text_id"]]
    assert both.where(corpus="few").words["form"].tolist() == few.words["form"].tolist()
    assert both.frame["kind"].tolist() == [*odd.frame["kind"], *few.frame["kind"]] and both.annotated
    assert_spans_exact(both)
    twice = texts.Texts.concat({"a": both, "b": hundred})
    assert twice.words is None and twice.frame["kind"].isna().sum() == 100
    assert twice.frame["source_corpus"].dropna().tolist() == both.frame["corpus"].tolist()
    assert set(twice.frame["corpus"]) == {"a", "b"}
    with pytest.raises(ValueError, match="no corpus to put together"):
        texts.Texts.concat({})


def test_concat_sums_what_was_dropped(tmp_path):
    one = texts.load(write(tmp_path / "a.txt", "x\nx\n\n"))
    two = texts.load(write(tmp_path / "b.txt", "y\ny\n"))
    both = texts.Texts.concat({"one": one, "two": two})
    assert both.dropped == {"duplicate": 2, "empty": 1}
    assert both.source["corpora"]["two"]["source"].endswith("b.txt")


def test_lengths_count_the_words_between_white_space(treebank):
    plain = texts.Texts.from_list(["Don't  go!", "", "one"]).lengths
    assert plain.tolist() == [2, 0, 1] and plain.name == "length" and plain.index.name == "text_id"
    own = treebank.where(kind="odd").lengths
    assert own.to_dict() == {i: 1 + i % 4 for i in range(1, 60, 2)}  # by the ids of the parent


# ------------------------------------------------------------------------ sub-corpora, fingerprint


@pytest.fixture(scope="module")
def treebank(tmp_path_factory):
    """Sixty sentences of one to four words in nine documents."""
    parts = []
    for i in range(60):
        forms = [f"w{i}"] + ["x"] * (i % 4)
        lines = [word(j, form) for j, form in enumerate(forms, start=1)]
        parts.append(f"# newdoc id = d{i // 7}\n" if i % 7 == 0 else "")
        parts.append(sentence(*lines, text=" ".join(forms), kind="even" if i % 2 == 0 else "odd"))
    return texts.load(write(tmp_path_factory.mktemp("t") / "tiny.conllu", "".join(parts)))


def assert_part_of(part, whole):
    """Same rows as in the parent, in its order, with exactly their words."""
    ids = part.frame["text_id"].tolist()
    assert ids == sorted(set(ids))
    parent = whole.frame.set_index("text_id").loc[ids].reset_index()
    pd.testing.assert_frame_equal(part.frame, parent)
    words = whole.words[whole.words["text_id"].isin(ids)].reset_index(drop=True)
    pd.testing.assert_frame_equal(part.words, words)
    assert_spans_exact(part)


@QUIET
@given(n=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
def test_sample_is_a_part_of_the_corpus_fixed_by_its_seed(treebank, n, seed):
    part = treebank.sample(n, seed)
    assert len(part) == n
    assert_part_of(part, treebank)
    assert part.fingerprint == treebank.sample(n, seed).fingerprint


@QUIET
@given(fraction=st.floats(0.001, 0.999), seed=st.integers(0, 99), grouped=st.booleans())
def test_split_is_a_partition_and_keeps_groups_together(treebank, fraction, seed, grouped):
    parts = treebank.split(fraction, seed, groups="doc_id" if grouped else None)
    ids = [part.frame["text_id"].tolist() for part in parts]
    assert sorted(ids[0] + ids[1]) == list(range(60))
    assert min(map(len, parts)) > 0
    for part in parts:
        assert_part_of(part, treebank)
    if grouped:
        first, second = (set(part.frame["doc_id"]) for part in parts)
        assert not first & second
    else:
        assert len(parts[0]) == min(max(round(fraction * 60), 1), 59) or (fraction * 60) % 1 == 0.5


def test_split_takes_texts_without_a_group_one_by_one(tmp_path):
    path = write(tmp_path / "x.csv", "text,doc\na,1\nb,1\nc,\nd,\n")
    first, second = texts.load(path).split(0.5, seed=1, groups="doc")
    assert sorted([*first.frame["text_id"], *second.frame["text_id"]]) == [0, 1, 2, 3]
    assert {0, 1} <= set(first.frame["text_id"]) or {0, 1} <= set(second.frame["text_id"])


def test_where_parts_make_the_whole(treebank):
    odd, even = treebank.where(kind="odd"), treebank.where(kind=["even"])
    assert odd.name == "tiny[kind=odd]"
    assert len(odd) + len(even) == len(treebank)
    assert not set(odd.frame["text_id"]) & set(even.frame["text_id"])
    assert_part_of(odd, treebank)
    both = treebank.where(kind="odd", doc_id=["d0", "d1"])
    assert both.frame["text_id"].tolist() == [1, 3, 5, 7, 9, 11, 13]
    many = treebank.where(text_id=[5, 1, 3, 9])
    assert many.frame["text_id"].tolist() == [1, 3, 5, 9] and many.name == "tiny[text_id=4 values]"


def test_an_id_from_a_sub_corpus_finds_the_same_text_in_its_parent(treebank):
    part = treebank.split(0.4, seed=3)[1].where(kind="odd").sample(5, seed=1)
    parent = treebank.frame.set_index("text_id")["text"]
    assert parent[part.frame["text_id"]].tolist() == part.frame["text"].tolist()


def test_limit_takes_a_seeded_sample_and_numbers_it_anew(tmp_path, treebank, caplog):
    path = write(tmp_path / "x.txt", "\n".join(f"line {i}" for i in range(50)))
    few = texts.load(path, limit=10, seed=4)
    assert few.frame["text_id"].tolist() == list(range(10))
    assert few.frame["text"].tolist() == texts.load(path).sample(10, 4).frame["text"].tolist()
    assert few.frame["text"].tolist() != [f"line {i}" for i in range(10)]
    with caplog.at_level(logging.INFO, "nbkit.texts"):
        assert len(texts.load(path, limit=99)) == 50
    assert "limit=99, all 50 texts" in caplog.text
    lines = "".join(sentence(word(1, f"w{i}"), text=f"w{i}") for i in range(9))
    words = texts.load(write(tmp_path / "x.conllu", lines), limit=4)
    assert words.words["text_id"].tolist() == [0, 1, 2, 3]
    assert_spans_exact(words)


@QUIET
@given(lines=st.lists(LINE, min_size=1, max_size=4), data=st.data())
def test_fingerprint_changes_with_any_character_and_with_order(lines, data):
    def fingerprint(values, name="a"):
        frame = pd.DataFrame({"text_id": np.arange(len(values)), "text": values})
        return texts.Texts(name, frame).fingerprint

    before = fingerprint(lines)
    assert before == fingerprint(list(lines), name="b")
    i = data.draw(st.integers(0, len(lines) - 1))
    at = data.draw(st.integers(0, len(lines[i])))
    changed = [*lines[:i], lines[i][:at] + "¤" + lines[i][at:], *lines[i + 1 :]]
    assert fingerprint(changed) != before
    if lines != lines[::-1]:
        assert fingerprint(lines[::-1]) != before
    # moving the border between two texts leaves the concatenation as it is
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])


def test_fingerprint_depends_on_ids_and_spans_but_not_on_labels(treebank):
    frame, words = treebank.frame, treebank.words

    def fingerprint(frame=frame, words=words):
        return texts.Texts("t", frame, words).fingerprint

    assert fingerprint() == treebank.fingerprint
    assert fingerprint(frame=frame.assign(kind="new")) == treebank.fingerprint
    assert fingerprint(words=words.assign(upos="NEW")) == treebank.fingerprint
    others = [
        fingerprint(words=None),
        fingerprint(words=words.assign(end=words["end"] + 1)),
        fingerprint(frame=frame.assign(text_id=frame["text_id"] + 1)),
    ]
    assert len({*others, treebank.fingerprint}) == 4


def test_repr_is_short_and_has_no_address(treebank):
    assert repr(treebank) == f"Texts(tiny, 60 texts, {len(treebank.words)} words)"


# ----------------------------------------------------------------------------------------- folders


def test_a_folder_of_treebank_files_by_split(tmp_path, caplog):
    for i, split in enumerate(["dev", "test", "train"]):
        content = sentence(word(1, split), text=split) + sentence(word(1, "same"), text="same")
        write(tmp_path / f"xx_yy-ud-{split}.conllu", content if i else content + content)
    dev = texts.load(tmp_path, split="dev")
    assert dev.name == f"{tmp_path.name}:dev"
    assert dev.frame["text"].tolist() == ["dev", "same"] and dev.dropped == {"duplicate": 2}
    whole = texts.load(tmp_path)
    assert whole.frame["split"].tolist() == ["train", "train", "dev", "test"]
    assert whole.dropped == {"duplicate": 4}
    assert whole.words["text_id"].tolist() == [0, 1, 2, 3]
    assert_spans_exact(whole)
    with pytest.raises(ValueError, match=r"no split 'valid'; it has \['dev', 'test', 'train'\]"):
        texts.load(tmp_path, split="valid")


# ------------------------------------------------------------------------------------- descriptors


def test_written_descriptors_are_columns_of_zeros_and_ones(tmp_path):
    rows = [("a", ["x", "y"]), ("b", ["y"]), ("c", [])]
    lines = [json.dumps({"text": t, "descriptors": d}) for t, d in rows]
    corpus = texts.load(write(tmp_path / "x.jsonl", "\n".join(lines)))
    written = corpus.descriptors("written")
    assert list(written) == ["y", "x"] and written.index.name == "text_id"
    assert written.to_numpy().tolist() == [[1, 1], [1, 0], [0, 0]]
    assert list(corpus.where(text_id=1).descriptors("written")) == ["y"]


def test_auto_reads_the_annotation_where_there_is_one(tmp_path, hundred):
    content = sentence(word(1, "Go", "VERB", feats="Mood=Imp", deprel="root"), text="Go")
    annotated = texts.load(write(tmp_path / "x.conllu", content))
    assert annotated.descriptors()["imperative"].tolist() == [1.0]
    assert "imperative" not in annotated.descriptors("surface")
    surface = hundred.descriptors()
    assert surface["number"].eq(1).all() and surface.index.tolist() == list(range(100))
    few = hundred.sample(7, 1)
    pd.testing.assert_frame_equal(few.descriptors(), surface.loc[few.frame["text_id"]])


@pytest.mark.parametrize("name", ["reviews", "questions", "encyclopedia", "fiction"])
def test_samples_load_without_loss(name):
    corpus = texts.load(f"sample:{name}")
    assert corpus.name == name and corpus.dropped == {} and len(corpus) >= 400
    assert list(corpus.frame) == ["text_id", "text", "descriptors"]
    assert corpus.descriptors("written").sum(axis=1).between(2, 5).all()


def test_sample_treebank_loads_without_loss():
    corpus = texts.load("sample:treebank")
    assert corpus.dropped == {} and len(corpus) >= 200
    assert {"sent_id", "genre"} <= set(corpus.frame)
    assert_spans_exact(corpus)
    assert "question" in corpus.descriptors()


# ----------------------------------------------------------------------------------------- the hub


class Hub:
    """A hub with some datasets, each at one commit; what the loader was asked for is recorded."""

    def __init__(self, monkeypatch, rows, **commits):
        self.rows, self.commits, self.asked = rows, commits, []
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", self.dataset_info)
        monkeypatch.setattr(datasets, "load_dataset", self.load_dataset)

    def dataset_info(self, name, revision=None):
        key = name.replace("/", "__")
        if key not in self.commits:
            raise _without_response(RepositoryNotFoundError)
        if revision not in (None, "main", self.commits[key]):
            raise _without_response(RevisionNotFoundError)
        return huggingface_hub.hf_api.DatasetInfo(id=name, sha=self.commits[key], tags=[])

    def load_dataset(self, name, config=None, *, split, revision, streaming):
        assert streaming
        self.asked.append((name, config, split, revision))
        return datasets.Dataset.from_list(self.rows).to_iterable_dataset()


def _without_response(error):
    """The hub's errors want the HTTP response; the kind of error is all that matters here."""
    made = error.__new__(error)
    Exception.__init__(made, "404")
    return made


ROWS_OF_HUB = [{"text": t, "label": i} for i, t in enumerate(["a", "", "b", "a", "c", "d"])]


@pytest.mark.parametrize(
    "source, expected",
    [
        ("hf:glue/qqp", ("glue", "qqp", "train", "c0ffee")),  # no dataset has the whole name
        ("hf:glue", ("glue", None, "train", "c0ffee")),
        ("hf:own/data", ("own/data", None, "train", "beef")),  # the whole name wins
        ("hf:own/data/cfg", ("own/data", "cfg", "train", "beef")),  # three parts end in a config
    ],
)
def test_name_and_config_of_the_hub(monkeypatch, source, expected):
    known = {"glue": "c0ffee", "own__data": "beef", "own": "dead", "own__data__cfg": "no"}
    hub = Hub(monkeypatch, ROWS_OF_HUB, **known)
    corpus = texts.load(source)
    assert hub.asked == [expected]
    assert corpus.source["revision"] == expected[3] and corpus.name == source
    assert corpus.frame["text"].tolist() == ["a", "b", "c", "d"]
    assert corpus.frame["label"].tolist() == [0, 2, 4, 5]
    assert corpus.dropped == {"empty": 1, "duplicate": 1}


def test_hub_limit_counts_the_texts_that_are_kept(monkeypatch):
    hub = Hub(monkeypatch, ROWS_OF_HUB, glue="c0ffee")
    corpus = texts.load("hf:glue", limit=3, split="test", revision="main")
    assert corpus.frame["text"].tolist() == ["a", "b", "c"]
    assert hub.asked == [("glue", None, "test", "c0ffee")]  # a branch is pinned to its commit


def test_hub_shuffle_is_seeded_and_only_on_request(monkeypatch):
    Hub(monkeypatch, [{"text": f"t{i}"} for i in range(40)], glue="c0ffee")
    first = [texts.load("hf:glue", limit=9, shuffle=40, seed=s).frame["text"].tolist() for s in (0, 0, 1)]
    assert first[0] == first[1] != first[2]
    assert texts.load("hf:glue", limit=2).frame["text"].tolist() == ["t0", "t1"]


def test_unknown_dataset_and_revision(monkeypatch):
    Hub(monkeypatch, ROWS_OF_HUB, glue="c0ffee")
    with pytest.raises(FileNotFoundError, match=r"no dataset own/nil or own \(config nil\)"):
        texts.load("hf:own/nil")
    with pytest.raises(ValueError, match="no revision 'v9': give a commit"):
        texts.load("hf:glue", revision="v9")


def test_a_stream_that_breaks_off_is_a_clear_error(monkeypatch):
    hub = Hub(monkeypatch, ROWS_OF_HUB, glue="c0ffee")

    def broken(*_, **__):
        yield {"text": "a"}
        raise ConnectionError("cable pulled")

    monkeypatch.setattr(hub, "load_dataset", broken)
    monkeypatch.setattr(datasets, "load_dataset", broken)
    with pytest.raises(ConnectionError, match="'hf:glue' could not be reached .*cable pulled"):
        texts.load("hf:glue")


@pytest.mark.parametrize("revision", [None, "c0ffee"])
def test_no_network_is_said_at_once_with_the_mend(monkeypatch, revision):
    def refuse(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(OSError, match=r"'hf:nowhere/data' could not be reached.*save the dataset"):
        texts.load("hf:nowhere/data", revision=revision)


def test_a_local_folder_is_read_by_the_real_loader(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"question": f"why {i}?", "n": i} for i in range(5)]
    write(folder / "train.jsonl", "\n".join(json.dumps(r) for r in rows))
    corpus = texts.load(f"hf:{folder}", limit=3)
    assert corpus.frame["text"].tolist() == ["why 0?", "why 1?", "why 2?"]
    assert corpus.frame["n"].tolist() == [0, 1, 2] and corpus.source["revision"] is None
    with pytest.raises(ValueError, match="split 'nope'"):
        texts.load(f"hf:{folder}", split="nope")


# --------------------------------------------------------------------------------------- real data


@pytest.mark.needs_data
def test_every_word_of_ewt_is_where_its_span_says(shared_data):
    corpus = texts.load(shared_data / "ud_en_ewt", split="dev")
    assert len(corpus) + corpus.dropped["duplicate"] == 2001
    assert set(corpus.frame["genre"]) == set(texts.EWT_GENRES)
    by_id = corpus.frame.set_index("text_id")["text"]
    w = corpus.words[~corpus.words["mwt"]]
    cut = [by_id[i][a:b] for i, a, b in zip(w["text_id"], w["start"], w["end"], strict=True)]
    assert cut == w["form"].tolist()
    # heads are word ids of the same text: one root each, every other head exists
    assert corpus.words["head"].eq(0).groupby(corpus.words["text_id"]).sum().eq(1).all()


@pytest.mark.needs_data
@pytest.mark.parametrize("language", ["en", "de", "fr", "es"])
def test_four_languages_are_aligned_without_loss(shared_data, language):
    corpus = texts.load(shared_data / "ud_pud" / f"{language}.conllu")
    assert len(corpus) == 1000 and set(corpus.dropped) <= {"empty_node"}
    assert "genre" not in corpus.frame and "parallel_id" in corpus.frame
