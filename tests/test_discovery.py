"""Topics and discovery on corpora with planted themes, and on odd ones."""

import hashlib
import json
import re
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from nbkit import descriptors
from nbkit.descriptors.gathering import LONGEST, PASSAGES, gather, passages_of
from nbkit.descriptors.messages import Reply
from nbkit.texts import Texts

THEMES = {
    "war": "battle army soldier general siege cannon",
    "music": "album singer guitar concert melody drummer",
    "food": "soup pepper kitchen baker dough onion",
    "sea": "ship harbour sailor wave anchor lighthouse",
    "law": "court judge lawyer verdict witness trial",
    "school": "teacher pupil lesson exam classroom homework",
}
FILLER = "the of and to it that was for on with as his they be at one have this from by".split()


@cache
def vector(word):
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
    theme = next((name for name, words in THEMES.items() if word in words.split()), word)
    own, shared = np.random.default_rng(seed), np.random.default_rng(len(theme) * 7919 + sum(map(ord, theme)))
    return own.standard_normal(300) * 0.5 + shared.standard_normal(300)


class Words:
    """An encoder: the mean of word vectors; the words of a theme are near to each other."""

    name = "words"

    def __init__(self):
        self.asked = 0

    def encode(self, strings, **_):
        self.asked += len(strings)
        found = [[vector(w) for w in re.findall(r"\w+", s.lower()) if w not in FILLER] for s in strings]
        points = np.array([np.mean(v, axis=0) if v else np.ones(300) for v in found])
        return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def written(n, themes=tuple(THEMES), seed=0):
    """``n`` texts of six words of one theme and filler, and the theme of each."""
    rng = np.random.default_rng(seed)
    which = [themes[i % len(themes)] for i in range(n)]
    found = []
    for theme in which:
        words = [*rng.choice(THEMES[theme].split(), 5, replace=False), *rng.choice(FILLER, 5)]
        found.append(" ".join(rng.permutation(words)) + ".")
    return found, which


def corpora(n=300):
    one, other = written(n, ("war", "music", "food", "sea"), 1), written(n, ("sea", "law", "school"), 2)
    given_ = {"news": Texts.from_list(one[0], "news"), "letters": Texts.from_list(other[0], "letters")}
    return given_, {"news": np.array(one[1]), "letters": np.array(other[1])}


def test_planted_themes_are_found_and_named_by_their_words():
    given_, themes = corpora()
    found = descriptors.topics(given_, grains=[6], encoder=Words())
    assert len(found.frame) == 6 and found.members.sum(1).tolist() == [1] * 600
    gold = np.r_[themes["news"], themes["letters"]]
    assert adjusted_rand_score(gold, found.members.argmax(1)) > 0.95
    for i, line in enumerate(found.frame.itertuples()):
        theme = max(set(gold), key=lambda t: found.members[gold == t, i].sum())
        assert set(line.descriptor.split(" / ")) <= set(THEMES[theme].split())
        assert set(line.words[:5]) <= set(THEMES[theme].split()) and line.n_texts == found.members[:, i].sum()
        assert all(set(THEMES[theme].split()) & set(re.findall(r"\w+", text)) for text in line.typical)
    again = descriptors.topics(given_, grains=[6], encoder=Words())
    assert again.frame.equals(found.frame)


def test_texts_that_are_not_english_have_no_english_stop_words():
    said = "der die und das ist nicht ein eine mit auf".split()
    rng = np.random.default_rng(0)
    german = [f"{' '.join(rng.choice(said, 6))} {text}" for text in written(200)[0]]
    german = [" ".join(w for w in text.split() if w.strip(".") not in FILLER) for text in german]
    found = descriptors.topics(Texts.from_list(german), grains=[6], encoder=Words())
    assert any("not English" in note for note in found.notes)
    assert not {w for words in found.frame["words"] for w in words} & set(said)
    chinese = [["军队在战斗", "汤里有洋葱"][i % 2] + "很好吃了"[i % 4] for i in range(40)]
    found = descriptors.topics(Texts.from_list(chinese), grains=[2], encoder=Words())
    assert any("without spaces" in note for note in found.notes)
    assert all(len(part) in (2, 3) for name in found.frame["descriptor"] for part in name.split(" / "))


