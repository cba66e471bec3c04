"""Proposals, merging and labels on known cases."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbkit import descriptors, evaluation, plots, texts
from nbkit.descriptors import generators, labels, replies
from nbkit.descriptors import proposals as proposing
from nbkit.descriptors.messages import request_key
from nbkit.texts import Texts


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('["Food", "price "]', ["food", "price"]),
        ('Sure! Here you go:\n```json\n["food", "price"]\n```', ["food", "price"]),
        ("- food\n- price\n", ["food", "price"]),
        ("1. food\n2) price", ["food", "price"]),
        ("food, price, food", ["food", "price"]),
        ('["food", "this is a whole sentence about the food"]', ["food"]),
        ("", None),
        ("[]", None),
        ("   \n ", None),
        ("The text describes a long and winding road that leads nowhere at all", None),
    ],
)
def test_replies_are_read_or_absent(reply, expected):
    assert replies.read_reply(reply) == expected


def plain(word):
    """A word that is none of those for "none" and "sure"."""
    return word.lower() not in replies.NONE and not replies.PREAMBLE.match(word.lower())


WORDS = st.text(st.characters(categories=["Ll"]), min_size=1, max_size=9).filter(plain)


@settings(deadline=None)
@given(st.lists(WORDS, min_size=1, unique=True))
def test_a_json_list_of_words_survives_reading(words):
    expected = list(dict.fromkeys(w.lower() for w in words))
    assert replies.read_reply(json.dumps(words)) == expected[: replies.MOST]


class Scripted:
    """A generator that answers from a list."""

    def __init__(self, replies, name="scripted"):
        self.name, self.provenance, self.replies, self.asked = name, "a script", replies, []

    def complete_all(self, requests):
        self.asked = list(requests)
        return self.replies


def test_the_union_of_generators_with_every_loss_counted():
    corpus = Texts.from_list(["one", "two", "three"])
    first = Scripted(
        [generators.Reply('["a", "b"]'), generators.Reply(None, "timed out"), generators.Reply("[]")], "first"
    )
    second = Scripted([generators.Reply("b"), generators.Reply("c"), generators.Reply("d")], "second")
    found = descriptors.propose(corpus, [first, second])
    assert found.values.tolist() == [
        [0, "first", "a"], [0, "first", "b"], [0, "second", "b"], [1, "second", "c"], [2, "second", "d"],
    ]  # fmt: skip
    assert found.attrs["dropped"] == {
        "first": {"requests": 3, "timed out": 1, "unparsable": 1},
        "second": {"requests": 3},
    }


def test_every_request_has_the_task_a_worked_example_and_the_text():
    corpus = Texts.from_list(["one", "two"])
    generator = Scripted([generators.Reply("a"), generators.Reply("a")])
    prompt = descriptors.Prompt(steer="Think of buyers.", examples=[("three", ["example"])])
    descriptors.propose(corpus, generator, prompt=prompt, seed=4)
    for messages, text in zip(generator.asked, ["one", "two"], strict=True):
        assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
        assert messages[0]["content"].endswith("Think of buyers.")
        assert messages[2]["content"] == '["example"]' and messages[-1]["content"] == text


def test_the_shipped_prompt_shows_three_examples_that_read_as_they_are_written():
    prompt = descriptors.Prompt()
    messages = prompt.messages("The train was late.")
    assert [m["role"] for m in messages] == ["system", *["user", "assistant"] * 3, "user"]
    for turn, (text, shown) in zip(range(1, 7, 2), prompt.examples, strict=True):
        assert messages[turn]["content"] == text
        assert replies.read_reply(messages[turn + 1]["content"]) == list(shown)
    itself = prompt.messages(prompt.examples[1][0])  # an example is not asked about itself
    assert [m["content"] for m in itself].count(prompt.examples[1][0]) == 1 and len(itself) == 6
    known = {text for name in ("reviews", "questions", "encyclopedia", "fiction")
             for text in texts.load(f"sample:{name}").frame["text"]}  # fmt: skip
    assert not known & {text for text, _ in prompt.examples}


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 30), st.integers(0, 9), st.sets(st.integers(0, 29)))
def test_a_texts_request_depends_on_nothing_but_the_text(n, seed, lost):
    """Not on the sample's size or seed, nor on what failed: else every change would pay everything again."""
    corpus = Texts.from_list([f"text {i} " + "x" * (i % 7) for i in range(30)])
    alone = {request_key(descriptors.Prompt().messages(t)) for t in corpus.frame["text"]}
    fails = generators.Reply(None, "timed out")
    script = Scripted([fails if i in lost else generators.Reply('["a"]') for i in range(n)])
    found = descriptors.propose(corpus, script, n=n, seed=seed)
    assert len(script.asked) == n and {request_key(m) for m in script.asked} <= alone
    assert found.attrs["dropped"]["scripted"].get("timed out", 0) == sum(i < n for i in lost)


