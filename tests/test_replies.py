"""Replies of every form are read or refused, never guessed; reading is safe and linear."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbkit.descriptors.replies import COMMAS, LONGEST, MOST, NONE, PREAMBLE, read, read_answer, read_reply

FORMS = {
    "json": json.dumps,
    "json, indented": lambda items: json.dumps(items, indent=2),
    "an object": lambda items: json.dumps({"descriptors": items}),
    "an object of lists": lambda items: json.dumps({"topics": items[:1], "tone": items[1:]}),
    "nested": lambda items: json.dumps([items[:1], [items[1:]]]),
    "single quotes": lambda items: "[" + ", ".join(f"'{item}'" for item in items) + "]",
    "curly quotes": lambda items: "[" + ", ".join(f"“{item}”" for item in items) + "]",
    "bare": lambda items: "[" + ", ".join(items) + "]",
    "a fence": lambda items: f"```json\n{json.dumps(items)}\n```",
    "a sentence before": lambda items: f"Sure! Here is the list, as you asked:\n{json.dumps(items)}",
    "a sentence after": lambda items: f"{json.dumps(items)}\nI hope that helps, let me know [1].",
    "two lists": lambda items: f'First I thought ["draft", "no"]. Then:\n{json.dumps(items)}',
    "thinking": lambda items: f'<think>\nHm, ["food"]? Let me see.\n</think>\n{json.dumps(items)}',
    "thinking without a mark before": lambda items: f"let me see, price\n</think>\n{json.dumps(items)}",
    "bullets": lambda items: "Here is the list:\n" + "\n".join(f"- {item}" for item in items),
    "bold bullets": lambda items: "\n".join(f"* **{item}**" for item in items),
    "numbers": lambda items: "\n".join(f"{i}. {item}" for i, item in enumerate(items, 1)),
    "lines in a fence": lambda items: "```\n" + "\n".join(items) + "\n```",
    "a label": lambda items: "Topics: " + ", ".join([*items, "last"]),
}

WORDS = st.from_regex(r"[a-z]{3,9}( [a-z]{2,9}){0,2}", fullmatch=True).filter(
    lambda item: item not in NONE and not PREAMBLE.match(item) and not item.startswith(("i ", "as a", "my "))
)
LISTS = st.lists(WORDS, min_size=2, max_size=MOST - 1, unique=True)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, deadline=None)
@given(LISTS)
def test_the_same_list_is_read_in_every_form(form, items):
    expected = [*items, "last"] if form == "a label" else items
    assert read_reply(FORMS[form](items)) == list(dict.fromkeys(expected))


@settings(max_examples=60, deadline=None)
@given(LISTS, st.data())
def test_of_a_list_that_is_cut_the_whole_items_are_read(items, data):
    whole = json.dumps(items)
    cut = data.draw(st.integers(1, len(whole) - 1))
    found = read_reply(whole[:cut]) or []
    assert found == items[: len(found)]
    assert len(found) == sum(whole[:cut].count(f'"{item}"') for item in items)


@pytest.mark.parametrize("comma", COMMAS)
def test_every_scripts_comma_separates(comma):
    assert read_reply(f"одно{comma} два{comma}три") == ["одно", "два", "три"]


@pytest.mark.parametrize(
    "reply",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, I cannot assist with this request.",
        "Sorry, but that is not something I can do.",
        "Unfortunately, I can't read this text.",
        "I cannot, in good conscience, list this, friend",
        "As an AI language model, I have no opinion, tone",
        "[\"I'm sorry, but I can't help with that.\"]",
        "<think>dangerous, refuse</think>I won't answer, sorry",
    ],
)
def test_refusals_are_failures_of_their_own_kind(reply):
    assert read(reply) == ([], "refused")


@pytest.mark.parametrize(
    "reply",
    [
        "", "None", "none.", "N/A", "[]", "{}", "[null]", '["none"]', "- None", "nichts", "无",
        "[1, 2.5, true]",
        '{"food": 0.5}', "<think>food, price", "<THINKING>\nfood\n", "***", "[[]]", "...", "Sure!",
        "Let me see.", "The text is about food, price, and the service of the waiters.",
        "It praises the food. It blames the price.", "食物很好。价格太高。", "Here is the list:",
    ],
)  # fmt: skip
def test_junk_makes_no_descriptors(reply):
    assert read(reply) == ([], "unparsable")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('Topics: ["food"]\nTone: ["angry"]', ["angry"]),  # the last whole value
        ('{"topics": ["food"], "tone": ["angry"]}', ["food", "angry"]),
        ("[food's price, it's good, 'the chef's soup']", ["food's price", "it's good", "the chef's soup"]),
        ('["caf\\u00e9", "say \\"hi\\"", "a\\\\b"]', ["café", 'say "hi', "a\\b"]),
        ("They say [sic] it is good", None),
        (json.dumps([f"word {letter}" for letter in "abcdefghijklmno"]), [f"word {x}" for x in "abcdefghij"]),
        ('["food", "FOOD", " food. "]', ["food"]),
        ("<|channel|>analysis<|message|>food?<|end|><|channel|>final<|message|>[\"price\"]", ["price"]),
        ("[THINK]hm, food[/THINK]price", ["price"]),
        ("food", ["food"]),
        ("service (slow), food", ["service (slow)", "food"]),
    ],
)  # fmt: skip
def test_replies_that_are_easily_misread(reply, expected):
    assert read_reply(reply) == expected


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text(alphabet="[]{}\"'“”‘’\\,:;-*`<>/think null \n.abé，") | st.binary().map(str))
def test_any_reply_is_read_safely_and_what_is_read_is_read_again_the_same(reply):
    found, failure = read(reply)
    assert bool(found) != bool(failure) and len(found) <= MOST == 10
    assert all(1 <= len(item.split()) <= LONGEST and any(c.isalnum() for c in item) for item in found)
    assert len(set(found)) == len(found)
    if found:
        assert read_reply(json.dumps(found)) == found


LONG = {
    "brackets": "[" * 1_000 + "]" * 1_000,
    "open brackets": "[" * 300_000,
    "open lists": '["a",' * 100_000,
    "quotes": "'" * 300_000,
    "escaped quotes": '["' + '\\"' * 150_000,
    "apostrophes": "[" + "it's " * 100_000,
    "objects": '{"a":' * 100_000,
    "thinking": "<think>" * 50_000,
    "closed thinking": "a</think>" * 50_000,
    "commas": "," * 300_000,
    "spaces": "[' " + " " * 300_000,
    "spaces between quotes": "[" + "' " * 150_000,
    "bullets": "- a\n" * 100_000,
    "a line": "food " * 100_000,
    "stars": "*" * 300_000,
    "sorry": "sorry " * 50_000,
    "fences": "```\n" * 100_000,
    "a word": "a" * 1_000_000,
}


@pytest.mark.parametrize("kind", LONG)
def test_reading_is_linear_in_the_length(kind):
    """Ten times the text may take ten times as long, with room for a busy machine."""
    long = LONG[kind]

    def seconds(text):
        start = time.process_time()
        read(text), read_answer(text, ["a"])
        return time.process_time() - start

    assert seconds(long) < 60 * max(seconds(long[: len(long) // 10]), 0.01)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('<think>{"a": 1, "b": 1}</think>{"a": 0, "b": 0.5}', [0.0, 0.5]),
        ('Draft {"a": 1} and then {"a": "0.25", "b": " Yes "}', [0.25, 1.0]),
        ('{"a": NaN, "b": 0}', None),
        ('{"a": null, "b": 0}', None),
        ('{"a": [1], "b": 0}', None),
        ('{"x": "}", "a": 1, "b": {"c": 1}}', None),
        ('{"x": "}\\"{", "a": 1, "b": 0}', [1.0, 0.0]),
        ('{"a":' * 5000, None),
        ('{"a":' * 5000 + "1" + "}" * 5000, None),
    ],
)
def test_probabilities_are_read_from_the_last_object(reply, expected):
    assert read_answer(reply, ["a", "b"]) == expected
