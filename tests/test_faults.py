"""Faults that inputs of users showed, each asked once more: one test a question, in the order of the flow.

The rules behind them are tested where the rooms are tested (readers, treebanks, tokens, activations, views).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from transformers import GPT2Config, GPT2Model

from nbkit import activations, descriptors, matching, models, plots, salience, texts
from nbkit.activations import exemplars, neurox, plan
from nbkit.descriptors import replies
from nbkit.models import loading

from_list = texts.Texts.from_list


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def row(i, form, head=0, misc="_", feats="_", upos="X"):
    return f"{i}\t{form}\t{form}\t{upos}\t_\t{feats}\t{head}\tdep\t_\t{misc}\n"


@pytest.fixture(scope="module")
def capture(minilm):
    return lambda corpus, **options: activations.capture(
        minilm, corpus, progress=False, cache=False, **options
    )


@pytest.fixture(scope="module")
def browser(minilm, capture):
    """Forty texts, whose descriptors are called 0 and 1."""
    corpus = from_list([f"hello {'world' if i % 2 else 'fox'} {i}" for i in range(40)])
    drawn = np.random.default_rng(0).integers(0, 2, 40) * 1.0
    labels = pd.DataFrame({0: drawn, 1: [i % 2 * 1.0 for i in range(40)]}, pd.RangeIndex(40, name="text_id"))
    stored = {"x": capture(corpus, sites="layer.0.ffn")}
    return plots.neuron_browser(minilm, {"x": corpus}, stored, {"x": labels})


# ------------------------------------------------------------------------------------------------ reading


def test_the_first_text_of_a_table_without_a_header_is_no_name(tmp_path):
    path = write(tmp_path / "h.tsv", "a lovely film\t1\nit never wakes up\t0\n")
    with pytest.raises(ValueError, match="header="):
        texts.load(path)
    assert len(texts.load(path, names=["text", "label"])) == 2


def test_a_byte_order_mark_is_honoured_and_an_unknown_encoding_is_named(tmp_path):
    corpus = texts.load(write(tmp_path / "u.txt", "Hello there\nGood night\n".encode("utf-16")))
    assert corpus.frame["text"].tolist() == ["Hello there", "Good night"]
    table = texts.load(write(tmp_path / "u.csv", "text,label\nHello,1\n".encode("utf-16")))
    assert table.frame[["text", "label"]].to_numpy().tolist() == [["Hello", 1]]
    with pytest.raises(ValueError, match="encoding='latin-1'"):
        texts.load(write(tmp_path / "l.csv", "text,caté\nHello,1\n".encode("latin-1")))


def test_a_semicolon_separates(tmp_path):
    corpus = texts.load(write(tmp_path / "s.csv", "text;label\nGood night;0\nSo long;1\n"))
    assert corpus.frame["text"].tolist() == ["Good night", "So long"]


LONG = 1234567890123456789


def test_names_of_digits_stay_as_they_are(tmp_path):
    path = write(tmp_path / "i.csv", f"text,doc,tweet\na,007,{LONG}\nb,7,\nc,0007,{LONG - 1}\n")
    frame = texts.load(path).frame
    assert frame["doc"].tolist() == ["007", "7", "0007"]
    assert frame["tweet"].tolist() == [str(LONG), "", str(LONG - 1)]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "hf", "concat"])
def test_long_numbers_beside_missing_ones_are_not_rounded(tmp_path, suffix):
    rows = [{"text": "a", "tweet": LONG, "n": 1}, {"text": "b"}, {"text": "c", "tweet": LONG - 1, "n": 3}]
    folder = tmp_path / "set"
    lines = "".join(json.dumps({"tweet": None, "n": None, **row}) + "\n" for row in rows)
    if suffix == "concat":
        parts = {str(i): texts.Texts.from_frame(pd.DataFrame([row])) for i, row in enumerate(rows)}
        frame = texts.Texts.concat(parts).frame
    elif suffix == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
        frame = texts.load(tmp_path / "x.parquet").frame
    elif suffix == "hf":
        write(folder / "train.jsonl", lines)
        frame = texts.load(f"hf:{folder}").frame
    else:
        frame = texts.load(write(tmp_path / "x.jsonl", lines)).frame
    assert [frame["tweet"][0], frame["tweet"][2]] == [LONG, LONG - 1] and pd.isna(frame["tweet"][1])
    assert frame["n"].dtype == float  # what a float holds is a float, as ever


def test_quotes_that_are_not_doubled_are_read_or_told_of(tmp_path, caplog):
    backslashes = 'text,n\n"he said \\"no, never\\" to me",1\n"Great" film,2\n'
    corpus = texts.load(write(tmp_path / "b.csv", backslashes))
    assert corpus.frame["text"].tolist() == ['he said "no, never" to me', "Great film"]
    assert "not doubled in 2 lines, the first is line 2" in caplog.text


def test_a_tsv_with_the_quotes_of_a_csv_is_told_of(tmp_path, caplog):
    corpus = texts.load(write(tmp_path / "q.tsv", 'text\tn\n"line one\nline ""two"""\t1\n"fine"\t2\n'))
    assert len(corpus) + corpus.dropped["malformed"] == 3
    assert "as if they enclosed a field: if they do, name the file .csv" in caplog.text
    caplog.clear()
    assert len(texts.load(write(tmp_path / "p.tsv", 'text\tn\n"Wow!"\t1\nsay "no\t2\n'))) == 2
    assert not caplog.records