def proposals(**said):
    lines = [(i, "hand", d) for d, ids in said.items() for i in ids]
    return pd.DataFrame(lines, columns=["text_id", "generator", "descriptor"])


class Axes:
    """An encoder in which phrases with the same first letter are the same."""

    def encode(self, strings, **_):
        return np.eye(26, dtype=np.float32)[[ord(s[0]) - 97 for s in strings]]


def test_near_duplicates_become_one_named_by_the_one_in_the_middle():
    found = descriptors.merge(
        proposals(cat=[0, 1, 2], cats=[2, 3], dog=[0, 5], owl=[9]), min_texts=2, encoder=Axes()
    )
    assert found.frame.values.tolist() == [["cat", 4, ["cat", "cats"]], ["dog", 2, ["dog"]]]
    assert found.dropped == 1
    assert found.mapping() == {"cat": "cat", "cats": "cat", "dog": "dog"}


def test_the_real_encoder_merges_a_plural_and_keeps_topics_apart():
    said = {"cat": [0, 1], "cats": [2], "train journey": [3], "weather": [4]}
    found = descriptors.merge(proposals(**said), min_texts=1)
    assert sorted(map(sorted, found.frame["members"])) == [["cat", "cats"], ["train journey"], ["weather"]]


def test_labels_from_proposals():
    corpus = Texts.from_list(["one", "two", "three", "four"])
    said = proposals(cat=[0], cats=[1], dog=[1])
    merged = descriptors.merge(said, min_texts=1, encoder=Axes())
    labels = descriptors.label(corpus, merged, proposals=said)
    assert labels.loc[:, ["cat", "dog"]].values.tolist() == [[1, 0], [1, 1]]
    assert labels.attrs["dropped"] == {"texts without an answer": 2}
    said.attrs["texts"] = [0, 1, 3]  # the last was answered: it has neither
    assert descriptors.label(corpus, merged, proposals=said).loc[3].tolist() == [0, 0]
    with pytest.raises(ValueError, match="about no text of 'texts'"):
        descriptors.label(corpus, merged, proposals=proposals(cat=[9]))


class WordWriter:
    """Names "elizabeth" where a text has the word, else "other"; every tenth reply is lost."""

    name, provenance, asked = "writer", "a rule", 0

    def complete_all(self, requests):
        self.asked += len(requests)
        words = ["elizabeth" if "Elizabeth" in r[-1]["content"] else "other" for r in requests]
        lost = generators.Reply(None, "timed out")
        return [lost if i % 10 == 9 else generators.Reply(json.dumps([w])) for i, w in enumerate(words)]

    def complete(self, messages):
        return self.complete_all([messages])[0]