def test_odd_corpora_are_read_and_what_was_done_is_told():
    themes = written(60)[0]
    long = "\n".join(written(500, ("law",))[0] + written(10, ("music",), 3)[0])
    odd = Texts.from_list([*themes, "", "  \n", themes[0], themes[1], long])
    found = descriptors.discover(odd, encoder=Words(), grains=[6])
    told = " ".join(found.notes)
    for what in ("2 empty texts", "passages are repeated", "1 long texts", f"{PASSAGES} were read"):
        assert what in told
    labels = found.labels["texts"]
    assert len(labels) == 63 and not {60, 61} & set(labels.index)  # empty is not absent
    assert labels.loc[0].equals(labels.loc[0]) and labels.loc[[0, 62]].notna().all(axis=None)
    of_law = [d for d in labels if set(d.split(" / ")) <= set(THEMES["law"].split())]
    assert labels.loc[64, of_law].max() > 0.5  # read in passages, it has what one of them has
    with pytest.raises(ValueError, match="every text is empty"):
        descriptors.discover(Texts.from_list(["", " "]), encoder=Words())
    with pytest.raises(ValueError, match="too few: no descriptor"):
        descriptors.discover(Texts.from_list(themes[:5]), encoder=Words())


def test_a_large_corpus_is_sampled_and_that_is_told():
    given_, _ = corpora(400)
    found = gather(given_, limit=100, encoder=Words())
    assert len(found.texts) == 200 and len(found.vectors) == 200
    assert "news: 100 of 400 texts read, a sample over text lengths" in found.notes


@given(
    st.lists(st.text(min_size=1, max_size=400), min_size=1, max_size=30),
    st.sampled_from([" ", ". ", "\n", "。", ""]),
)
def test_passages_hold_all_of_a_text_and_are_short(parts, between):
    text = between.join(parts)
    found = passages_of(text)
    assert all(len(passage) <= LONGEST for passage in found) and 1 <= len(found) <= PASSAGES
    if len(found) < PASSAGES:
        assert "".join("".join(found).split()) == "".join(text.split())


def test_discovery_labels_every_text_of_all_corpora_with_one_vocabulary():
    given_, themes = corpora()
    found = descriptors.discover(given_, encoder=Words(), grains=[6, 7, 12])
    assert found.dropped["same meaning"] + found.dropped["same labels"] >= 6  # the grains find them again
    for name, labels in found.labels.items():
        assert labels.index.tolist() == list(range(300)) and list(labels) == found.descriptors.names
        for theme in set(themes[name]):
            y = themes[name] == theme
            assert max(roc_auc_score(y, labels[d]) for d in labels) > 0.99
    shares = found.table.pivot(index="descriptor", columns="corpus", values="share")
    sea = [d for d in shares.index if set(d.split(" / ")) <= set(THEMES["sea"].split())]
    assert shares.loc[sea, "news"].max() == pytest.approx(0.25, abs=0.02)
    assert shares.loc[sea, "letters"].max() == pytest.approx(1 / 3, abs=0.02)
    first = found.table.iloc[0]
    assert first["origin"] == "topics" and len(first["typical"]) == 3
    assert found.table["n_texts"].sum() == pytest.approx(
        sum(f.to_numpy().sum() for f in found.labels.values()), abs=2
    )


class Namer:
    """A generator that names the theme of a text, and of some texts a word that no other text has."""

    name, provenance = "namer", "a rule"

    def complete_all(self, requests):
        texts = [set(re.findall(r"\w+", r[-1]["content"])) for r in requests]
        names = [[t for t in THEMES if set(THEMES[t].split()) & words] for words in texts]
        return [Reply(json.dumps([*some, f"word{i}"])) for i, some in enumerate(names)]

    def complete(self, messages):
        return self.complete_all([messages])[0]


