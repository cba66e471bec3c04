"""Treebanks as they are written elsewhere: documents, multiword and white-space tokens, other languages."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbkit import activations, salience, texts, trees
from nbkit.texts import Texts
from nbkit.trees.depths import not_trees

QUIET = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def word(i, form, upos="X", head=0, deprel="dep", feats="_", misc="_", lemma=None):
    return "\t".join(map(str, [i, form, lemma or form, upos, "_", feats, head, deprel, "_", misc]))


def sentence(text, *words, comments=()):
    return "\n".join([*comments, f"# text = {text}", *words]) + "\n\n"


def spans_of(corpus: Texts) -> list[str]:
    of = corpus.frame.set_index("text_id")["text"]
    return [of[w.text_id][w.start : w.end] for w in corpus.words.itertuples()]


# ---------------------------------------------------------------------------------------- documents

GUM = """# newdoc id = GUM_academic_art
# global.Entity = GRP-etype-infstat
# meta::author = Claire Bailey-Ross
# meta::genre = academic
# meta::title = Aesthetic = Appreciation
# newpar
# newpar_block = head (1 s)
# sent_id = GUM_academic_art-1
# s_type = frag
# text = Spanish Art:
1\tSpanish\tSpanish\tADJ\tJJ\tDegree=Pos\t2\tamod\t_\t_
2\tArt\tart\tNOUN\tNN\tNumber=Sing\t0\troot\t_\tSpaceAfter=No
3\t:\t:\tPUNCT\t:\t_\t2\tpunct\t_\t_

# sent_id = GUM_academic_art-2
# s_type = decl
# text = It isn't new.
1\tIt\tit\tPRON\tPRP\tNumber=Sing|Person=3|PronType=Prs\t4\tnsubj\t_\t_
2-3\tisn't\t_\t_\t_\t_\t_\t_\t_\t_
2\tis\tbe\tAUX\tVBZ\tMood=Ind|Number=Sing|Person=3|Tense=Pres|VerbForm=Fin\t4\tcop\t_\t_
3\tn't\tnot\tPART\tRB\tPolarity=Neg\t4\tadvmod\t_\t_
4\tnew\tnew\tADJ\tJJ\tDegree=Pos\t0\troot\t_\tSpaceAfter=No
5\t.\t.\tPUNCT\t.\t_\t4\tpunct\t_\t_