def test_a_text_that_was_not_asked_about_is_not_labelled_absent():
    """300 of 2,000 texts are asked. A unit that fires exactly on the word has r 1 there; zeros for the other
    texts would make it about .4, the share of the word's texts that were asked about."""
    corpus = Texts.from_list(
        [f"{'Elizabeth' if i % 35 == 0 else 'Somebody'} came, {i}." for i in range(2000)]
    )
    unit = np.array(["Elizabeth" in text for text in corpus.frame["text"]], float)
    said = descriptors.propose(corpus, writer := WordWriter(), n=300, seed=1)
    merged = descriptors.merge(said, min_texts=3)
    labels = descriptors.label(corpus, merged, proposals=said)
    assert writer.asked == 300 and len(labels) == 270  # the lost replies are no zeros either
    assert set(labels.index) == set(said["text_id"])
    assert labels.attrs["dropped"] == {"texts without an answer": 1730}
    assert np.corrcoef(unit[labels.index], labels["elizabeth"])[0, 1] == pytest.approx(1)
    zeros = labels["elizabeth"].reindex(corpus.frame["text_id"], fill_value=0)
    assert np.corrcoef(unit, zeros)[0, 1] < 0.5


def test_labels_by_similarity_are_probabilities_that_tell_topics_apart():
    corpus = texts.load("sample:reviews")
    said = descriptors.propose(corpus.sample(200, seed=0), "recorded:sample")
    merged = descriptors.merge(said, min_texts=10)
    labels = descriptors.label(corpus, merged, "similarity", proposals=said)
    assert labels.shape == (len(corpus), len(merged)) and labels.attrs["encoder"] == "minilm"
    assert labels.to_numpy().min() >= 0 and labels.to_numpy().max() <= 1
    unread = ~corpus.frame["text_id"].isin(said["text_id"]).to_numpy()
    food = corpus.descriptors("written")["food"].to_numpy()[unread] == 1
    found = labels["food"].to_numpy()[unread]
    assert found[food].mean() > 3 * found[~food].mean()


def test_nothing_to_merge_is_said():
    with pytest.raises(ValueError, match="every reply was lost"):
        descriptors.merge(proposals())
    with pytest.raises(ValueError, match="no descriptor is in 50 texts .the most is 3"):
        descriptors.merge(proposals(cat=[0, 1, 2]), min_texts=50, encoder=Axes())
    with pytest.raises(ValueError, match="method='magic'"):
        descriptors.label(
            Texts.from_list(["a"]), descriptors.Descriptors(pd.DataFrame(), 0), "magic", proposals=proposals()
        )


# ---------------------------------------------------------------------------------- by hand, asked, compared


MERGED = descriptors.Descriptors(
    pd.DataFrame(
        {
            "descriptor": ["price", "cost", "mood"],
            "n_texts": [9, 4, 2],
            "members": [["price"], ["cost"], ["mood"]],
        }
    ),
    0,
)


def test_edits_join_drop_and_rename_and_are_read_by_later_runs(tmp_path):
    edits = {"join": {"cost": "price"}, "drop": ["mood"], "rename": {"price": "money"}}
    edited = MERGED.edited(edits)
    assert edited.frame.values.tolist() == [["money", 13, ["price", "cost"]]] and edited.dropped == 1
    assert edited.mapping() == {"price": "money", "cost": "money"}
    toy = pd.DataFrame(
        {"text_id": range(4), "generator": "g", "descriptor": ["cat", "cats", "train", "train"]}
    )
    path = tmp_path / "edits.json"
    assert descriptors.merge(toy, min_texts=1, edits=path).names == ["cat", "train"]
    path.write_text(json.dumps({"rename": {"cat": "felines"}}), encoding="utf-8")
    assert descriptors.merge(toy, min_texts=1, edits=path).names == ["felines", "train"]
    with pytest.raises(ValueError, match="edits name 'dog', which is no descriptor"):
        MERGED.edited({"drop": ["dog"]})
    with pytest.raises(ValueError, match="make two descriptors 'mood'"):
        MERGED.edited({"rename": {"price": "mood"}})