def test_what_a_generator_proposed_for_some_texts_is_found_in_all():
    given_, themes = corpora()

    class Named(Words):
        def encode(self, strings, **_):
            return super().encode([THEMES.get(s, s) for s in strings])

    found = descriptors.discover(given_, Namer(), n=40, encoder=Named())
    assert set(found.descriptors.names) >= set(THEMES) and set(found.table["origin"]) == {"namer"}
    assert not [d for d in found.descriptors.names if d.startswith("word")]
    labels = found.labels["letters"]
    assert len(labels) == 300 and roc_auc_score(themes["letters"] == "law", labels["law"]) > 0.95
    both = descriptors.discover(given_, ["topics", Namer()], n=40, encoder=Named(), grains=[6])
    assert both.dropped["same labels"] + both.dropped["same meaning"] >= 4  # a topic and a name of one theme
    assert "namer, topics" in set(both.table["origin"])


class ClusterNamer(Namer):
    """Names the theme of a group; every group of "sea" is called "war", and "law" has no name."""

    name = "cluster namer"

    def complete_all(self, requests):
        replies = []
        for request in requests:
            group, others = request[-1]["content"].split("Neighbours:")
            assert group.count("\n- ") == 10 and others.count("\n- ") == 5
            counts = {t: sum(group.count(w) for w in words.split()) for t, words in THEMES.items()}
            theme = max(counts, key=counts.get)
            replies.append(
                Reply(None, "empty")
                if theme == "law"
                else Reply(json.dumps([{"sea": "war"}.get(theme, theme)]))
            )
        return replies


def test_a_language_model_names_clusters_where_its_names_tell_them_apart():
    given_, _ = corpora()

    class Named(Words):
        def encode(self, strings, **_):
            return super().encode([THEMES.get(s, s) for s in strings])

    found = descriptors.discover(given_, namer=ClusterNamer(), grains=[6], encoder=Named())
    assert {"war", "music", "food", "school"} <= set(found.descriptors.names)
    for theme in ("sea", "law"):  # these are named by their words
        assert any(set(d.split(" / ")) <= set(THEMES[theme].split()) for d in found.descriptors.names)
    note = found.notes[-1]
    assert note.startswith(
        "cluster namer named 4 of 6 clusters; 1 of its names fit another cluster better, 1 rep"
    )


def test_rare_and_common_descriptors_are_left_out_and_counted():
    given_, _ = corpora()
    found = descriptors.discover(given_, encoder=Words(), grains=[6], shares=(0.3, 0.6))
    assert found.dropped["in under 30% of each corpus"] >= 1
    assert (found.table.groupby("descriptor")["share"].max() >= 0.3).all()
    with pytest.raises(ValueError, match="no descriptor is left"):
        descriptors.discover(given_, encoder=Words(), grains=[6], shares=(0.01, 0.02))


def test_edits_by_hand_survive_a_second_run_which_computes_nothing(tmp_path):
    given_, _ = corpora()
    options = {"grains": [6], "folder": tmp_path}
    first = descriptors.discover(given_, encoder=Words(), **options)
    a, b, c, d = first.descriptors.names[:4]
    editor = descriptors.Editor(first.descriptors, tmp_path / "edits.json")
    editor.join(b, a), editor.rename(a, "both"), editor.drop(c)
    again = descriptors.discover(given_, encoder=(encoder := Words()), **options)
    assert encoder.asked == 0
    assert not {a, b, c} & set(again.labels["news"]) and {"both", d} <= set(again.labels["news"])
    assert again.descriptors.names == first.descriptors.names  # what the editor starts from
    for name in given_:
        larger = first.labels[name][[a, b]].max(axis=1)
        assert np.allclose(again.labels[name]["both"], larger) and again.labels[name][d].equals(
            first.labels[name][d]
        )
    assert list(again.table["descriptor"].unique()) == list(again.labels["news"])
    other = descriptors.discover(given_, encoder=(encoder := Words()), seed=1, **options)
    assert encoder.asked > 0  # other arguments
    (tmp_path / "edits.json").write_text(json.dumps({"drop": ["nothing like it", d]}), encoding="utf-8")
    other = descriptors.discover(given_, encoder=Words(), seed=1, **options)
    assert any("1 edits by hand name descriptors" in note for note in other.notes)
    assert d not in other.labels["news"]