# newdoc id = GUM_fiction_moon
# meta::genre = fiction
# newpar
# sent_id = GUM_fiction_moon-1
# s_type = q
# text = Were dogs older?
1\tWere\tbe\tAUX\tVBD\tMood=Ind|Tense=Past|VerbForm=Fin\t3\tcop\t_\t_
2\tdogs\tdog\tNOUN\tNNS\tNumber=Plur\t3\tnsubj\t_\t_
3\tolder\told\tADJ\tJJR\tDegree=Cmp\t0\troot\t_\tSpaceAfter=No
4\t?\t?\tPUNCT\t.\t_\t3\tpunct\t_\t_
"""


def test_comments_of_a_document_reach_all_of_its_sentences(tmp_path):
    frame = texts.load(write(tmp_path / "en_gum-ud-dev.conllu", GUM)).frame
    assert frame["meta_genre"].tolist() == ["academic", "academic", "fiction"]
    assert frame["meta_author"].fillna("-").tolist() == ["Claire Bailey-Ross"] * 2 + ["-"]
    assert frame["meta_title"].tolist()[0] == "Aesthetic = Appreciation"
    assert frame["s_type"].tolist() == ["frag", "decl", "q"]  # comments of a sentence are its own
    assert frame["doc_id"].tolist() == ["GUM_academic_art"] * 2 + ["GUM_fiction_moon"]
    assert "par_id" not in frame


@pytest.mark.parametrize("apart", ["", "\n"])
def test_comments_before_the_first_sentence_may_stand_alone(tmp_path, apart):
    head = f"# newdoc id = d1\n# genre = news\n# source: the web\n{apart}"
    body = sentence("a", word(1, "a"), comments=["# sent_id = 1"]) + sentence("b", word(1, "b"))
    after = "# newdoc id = d2\n" + sentence("c", word(1, "c"))
    frame = texts.load(write(tmp_path / "x.conllu", head + body + after)).frame
    assert frame["genre"].fillna("-").tolist() == ["news", "news", "-"]
    assert frame["doc_id"].tolist() == ["d1", "d1", "d2"]


def test_a_document_without_an_id_ends_the_one_before(tmp_path):
    content = (
        "# newdoc id = A\n# newpar id = P\n" + sentence("one", word(1, "one"))
        + "# newdoc\n# newpar\n" + sentence("two", word(1, "two")) + sentence("three", word(1, "three"))
        + "#newdoc\n" + sentence("four", word(1, "four"))
    )  # fmt: skip
    corpus = texts.load(write(tmp_path / "x.conllu", content))
    assert corpus.frame["doc_id"].tolist() == ["A", "x#2", "x#2", "x#3"]
    assert corpus.frame["par_id"].fillna("-").tolist() == ["P", "-", "-", "-"]
    assert corpus.documents is not None
    for seed in range(8):  # no document is on both sides
        parts = corpus.split(0.5, seed, groups="doc_id")
        assert not set(parts[0].frame["doc_id"]) & set(parts[1].frame["doc_id"])


@QUIET
@given(
    st.lists(
        st.sampled_from(["sentence", "newdoc", "newdoc id = D", "newpar", "# meta::g = v", "alone"]),
        max_size=14,
    )
)
def test_a_sentence_belongs_to_the_last_document_begun(tmp_path, steps):
    lines, expected, current, n = [], [], None, 0
    for step in steps:
        if step == "sentence":
            lines.append(sentence(f"s{len(expected)}", word(1, f"s{len(expected)}")))
            expected.append(current)
        elif step == "alone":
            lines.append("\n")
        elif step.startswith("newdoc"):
            n += 1
            current = n
            lines.append(f"# {step}{n}\n" if "id" in step else "# newdoc\n")
        else:
            lines.append(f"{step if step[0] == '#' else '# ' + step}\n")
    if not expected:
        return
    corpus = texts.load(write(tmp_path / "x.conllu", "".join(lines)))
    found = corpus.frame["doc_id"].fillna("-").tolist() if "doc_id" in corpus.frame else ["-"] * len(expected)
    names = {None: "-"} | {i: f for i, f in zip(expected, found, strict=True) if i}
    assert found == [names[i] for i in expected] and len(set(names.values())) == len(names)


def test_a_sentence_without_words_is_counted(tmp_path):
    content = sentence("a", word(1, "a")) + "# sent_id = 2\n# text = lost\n\n" + sentence("b", word(1, "b"))
    assert texts.load(write(tmp_path / "x.conllu", content)).dropped == {"malformed": 1}


# ------------------------------------------------------------------------------------------ folders


def test_every_treebank_of_a_folder_is_read(tmp_path):
    for bank in ("en_ewt", "en_gum", "en_lines"):
        for split in ("train", "dev"):
            write(
                tmp_path / f"{bank}-ud-{split}.conllu",
                sentence(f"{bank} {split}", word(1, bank), word(2, split)),
            )
    train = texts.load(tmp_path, split="train")
    assert train.frame["text"].tolist() == ["en_ewt train", "en_gum train", "en_lines train"]
    assert train.frame["file"].tolist() == ["en_ewt-ud-train", "en_gum-ud-train", "en_lines-ud-train"]
    whole = texts.load(tmp_path)
    assert len(whole) == 6 and whole.frame["split"].tolist() == ["train"] * 3 + ["dev"] * 3
    assert spans_of(whole) == whole.words["form"].tolist()
    write(tmp_path / "EXTRA.CONLLU", sentence("more", word(1, "more")))
    assert len(texts.load(tmp_path)) == 7


@QUIET
@given(
    st.lists(
        st.sampled_from(["a-ud-train", "b-ud-train", "c-ud-dev", "d", "e-dev", "train"]),
        min_size=1,
        unique=True,
    )
)
def test_no_file_of_a_folder_is_left_out(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("bank")
    for name in names:
        write(folder / f"{name}.conllu", sentence(name, word(1, name)))
    assert sorted(texts.load(folder).frame["text"]) == sorted(names)
    splits = {name.rsplit("-", 1)[-1] for name in names}
    parts = [texts.load(folder, split=split) for split in splits]
    assert sorted(text for part in parts for text in part.frame["text"]) == sorted(names)


# ------------------------------------------------------------------------- tokens that are no plain words


def test_white_space_as_a_token_keeps_the_sentence(tmp_path):
    content = (
        sentence("東\u3000京", word(1, "東"), word(2, "\u3000", head=1), word(3, "京", head=1))
        + sentence("a  b", word(1, "a"), word(2, " ", head=1), word(3, "b", head=1))
        + sentence("c d", word(1, "c"), word(2, "\u3000", head=1), word(3, "d", head=1))  # not in the text
        + sentence("e", word(1, "e", misc="SpaceAfter=No"), word(2, "\u00a0", head=1))
    )
    corpus = texts.load(write(tmp_path / "x.conllu", content))
    assert corpus.dropped == {} and corpus.words["form"].tolist()[1] == "\u3000"
    assert spans_of(corpus) == ["東", "\u3000", "京", "a", " ", "b", "c", "", "d", "e", ""]
    assert (corpus.words["start"] <= corpus.words["end"]).all()


@QUIET
@given(
    st.lists(st.sampled_from(["ab", "c", "漢", " ", "\u3000", "\u00a0"]), min_size=1, max_size=8),
    st.booleans(),
)
def test_any_white_space_tokens_leave_the_others_where_they_are(tmp_path, forms, given_text):
    if not "".join(forms).strip():
        return
    lines = [word(i, form, misc="SpaceAfter=No") for i, form in enumerate(forms, start=1)]
    content = sentence("".join(forms).strip(), *lines) if given_text else "\n".join(lines) + "\n\n"
    corpus = texts.load(write(tmp_path / "x.conllu", content))
    found = spans_of(corpus)
    assert corpus.words["form"].tolist() == forms
    assert [f for f in found if f.strip()] == [f for f in forms if f.strip()]
    assert all(f in ("", form) for f, form in zip(found, forms, strict=True))


def test_words_of_a_multiword_token_are_marked(tmp_path):
    corpus = texts.load(write(tmp_path / "gum.conllu", GUM))
    marked = corpus.words[corpus.words["mwt"]]
    assert (
        marked["form"].tolist() == ["is", "n't"] and marked[["start", "end"]].drop_duplicates().shape[0] == 1
    )


# --------------------------------------------------------------------------------- sentences, end to end

HEBREW = "".join(
    sentence(
        f"{noun} {verb} בבית גדול{mark}",
        word(1, noun, "NOUN", 2, "nsubj", "Gender=Masc|Number=Plur"),
        word(2, verb, "VERB", 0, "root", "Person=3|Tense=Past|Voice=Act"),
        "3-5\tבבית\t_\t_\t_\t_\t_\t_\t_\t_",
        word(3, "ב", "ADP", 5, "case"),
        word(4, "ה_", "DET", 5, "det", "PronType=Art"),
        word(5, "בית", "NOUN", 2, "obl", "Number=Sing"),
        word(6, "גדול", "ADJ", 5, "amod", misc="SpaceAfter=No"),
        word(7, mark, "PUNCT", 2, "punct"),
        comments=[f"# sent_id = {i}"],
    )
    for i, (noun, verb, mark) in enumerate(
        (noun, verb, mark)
        for noun in ("ילדים", "כלבים", "אנשים")
        for verb in ("הלכו", "ישבו")
        for mark in ".?!"
    )
)
JAPANESE = "".join(
    sentence(
        f"{who}は{what}を見た{mark}",
        word(1, who, "PRON", 5, "nsubj", misc="SpaceAfter=No"),
        word(2, "は", "ADP", 1, "case", misc="SpaceAfter=No"),
        word(3, what, "NOUN", 5, "obj", misc="SpaceAfter=No"),
        word(4, "を", "ADP", 3, "case", misc="SpaceAfter=No"),
        word(5, "見", "VERB", 0, "root", misc="SpaceAfter=No", lemma="見る"),
        word(6, "た", "AUX", 5, "aux", misc="SpaceAfter=No"),
        word(7, mark, "PUNCT", 5, "punct", misc="SpaceAfter=No"),
        comments=[f"# sent_id = {i}"],
    )
    for i, (who, what, mark) in enumerate(
        (who, what, mark) for who in ("私", "彼", "君") for what in ("山", "海", "町") for mark in "。？！"
    )
)
GUM_LIKE = "".join(
    GUM.replace("GUM", f"GUM{i}").replace("Spanish", adjective).replace("new", noun) + "\n"
    for i, (adjective, noun) in enumerate(
        (a, n) for a in ("Old", "Greek", "Early", "Late") for n in ("new", "odd", "sad")
    )
)


@pytest.mark.parametrize(
    "name, content, without",
    [
        ("en_gum", GUM_LIKE, {"modal", "passive", "conditional"}),
        ("he_htb", HEBREW, {"negation", "modal", "conditional", "comparison", "imperative"}),
        ("ja_gsd", JAPANESE, {"first person", "past tense", "imperative", "comparison", "plural", "modal"}),
    ],
)
def test_a_small_treebank_from_file_to_units(tmp_path, minilm, name, content, without):
    folder = tmp_path / f"UD_{name}"
    folder.mkdir()
    corpus = texts.load(write(folder / f"{name}-ud-train.conllu", content).parent)
    assert set(corpus.dropped) <= {"duplicate"} and corpus.annotated
    plain = ~corpus.words["mwt"]
    assert [s for s, p in zip(spans_of(corpus), plain, strict=True) if p] == corpus.words["form"][
        plain
    ].tolist()
    gold = corpus.descriptors()
    assert not without & set(gold) and {"question", "exclamation", "quotation", "number"} <= set(gold)
    assert gold["question"].sum() > 0
    stored = activations.capture(
        minilm,
        corpus,
        sites="layer.3.hidden",
        rows="word",
        pool="mean",
        dtype="float32",
        cache=False,
        progress=False,
    )
    X, y = salience.matrix(stored, salience.properties(corpus, "upos"))
    assert np.isfinite(X).all() and {"NOUN", "ADJ" if name != "ja_gsd" else "PRON"} <= set(y)
    if corpus.words["mwt"].any():
        shared = pd.MultiIndex.from_frame(corpus.words[corpus.words["mwt"]][["text_id", "word_id"]])
        assert not y.index.isin(shared).any()  # words of a multiword token have one vector
    depth = trees.depths(corpus.words)
    assert (depth[corpus.words["head"] == 0] == 1).all()
    pooled = activations.capture(minilm, corpus, sites="layer.3.hidden", cache=False, progress=False)
    assert len(pooled.rows) == len(corpus)


@QUIET
@given(
    st.lists(
        st.lists(st.sampled_from(["ab", "漢", "שלום", "é", "हिन्दी", "🙂", '"', "#"]), min_size=1), min_size=1
    ),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.booleans(),
)
def test_treebanks_are_read_in_any_encoding_and_none_of_their_sentences_is_lost_uncounted(
    tmp_path, sentences, encoding, end, given_text, apart
):
    written = []
    for forms in sentences:
        lines = [word(i, form, head=i - 1) for i, form in enumerate(forms, start=1)]
        written.append(sentence(" ".join(forms), *lines) if given_text else "\n".join(lines) + "\n\n")
    content = "".join(written if apart else [part.rstrip("\n") + "\n" for part in written])
    path = write(tmp_path / "x.conllu", content.replace("\n", end).encode(encoding))
    corpus = texts.load(path, encoding=encoding if encoding == "utf-16-le" else None)
    kept = list(dict.fromkeys(" ".join(forms) for forms in sentences))
    assert corpus.frame["text"].tolist() == kept
    assert len(kept) + corpus.dropped.get("duplicate", 0) == len(sentences)
    assert spans_of(corpus) == corpus.words["form"].tolist()


# -------------------------------------------------------------------------------------------- bad trees


@QUIET
@given(st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=6), min_size=1, max_size=6))
def test_sentences_without_a_tree_are_found_all_at_once(heads):
    parts = [
        pd.DataFrame({"text_id": 3 * i, "word_id": np.arange(1, len(h) + 1), "head": h})
        for i, h in enumerate(heads)
    ]
    bad = set()
    for part in parts:
        try:
            trees.depths(part)
        except ValueError:
            bad.add(int(part["text_id"].iloc[0]))
    assert set(not_trees(pd.concat(parts, ignore_index=True)).tolist()) == bad


@pytest.mark.needs_data
def test_one_bad_sentence_does_not_make_cleaning_slow(shared_data):
    words = texts.load(shared_data / "ud_en_ewt", split="dev").words.copy()

    def seconds():
        start = time.perf_counter()
        found = not_trees(words)
        return time.perf_counter() - start, found

    clean, found = seconds()
    assert not len(found)
    words.loc[words.index[words["text_id"] == 7][:1], "head"] = 77
    broken, found = seconds()
    assert set(found) == {7} and broken < 10 * clean + 0.5