def test_the_editor_saves_every_change_and_refuses_bad_ones(tmp_path):
    path = tmp_path / "edits.json"
    editor = plots.descriptor_editor(MERGED, path)
    editor.rename("price", "money")
    editor.join("cost", "money")
    editor.drop("mood")
    assert (
        editor.result.names == ["money"] and "stands for" in editor.view() and "<b>" not in editor.to_html()
    )
    again = plots.descriptor_editor(MERGED, path)  # another session, or a killed kernel
    assert again.result.frame.equals(editor.result.frame)
    with pytest.raises(ValueError, match="no descriptor here"):
        again.drop("nothing")
    assert json.loads(path.read_text(encoding="utf-8")) == editor.edits and not list(tmp_path.glob("*.part"))
    box, page = again.widget().children
    press = {button.description: button for button in box.children[3].children}
    press["undo all"].click()
    assert again.result is MERGED and len(box.children[0].options) == 3
    box.children[0].value, box.children[1].value = "price", "mood"
    press["rename"].click()
    assert "make two descriptors" in page.value  # said, and nothing saved
    assert again.result is MERGED


def refuses(edits, match):
    with pytest.raises(ValueError, match=match):
        MERGED.edited(edits)


def test_edits_that_cannot_be_are_named():
    refuses({"jion": {"price": "cost"}}, "unknown edit 'jion'")
    refuses({"join": ["price", "cost"]}, "'join' is .* must be a dict")
    refuses({"drop": "mood"}, "'drop' is 'mood'.* must be a list")
    refuses({"join": {"price": "cost", "cost": "price"}}, "circle: price -> cost -> price")
    refuses({"join": {"price": "price"}}, "circle: price -> price")
    refuses({"join": {"cost": "price"}, "drop": ["cost"]}, "both join and drop 'cost'")
    refuses({"rename": {"price": "  "}}, "rename 'price' to '  '.* not be empty")
    refuses({"rename": {"price": None}}, "not be empty")
    refuses({"drop": ["mood", ["price"]]}, r"name \['price'\], which is no descriptor")
    refuses({"join": {"price": ["cost"]}}, r"name \['cost'\], which is no descriptor")
    refuses({"drop": [None]}, "name None, which is no descriptor")
    refuses({"rename": {"price": " cost\n"}}, "two descriptors 'cost'")
    refuses({"join": None}, "'join' is None: it must be a dict")
    refuses([{"drop": ["mood"]}], "must be a dict of join, drop, rename")
    refuses("drop", "the edits are 'drop'")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "cannot be read as edits"), (b"[]", "holds no edits"), (b"null", "holds no edits"),
        (b'{"drop": ["price"', "cannot be read"), (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "cannot be read"), (b'{"drop": ["price"]}\x00', "cannot be read"),
        (b'{"join": {"price": NaN}}', "name nan, which is no descriptor"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_edits_is_named_and_left_as_it_is(tmp_path, data, match):
    path = tmp_path / "e.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=match):
        descriptors.Editor(MERGED, path)
    assert path.read_bytes() == data


def test_edits_saved_by_an_editor_that_adds_a_byte_order_mark_are_read(tmp_path):
    (tmp_path / "e.json").write_bytes(b'\xef\xbb\xbf{"drop": ["price"]}')
    assert "price" not in descriptors.Editor(MERGED, tmp_path / "e.json").result.names


@settings(deadline=None, max_examples=50)
@given(st.permutations(list("abcdef")), st.lists(st.integers(0, 5), min_size=5, max_size=5), st.randoms())
def test_joins_give_the_same_in_any_order_and_lose_no_member(names, parents, random):
    """Any forest of joins: each name joins one that stands before it in ``names``."""
    join = {names[i + 1]: names[parent % (i + 1)] for i, parent in enumerate(parents) if parent < 5}
    frame = pd.DataFrame({"descriptor": list("abcdef"), "n_texts": range(6, 0, -1)})
    merged = descriptors.Descriptors(frame.assign(members=[[n] for n in "abcdef"]), 0)
    shuffled = list(join.items())
    random.shuffle(shuffled)
    one, other = merged.edited({"join": join}), merged.edited({"join": dict(shuffled)})
    assert [sorted(m) for m in one.frame["members"]] == [sorted(m) for m in other.frame["members"]]
    assert sorted(sum(one.frame["members"], [])) == list("abcdef") and one.frame["n_texts"].sum() == 21
    assert set(one.names) == set("abcdef") - set(join)


@pytest.mark.parametrize("button", ["rename", "join", "drop"])
def test_a_click_without_a_choice_changes_nothing(tmp_path, button):
    editor = plots.descriptor_editor(MERGED, tmp_path / "edits.json")
    box, page = editor.widget().children
    {b.description: b for b in box.children[3].children}[button].click()
    assert editor.result is MERGED and not (tmp_path / "edits.json").exists()
    assert "choose" in page.value or "empty" in page.value


def test_two_editors_of_one_file_add_up_and_do_not_overwrite_one_another(tmp_path):
    path = tmp_path / "edits.json"
    one, other = descriptors.Editor(MERGED, path), descriptors.Editor(MERGED, path)
    one.drop("mood")
    other.rename("cost", "costs")
    assert json.loads(path.read_text(encoding="utf-8"))["drop"] == ["mood"]
    assert other.result.names == ["price", "costs"]
    with pytest.raises(ValueError, match="'cost' was renamed to 'costs' meanwhile"):
        one.rename("cost", "prices")
    assert one.result.names == ["price", "costs"]  # it has read the file
    one.join("costs", "price")
    with pytest.raises(ValueError, match="'costs' was joined or dropped meanwhile"):
        other.drop("costs")
    assert other.result.names == ["price"] and len(list(tmp_path.glob("*.json"))) == 1


def test_an_editor_refuses_what_cannot_be_done_and_saves_nothing(tmp_path):
    editor = descriptors.Editor(MERGED, tmp_path / "edits.json")
    for change, match in [
        (lambda: editor.rename("price", " "), "empty"),
        (lambda: editor.join("price", "price"), "itself"),
        (lambda: editor.drop("nothing"), "no descriptor here"),
    ]:
        with pytest.raises(ValueError, match=match):
            change()
    assert not (tmp_path / "edits.json").exists()
    editor.rename("price", "money")
    editor.rename("money", "cash")
    editor.join("cost", "cash")
    editor.drop("cash")
    assert editor.result.names == ["mood"] and descriptors.Editor(MERGED, editor.path).result.names == [
        "mood"
    ]
    editor.undo()
    assert editor.result.names == MERGED.names
    editor.path.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="edits.json cannot be read as edits"):
        editor.drop("mood")