@pytest.mark.parametrize(
    "options",
    [{"encoding": 8}, {"separator": 5}, {"separator": '"'}, {"separator": "\n"}, {"separator": ""}],
)
def test_options_of_another_kind_are_named(tmp_path, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name}="):
        texts.load(write(tmp_path / "x.csv", "text,n\nhi,1\n"), **options)


def test_a_file_in_another_shape_says_which_it_needs(tmp_path):
    with pytest.raises(ValueError, match="each line has to be one JSON object"):
        texts.load(write(tmp_path / "x.jsonl", '[{"text": "a"}, {"text": "b"}]\n'))
    with pytest.raises(ValueError, match="ten columns with tabs"):
        texts.load(write(tmp_path / "x.conllu", row(1, "a").replace("\t", " ")))


def test_a_document_without_an_id_ends_the_one_before(tmp_path):
    first = "# newdoc id = A\n# newpar id = P\n# text = one\n" + row(1, "one")
    path = write(tmp_path / "n.conllu", first + "\n# newdoc\n# newpar\n# text = two\n" + row(1, "two") + "\n")
    assert texts.load(path).frame["doc_id"].tolist() == ["A", "n#2"]


@pytest.mark.parametrize(
    "begins",
    ["#newdoc id={}", "# newdoc {}", "# newdoc_id = {}", "# newdoc id: {}", "#  Newdoc  id  =  {}  "],
)
def test_a_document_begins_however_its_comment_is_written(tmp_path, begins):
    written = [f"# meta::genre = g{d}\n{begins.format(d)}\n# text = {d}\n{row(1, d)}\n" for d in "AB"]
    frame = texts.load(write(tmp_path / "n.conllu", "".join(written))).frame
    assert frame["doc_id"].tolist() == ["A", "B"]
    assert frame["meta_genre"].tolist() == ["gA", "gB"]  # also where it stands before its document


def test_sentences_without_an_empty_line_between_them_are_two(tmp_path):
    one = "# text = a b\n" + row(1, "a") + row(2, "b", 1)
    assert len(texts.load(write(tmp_path / "c.conllu", one + "# text = c\n" + row(1, "c")))) == 2
    assert len(texts.load(write(tmp_path / "d.conllu", one + row(1, "c") + "\n" + row(1, "e")))) == 3


def test_every_part_of_a_split_is_read_and_what_is_not_is_named(tmp_path, caplog):
    parts = ["cs_pdt-ud-train-l", "cs_pdt-ud-train-m", "de_hdt-ud-train-a-1", "en_ewt-ud-train", "x-ud-dev"]
    for name in parts:
        write(tmp_path / f"{name}.conllu", f"# text = {name}\n{row(1, name)}\n")
    assert texts.load(tmp_path, split="train").frame["text"].tolist() == parts[:-1]
    assert not caplog.records
    write(tmp_path / "more" / "y-ud-train.conllu", row(1, "y"))
    write(tmp_path / "z-ud-train.conllu.gz", b"\x1f\x8b")
    assert len(texts.load(tmp_path)) == len(parts)
    assert "2 files of subfolders or of another kind are not read, such as more/y-ud" in caplog.text
    with pytest.raises(ValueError, match=r"without \.conllu files.*it has more/y-ud-train.conllu"):
        shutil.move(tmp_path / "more", tmp_path / "outer" / "more")
        texts.load(tmp_path / "outer")


def test_an_empty_file_among_treebanks_is_no_error(tmp_path):
    write(tmp_path / "a-ud-train.conllu", f"# text = a\n{row(1, 'a')}\n")
    write(tmp_path / "b-ud-train.conllu", "")
    assert texts.load(tmp_path).frame["text"].tolist() == ["a"]