def test_edits_are_utf8_in_any_locale(tmp_path, monkeypatch):
    """An editor under a locale of another encoding; 'price' becomes a name that latin-1 cannot write."""
    path = tmp_path / "edits.json"
    for method in ("read_text", "write_text"):
        plain = getattr(Path, method)
        monkeypatch.setattr(
            Path, method, lambda *a, _plain=plain, **k: _plain(*a, **{"encoding": "ascii"} | k)
        )
    descriptors.Editor(MERGED, path).rename("price", "цена")
    assert "цена" in path.read_bytes().decode("utf-8")
    assert descriptors.Editor(MERGED, path).result.names[0] == "цена"


@pytest.mark.parametrize("threshold", [0.75, 0.999999, 1.0, 1.5])
def test_no_proposal_is_lost_at_any_threshold(threshold):
    """A unit vector's product with itself rounds below 1 for many vectors."""

    class Rounded:
        def encode(self, names, **_):
            points = np.random.default_rng(0).standard_normal((len(names), 384)).astype(np.float32)
            return points / np.linalg.norm(points, axis=1, keepdims=True)

    names = [f"d{i:03}" for i in range(600)]
    toy = pd.DataFrame({"text_id": range(600), "generator": "g", "descriptor": names})
    merged = descriptors.merge(toy, min_texts=1, threshold=threshold, encoder=Rounded())
    assert sorted(sum(merged.frame["members"], [])) == names


@pytest.mark.parametrize("odd", [0, None, float("nan"), " ", ["cat"]])
def test_a_proposal_that_is_no_string_is_named(odd):
    toy = pd.DataFrame({"text_id": [0, 1], "generator": "g", "descriptor": ["cat", odd]})
    with pytest.raises(ValueError, match="among the proposals is no descriptor"):
        descriptors.merge(toy, min_texts=1, encoder=Axes())


def test_a_minimum_size_of_communities():
    toy = pd.DataFrame({"text_id": range(3), "generator": "g", "descriptor": ["cat", "cats", "train"]})
    assert descriptors.merge(toy, min_texts=1, min_size=2).names == ["cat"]
    with pytest.raises(ValueError, match="no community has 3 wordings"):
        descriptors.merge(toy, min_texts=1, min_size=3)


class Scattered:
    """An encoder that puts the string of a number somewhere on a sphere."""

    def encode(self, names, **_):
        points = np.array([np.random.default_rng(int(name)).standard_normal(3) for name in names])
        return points / np.linalg.norm(points, axis=1, keepdims=True)


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=150, unique=True),
    st.sampled_from([0.3, 0.6, 0.75, 0.9, 0.99]),
    st.integers(0, 99),
)
def test_members_are_near_their_name_and_nearer_to_none_other(numbers, threshold, seed):
    """One round of communities leaves names near one another, and members nearer to another name."""
    names = [str(number) for number in numbers]
    times = np.random.default_rng(seed).integers(1, 9, len(names))
    toy = proposals(**{name: range(n) for name, n in zip(names, times, strict=True)})
    merged = descriptors.merge(toy, min_texts=1, threshold=threshold, encoder=Scattered())
    points = Scattered().encode(merged.names)
    assert (points @ points.T - 2 * np.eye(len(points))).max() < threshold
    worst = 1.0
    for i, members in enumerate(merged.frame["members"]):
        cosine = Scattered().encode(members) @ points.T
        assert (cosine.argmax(1) == i).all() and cosine[:, i].min() >= threshold
        worst = min(worst, cosine[:, i].min())
    assert merged.worst == pytest.approx(worst)
    assert sorted(sum(merged.frame["members"], [])) == sorted(names)  # nobody is lost


def test_the_name_is_the_medoid():
    """Of equally frequent wordings on an arc the middle one is the name; of unequal ones the heavy one's."""

    class Arc:
        def encode(self, strings, **_):
            angle = np.radians([float(s) for s in strings])
            return np.stack([np.cos(angle), np.sin(angle)], axis=1)

    said = {"0": [0], "10": [1], "20": [2], "30": [3], "40": [4], "100": [5]}
    found = descriptors.merge(proposals(**said), min_texts=1, threshold=0.9, encoder=Arc())
    assert found.names == ["20", "100"] and found.worst == pytest.approx(np.cos(np.radians(20)))
    found = descriptors.merge(proposals(**said | {"30": range(9)}), min_texts=1, threshold=0.7, encoder=Arc())
    assert found.names == ["30", "100"]


def test_a_stratified_sample_is_in_proportion():
    corpus = Texts.from_list([f"text {i} " + "x" * (i % 50) for i in range(300)])
    kind = np.where(np.arange(300) < 240, "a", "b")
    corpus = replace(corpus, frame=corpus.frame.assign(kind=kind))
    for n in (20, 75, 150):
        some = proposing.stratified(corpus, n, groups="kind", seed=1)
        assert len(some) == n and abs((some.frame["kind"] == "b").sum() - n / 5) <= 1
    lengths = proposing.stratified(corpus, 50, seed=0).frame["text"].str.len()
    edges = corpus.frame["text"].str.len().quantile([0.2, 0.4, 0.6, 0.8])
    assert (np.bincount(np.searchsorted(edges, lengths), minlength=5) >= 6).all()
    assert len(proposing.stratified(corpus, 1000)) == 300
    with pytest.raises(ValueError, match="no column 'mood'"):
        proposing.stratified(corpus, 5, groups="mood")


@pytest.mark.parametrize("missing", [np.nan, None, pd.NA])
def test_texts_without_a_value_are_drawn_like_any_group(missing):
    corpus = Texts.from_list([f"text {i}" for i in range(40)])
    kind = pd.Series([missing if i % 2 else "x" for i in range(40)], dtype=object)
    corpus = replace(corpus, frame=corpus.frame.assign(kind=kind))
    for seed in range(5):
        drawn = proposing.stratified(corpus, 10, groups="kind", seed=seed)
        assert drawn.frame["kind"].isna().sum() == 5