def test_white_space_as_a_token_keeps_its_sentence(tmp_path):
    words = row(1, "東") + row(2, "\u3000", 1) + row(3, "京", 1)
    assert len(texts.load(write(tmp_path / "s.conllu", f"# text = 東\u3000京\n{words}\n"))) == 1


def test_a_streamed_data_set_may_begin_with_null(tmp_path):
    write(tmp_path / "hf" / "train.jsonl", '{"body":null,"n":1}\n{"body":"two","n":2}\n')
    assert texts.load(f"hf:{tmp_path / 'hf'}").frame["text"].tolist() == ["two"]


@pytest.mark.parametrize("given", [None, 5, {"a": 1}])
def test_what_is_no_list_of_texts_is_named(given):
    with pytest.raises(ValueError, match=f"from_list got a {type(given).__name__}"):
        from_list(given)


def test_columns_that_cannot_be_told_apart_or_hold_lists_are_named():
    with pytest.raises(ValueError, match="two columns 'n'"):
        texts.Texts.from_frame(pd.DataFrame([["a", 1, 2]], columns=["text", "n", "n"]))
    parts = pd.MultiIndex.from_tuples([("text", "x"), ("n", "y")])
    with pytest.raises(ValueError, match="names of several parts"):
        texts.Texts.from_frame(pd.DataFrame([["a", 1]], columns=parts))
    corpus = texts.Texts.from_frame(pd.DataFrame({"text": ["a", "b"], "l": [["x"], ["y"]]}))
    for ask in (lambda: corpus.where(l="x"), lambda: corpus.split(0.5, groups="l")):
        with pytest.raises(ValueError, match="'l' of 'texts' holds a list"):
            ask()


def test_one_string_and_a_missing_text_are_refused_by_name():
    with pytest.raises(ValueError, match="one string, 'hello'"):
        from_list("hello")
    with pytest.raises(ValueError, match="text 1 of 'texts' is None"):
        from_list(["a", None])


@pytest.mark.parametrize(
    "word", ["हिन्दी", "cafe\u0301", "co\u00adoperate", "ab\u200bcd", "❤\ufe0f", "👩\u200d🚀"]
)
def test_marks_and_format_characters_cut_no_word(word):
    assert [w.form for w in texts.words_of(word)] == [word]


def test_labels_that_are_lists_of_other_types_are_strings(tmp_path):
    lines = '{"text":"a","descriptors":[1,"x"]}\n{"text":"b","descriptors":[null]}\n'
    labels = texts.load(write(tmp_path / "d.jsonl", lines)).descriptors("written")
    assert sorted(labels) == ["1", "x"] and labels.to_numpy().sum() == 2


def test_gold_labels_claim_nothing_about_what_a_language_does_not_mark(tmp_path):
    words = row(1, "行く", upos="VERB", feats="Polite=Form") + row(2, "？", 1, upos="PUNCT")
    gold = texts.load(write(tmp_path / "ja.conllu", f"# text = 行く？\n{words}\n")).descriptors()
    assert gold["question"].sum() == 1 and "first person" not in gold


# ---------------------------------------------------------------------------------------------- the store


def test_a_special_token_typed_in_a_text_is_plain_characters(capture):
    found = capture(from_list(["The log prints [SEP] twice."]), sites="layer.3.hidden", rows="token").rows
    assert "[SEP]" not in set(found["token"]) and {"[", "]"} <= set(found["token"])


def test_the_peak_of_a_text_in_windows_is_that_of_the_store(minilm, capture):
    corpus = from_list(["the quick brown fox " * 200 + "volcano erupted", "hello"])
    options = {"long": "windows", "sites": "layer.5.ffn", "dtype": "float32"}
    stored, tokens = capture(corpus, **options), capture(corpus, rows="token", **options)
    own = tokens.select(text_ids=[0])
    for unit in range(0, 1536, 400):
        peak = exemplars.top(stored, corpus, unit, k=2, subject=minilm).set_index("text_id").loc[0]
        strongest = own.values[:, unit] == own.values[:, unit].max()
        assert peak["start"] in set(own.rows["start"][strongest])


def test_texts_without_a_single_token_are_said_to_be_so(minilm, tmp_path):
    with pytest.raises(ValueError, match="token") as error:
        activations.capture(minilm, from_list(["\u00ad", "\u200b"]), cache=tmp_path, progress=False)
    assert "empty sequence" not in str(error.value)