def test_two_columns_of_one_name_are_named():
    a = pd.DataFrame(np.eye(3), columns=["x", "y", "x"])
    with pytest.raises(ValueError, match="labels 'a' have two columns 'x'"):
        descriptors.agreement({"a": a, "b": a.iloc[:, :2]})
    twice = descriptors.Descriptors(pd.concat([MERGED.frame, MERGED.frame.head(1)]), 0)
    with pytest.raises(ValueError, match="two descriptors are named 'price'"):
        descriptors.label(Texts.from_list(["a"]), twice, proposals=proposals(price=[0]))


def test_propose_asks_about_the_sample_only():
    corpus = Texts.from_list([f"text number {i}" for i in range(40)])
    script = Scripted([generators.Reply('["a"]')] * 10)
    found = descriptors.propose(corpus, script, n=10, seed=3)
    assert len(script.asked) == 10 and found.attrs["texts"] == found["text_id"].tolist()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('{"a": 0.5, "b": 1}', [0.5, 1.0]),
        ('Here: {"a": "yes", "b": "No"}', [1.0, 0.0]),
        ('{"a": true, "b": false}', [1.0, 0.0]),
        ('{"a": 0.5}', None),
        ('{"a": 2, "b": 0}', None),
        ('["a"]', None),
        ('{"a": 0.1, "b": }', None),
    ],
)
def test_answers_are_read_or_absent(reply, expected):
    assert replies.read_answer(reply, ["a", "b"]) == expected


def test_asked_labels_leave_out_texts_without_all_answers_and_count_them():
    corpus = Texts.from_list(["one", "two", "three"])
    replies = [
        '{"price": 1, "cost": 0.2}',
        '{"mood": 0}',
        None,
        '{"mood": 1}',
        '{"price": 0, "cost": 0}',
        '{"mood": 0.7}',
    ]
    script = Scripted([generators.Reply(r, "" if r else "timed out") for r in replies])
    found = descriptors.label(corpus, MERGED, "asked", generator=script, question=labels.Question(at_once=2))
    assert found.index.tolist() == [0, 2] and found.loc[2].tolist() == [0.0, 0.0, 0.7]
    assert found.attrs["dropped"] == {"requests": 6, "timed out": 1, "texts without all answers": 1}
    assert script.asked[0].schema["required"] == ["price", "cost"] and "two" in script.asked[2][-1]["content"]
    for method in ("asked", "proposals"):
        with pytest.raises(ValueError, match=f"method=.{method}. needs"):
            descriptors.label(corpus, MERGED, method)


def test_agreement_beside_chance():
    rng = np.random.default_rng(0)
    a = pd.DataFrame((rng.random((400, 3)) < 0.3).astype(float), columns=list("xyz"))
    b = a.where(rng.random((400, 3)) < 0.9, 1 - a)
    (line,) = descriptors.agreement({"a": a, "b": b.iloc[:350]}).to_dict("records")
    assert line["texts"] == 350 and line["descriptors"] == 3
    assert 0.6 < line["kappa"] < 0.95 and 0.6 < line["correlation"] < 0.95 and abs(line["shuffled"]) < 0.1
    with pytest.raises(ValueError, match="share no text"):
        descriptors.agreement({"a": a, "b": b.rename(columns=str.upper)})


def test_known_descriptors_are_recovered_by_meaning():
    known = pd.Series({"cats": 30.0, "railway journeys": 5.0, "quantum physics": 65.0})
    found = evaluation.recovered(["cat", "train journey", "kitten", "a cat"], known)
    assert found.table["found"].tolist() == [True, True, False] and found.mass == pytest.approx(0.35)
    assert found.recall.value == pytest.approx(2 / 3) and found.distinct < 1
    with pytest.raises(ValueError, match="0 descriptors found"):
        evaluation.recovered([], known)