def test_word_rows_of_a_long_text_are_planned_in_linear_memory(minilm):
    def megabytes(n):
        corpus = from_list(["the fox " * (n // 2)]).tokenize()
        tracemalloc.start()
        plan.plan_of(minilm, corpus, rows="word", pool="mean", long="windows")
        peak = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
        return peak

    assert megabytes(16_000) < 8 * megabytes(4_000)


def test_words_are_counted_as_cut_only_where_a_text_was(capture):
    found = capture(from_list(["hello \u200b"]).tokenize(), rows="word", sites="embeddings").manifest
    assert found["dropped"].get("words_beyond_cut", 0) == 0


def test_neurox_files_hold_words_with_spaces(tmp_path, capture):
    words = row(1, "10 000", 2) + row(2, "euros")
    corpus = texts.load(write(tmp_path / "nx.conllu", f"# text = 10 000 euros\n{words}\n"))
    stored = capture(corpus, sites=["hidden"], rows="word", pool="mean")
    assert neurox.read(neurox.write(tmp_path / "a.hdf5", stored)).rows["form"].tolist() == ["10 000", "euros"]


def test_minimal_pairs_do_not_warn(minilm, tmp_path):
    pairs = [
        f"The {n} said that {p} would come home soon ."
        for n in ("nurse", "cook", "judge")
        for p in ("he", "she")
    ]
    stored = activations.capture(minilm, from_list(pairs), sites="all", cache=tmp_path, progress=False)
    assert [line["check"] for line in stored.manifest["verified"] if not line["ok"]] == []


# That a worker of several threads computes what one does is asked in test_cluster.py.

# --------------------------------------------------------------------------------------------- the models


def test_a_tokenizer_without_offsets_is_refused_in_load(minilm, tmp_path):
    source = loading._minilm_folder()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(source / name, tmp_path)
    words = minilm.tokenizer.get_vocab()
    write(tmp_path / "vocab.txt", "\n".join(sorted(words, key=words.get)))
    said = {
        "tokenizer_class": "BertJapaneseTokenizer",
        "word_tokenizer_type": "basic",
        "subword_tokenizer_type": "wordpiece",
    }
    write(tmp_path / "tokenizer_config.json", json.dumps(said))
    with pytest.raises(ValueError, match="offset|tokenizer"):
        models.load(tmp_path)


def test_an_added_token_leaves_a_model_loadable(tmp_path):
    subject = models.load("minilm")
    subject.tokenizer.add_tokens(["<extra>"])
    subject.model.save_pretrained(tmp_path)
    subject.tokenizer.save_pretrained(tmp_path)
    assert models.load(tmp_path).fingerprint


def test_padding_on_the_left_does_not_pass_unnoticed(minilm):
    tokenizer = models.load("minilm").tokenizer
    tokenizer.padding_side = "left"
    config = GPT2Config(vocab_size=len(tokenizer), n_layer=2, n_head=2, n_embd=32)
    subject = models.Subject("mine", GPT2Model(config), tokenizer)
    batch = tokenizer(["short", "a much longer text than that"], padding=True, return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match="left"):
        subject.run(inputs, "hidden")


# -------------------------------------------------------------------------- descriptors, matching, salience


def test_merging_never_loses_a_proposal():
    proposals = pd.DataFrame({"text_id": range(60), "generator": "x"})
    proposals["descriptor"] = [f"topic {i} of the list" for i in range(60)]
    merged = descriptors.merge(proposals, threshold=1.0, min_texts=1)
    assert merged.frame["members"].map(len).sum() + np.sum(merged.dropped) == 60


def test_a_reply_that_thinks_aloud_is_read_after_its_thoughts():
    reply = '<think>\nThe text [a review] complains about a battery.\n</think>\n["battery life", "complaint"]'
    assert replies.read_reply(reply) == ["battery life", "complaint"]


EDIT = """
import sys, pandas as pd
from nbkit import descriptors
names = ["\\u5024\\u6bb5", "b"]
frame = pd.DataFrame({"descriptor": names, "members": [[name] for name in names], "n_texts": [3, 2]})
merged = descriptors.Descriptors(frame, dropped=0)
descriptors.Editor(merged, sys.argv[1]).rename("\\u5024\\u6bb5", "\\u4fa1\\u683c")
"""


def test_edits_are_saved_in_utf_8_whatever_the_locale(tmp_path):
    path = tmp_path / "edits.json"
    plain = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    ran = subprocess.run([sys.executable, "-c", EDIT, path], env=plain, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "価格" in json.dumps(json.loads(path.read_text(encoding="utf-8")), ensure_ascii=False)


def test_two_descriptors_of_one_name_are_refused(capture):
    stored = capture(from_list([f"hello {i}" for i in range(40)]), sites="layer.0.ffn")
    twice = np.tile(np.arange(40) % 2 * 1.0, (2, 1)).T
    labels = pd.DataFrame(twice, columns=["d", "d"], index=pd.RangeIndex(40, name="text_id"))
    with pytest.raises(ValueError, match="'d'"):
        matching.tag(stored, labels, permutations=0, progress=False)


def test_a_layered_feature_is_found(tmp_path):
    words = row(1, "evim", feats="Number=Sing|Number[psor]=Plur")
    corpus = texts.load(write(tmp_path / "l.conllu", f"# text = evim\n{words}\n"))
    assert salience.properties(corpus, "feats:Number[psor]").tolist() == ["Plur"]


def test_words_that_share_a_vector_are_in_no_probe(tmp_path, capture):
    words = (
        row(1, "Il", 2)
        + row(2, "va")
        + "3-4\tau\t_\t_\t_\t_\t_\t_\t_\t_\n"
        + row(3, "à", 5, upos="ADP")
        + row(4, "le", 5, upos="DET")
        + row(5, "marché", 2, "SpaceAfter=No")
        + row(6, ".", 2)
    )
    corpus = texts.load(write(tmp_path / "m.conllu", f"# text = Il va au marché.\n{words}\n"))
    X, y = salience.matrix(
        capture(corpus, sites="hidden", rows="word", pool="mean"), salience.properties(corpus, "upos")
    )
    assert len(X) == len(y) == 4 and not {"ADP", "DET"} & set(y)


# -------------------------------------------------------------------------------------- figures and views

RATES = pd.DataFrame(
    [
        {"corpus": f"c{i}", "quantile": q, "share": 0.1, "low": 0, "high": 0.2}
        for i in range(8)
        for q in (1, 2)
    ]
)


def test_eight_series_are_eight_lines_that_differ():
    lines = plots.quintile_curves(RATES).lines
    assert len(lines) == 8
    assert len({(line.get_color(), line.get_marker(), str(line.get_linestyle())) for line in lines}) == 8


def test_a_series_that_would_not_be_drawn_is_refused():
    with pytest.raises(ValueError, match="a series has no name"):
        plots.quintile_curves(RATES.replace({"corpus": {"c3": None}}))
    with pytest.raises(ValueError, match="no series to draw"):
        plots.quintile_curves(RATES[:0])


def test_dollar_signs_are_no_mathematics(tmp_path):
    table = pd.DataFrame({"u": [0.1, 0.2]}, index=["$\\foo$", "from $5 to $10"])
    ax = plots.transfer({"$x$": table}, "u")
    plots.save(ax.figure, "f", {"seed": 1}, data=table, folder=tmp_path)
    assert not any(label.get_parse_math() for label in (*ax.get_yticklabels(), *ax.get_xticklabels()))


def test_a_name_with_an_underscore_in_front_is_in_legend_and_table(tmp_path):
    two = RATES.replace({"corpus": {"c0": "_priv"}}).query("corpus in ('_priv', 'c1')")
    ax = plots.quintile_curves(two)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["_priv", "c1"]
    plots.save(ax.figure, "f", {"seed": 1}, data=two, folder=tmp_path)
    assert set(pd.read_csv(tmp_path / "f.csv")["corpus"]) == {"_priv", "c1"}


def test_a_descriptor_called_0_is_searched_for(browser):
    assert browser.search(descriptor=0, n=1).iloc[0] == pytest.approx(browser.scores["x"].loc[0].max())


def test_right_to_left_text_is_set_from_the_right(minilm, capture):
    corpus = from_list([f"שלום {i}" for i in range(12)])
    labels = pd.DataFrame({"d": [i % 2 * 1.0 for i in range(12)]}, pd.RangeIndex(12, name="text_id"))
    shown = plots.neuron_browser(
        minilm, {"x": corpus}, {"x": capture(corpus, sites="layer.0.ffn")}, {"x": labels}
    ).to_html(units=["layer.0.ffn.0"])
    before = [shown[: at.start()] for at in re.finditer("שלום", shown)]
    assert before and 'dir="auto"' in before[0]


def test_the_name_of_an_annotation_set_does_nothing_on_its_page(tmp_path):
    sets = pd.DataFrame(
        {
            "set_id": "<img src=x onerror=alert(1)>",
            "corpus": "c",
            "rank": [1, 2],
            "text_id": [0, 1],
            "text": ["a", "b"],
        }
    )
    annotation = plots.annotate(sets, tmp_path / "answers", "ada")
    assert "<img" not in annotation.to_html() and "<img" not in annotation.view()
