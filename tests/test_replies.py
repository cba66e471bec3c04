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
        "Sorry",
        "Apologies, but no",
        "I regret that I cannot",
        "Unable to comply",
        "I'd rather not, sorry",
        "Es tut mir leid, das kann ich nicht",
        "Lo siento, no puedo",
        "抱歉，我不能",
        "申し訳ありませんが、できません",
        "Je suis désolé, mais je ne peux pas",
        "Desculpe, mas não posso ajudar",
        "Mi dispiace, ma non posso",
        "Извините, я не могу",
        "This request violates our policy",
        "Content policy violation",
        "Request denied",
        "Can't help with that",
        "Cannot comply",
        '["Lo siento, no puedo"]',
        "<think>[x]</think>I can't [as an AI] do this",
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
        "(none)",
        "N.A.",
        "n / a",
        "not specified",
        "none identified",
        "no clear topic",
        "No properties found.",
        "there are no topics",
        "empty list",
        "[REDACTED]",
        "true",
        "∅",
        '{"error": "no text given"}',
        '{"error": {"message": "rate limit"}}',
        '{"type": "array", "items": {"type": "string"}}',
        "Understood.",
        "Got it",
        "The answer is",
        "The list is as follows",
        "Thank you!",
        "You're welcome",
        "I hope this helps",
        "<|im_end|>",
        '["food"]</think>',
        "<|channel|>analysis<|message|>food, price",
    ],
)  # fmt: skip
def test_junk_makes_no_descriptors(reply):
    assert read(reply) == ([], "unparsable")


HOSTILE = {
    '```json\n["food", "price"]': ["food", "price"],
    '["food", "price"]\n```': ["food", "price"],
    '```["food", "price"]```': ["food", "price"],
    '````\n["food"]\n````': ["food"],
    '```json ["food"]\n```': ["food"],
    '```python\nprint(["food"])\n```': ["food"],
    "~~~\n- food\n- price": ["food", "price"],
    '```json\n{"descriptors": ["food", "pri': ["food"],
    "```text\nfood, price\n```": ["food", "price"],
    "```c++\nfood\n```": ["food"],
    "``food``, `price`": ["food", "price"],
    '<think>a<think>b</think>c</think>["food"]': ["food"],
    '<think>hm</thinking>["food"]': ["food"],
    '<thinking>hm</think>["food"]': ["food"],
    "<Think>\nfood?\n</Think>\n\nfood, price": ["food", "price"],
    '<think >hm</think >["food"]': ["food"],
    '< think >hm</ think >["food"]': ["food"],
    '<think time="3">hm, ["x"]</think>["food"]': ["food"],
    '<|begin_of_thought|>hm ["x"]<|end_of_thought|>["food"]': ["food"],
    '◁think▷hm ["x"]◁/think▷["food"]': ["food"],
    '<seed:think>hm ["x"]</seed:think>["food"]': ["food"],
    '["food"]<think>was that right?': ["food"],
    '<reasoning>hm</reasoning>\n<answer>["food"]</answer>': ["food"],
    "<answer>food, price</answer>": ["food", "price"],
    "<output>\n- food\n- price\n</output>": ["food", "price"],
    "**Answer:** food, price": ["food", "price"],
    "Answer:\nfood\nprice": ["food", "price"],
    '[THINK]hm[/THINK]["food"]': ["food"],
    '<think>I should say "</think>" now</think>["food"]': ["food"],
    '<scratchpad>["x"]</scratchpad>["food"]': ["food"],
    '<inner_monologue>["x"]</inner_monologue>["food"]': ["food"],
    "<thought>\nx\n</thought>\nfood": ["food"],
    "食物，价格，服务": ["食物", "价格", "服务"],
    "食物、価格、サービス": ["食物", "価格", "サービス"],
    '["食物"，"价格"]': ["食物", "价格"],
    '［"food"，"price"］': ["food", "price"],
    "【食物，价格】": ["食物", "价格"],
    "「食物」、「価格」": ["食物", "価格"],
    '["food"; "price"]': ["food", "price"],
    "food; price; service": ["food", "price", "service"],
    "food | price | service": ["food", "price", "service"],
    "طعام، سعر": ["طعام", "سعر"],
    "food , price , ": ["food", "price"],
    'The properties are ["food", "price"], as requested.': ["food", "price"],
    'I chose {"descriptors": ["food", "price"]} because the text [line 1] is about them.': ["food", "price"],
    'Text: [1] "good"\n["food", "price"]\nNote: [2] is unclear.': ["food", "price"],
    '{"descriptors": ["food"], "confidence": 0.9, "reason": null}': ["food"],
    '{"descriptors": [{"name": "food", "score": 1}, {"name": "price", "score": 2}]}': ["food", "price"],
    '[["food"], ["pri': ["food"],
    '{"a": {"b": ["food", {"c": "price", "d": ["serv': ["food", "price"],
    '["food", "price", ': ["food", "price"],
    '["food", "price"': ["food", "price"],
    '["food", "price",]': ["food", "price"],
    '["food" "price"]': ["food", "price"],
    '["food"\n"price"\n]': ["food", "price"],
    '"food", "price"': ["food", "price"],
    "['it\\'s good', 'food']": ["it's good", "food"],
    "[\u201cfood\u201d, \u2018price\u2019]": ["food", "price"],
    "[«food», »price«]": ["food", "price"],
    '\\["food", "price"\\]': ["food", "price"],
    '\\[ "food" \\]': ["food"],
    '"[\\"food\\", \\"price\\"]"': ["food", "price"],
    '{"descriptors": "[\\"food\\", \\"price\\"]"}': ["food", "price"],
    '("food", "price")': ["food", "price"],
    "('food', 'price')": ["food", "price"],
    "- food\n- price\n\nI hope this helps!": ["food", "price"],
    "1. food\n2. price\n3. None": ["food", "price"],
    "- **food**: the meal was good\n- **price**: too high": ["food", "price"],
    "# Topics\n- food": ["food"],
    "**Topics**\n\n- food\n- price": ["food", "price"],
    "Sure, here are the topics: food, price": ["food", "price"],
    "Sure! food, price": ["food", "price"],
    "Here's what I found:\nfood\nprice": ["food", "price"],
    "food\u2028price": ["food", "price"],
    "food\x85price": ["food", "price"],
    "food\rprice": ["food", "price"],
    "food\r\nprice": ["food", "price"],
    "\ufefffood": ["food"],
    "food\x00": ["food"],
    '["food\\u0000"]': ["food"],
    "\u202efood": ["food"],
    "FOOD, Food, food": ["food"],
    "food<|im_end|>": ["food"],
    "food</s>": ["food"],
    "<s>food</s>": ["food"],
    "[INST] food [/INST] price": ["price"],
    "<|assistant|>food, price": ["food", "price"],
    "food<|eot_id|>": ["food"],
    "<bos>food<eos>": ["food"],
    "food<end_of_turn>": ["food"],
    "[3, 'food']": ["food"],
    "+food": ["food"],
    "covid-19, 5g, 3d printing": ["covid-19", "5g", "3d printing"],
    "r&b, rock 'n' roll": ["r&b", "rock 'n' roll"],
    "no smoking, no dogs": ["no smoking", "no dogs"],
    "null, food": ["food"],
    "Topic: food\nTone: sad": ["food", "sad"],
    "topics = ['food', 'price']": ["food", "price"],
    "descriptors: [food, price": ["food"],
    '- "food"\n- "price"': ["food", "price"],
    '"food"\n"price"': ["food", "price"],
    '{"food", "price"}': ["food", "price"],
    "{food, price}": ["food", "price"],
    '{"1": "food", "2": "price"}': ["food", "price"],
    '{"descriptors": ["food"]}{"descriptors": ["price"]}': ["price"],
    'json\n["food"]': ["food"],
    'json["food"]': ["food"],
    '//comment\n["food", // yes\n "price"]': ["food", "price"],
    '["food", /* x */ "price"]': ["food", "price"],
    "---\ndescriptors:\n  - food\n  - price\n---": ["food", "price"],
    '["food\u2026", "price..."]': ["food", "price"],
    "food...": ["food"],
    "food, ...": ["food"],
    '["food", ...]': ["food"],
    '["food", "..."]': ["food"],
    '{"reasoning": "about a meal", "descriptors": ["food"]}': ["food"],
    '[{"descriptor": "food", "reason": "it is named"}, {"descriptor": "price"}]': ["food", "price"],
    "food，price；service": ["food", "price", "service"],
    "| food | price |": ["food", "price"],
    "1) food 2) price": ["food", "price"],
    "a) food\nb) price": ["food", "price"],
    "① food\n② price": ["food", "price"],
    "\u2022 food \u2022 price": ["food", "price"],
    "- [ ] food\n- [x] price": ["food", "price"],
    "<ul><li>food</li><li>price</li></ul>": ["food", "price"],
    "### Topics\nfood": ["food"],
    "Topic: food; Tone: sad": ["food", "sad"],
    '["food"]<|im_end|>\n<|im_start|>user\n["x"]': ["food"],
    "fo\u200bod, c++": ["food", "c++"],
    '"food, drink", "price"': ["food, drink", "price"],
}


@pytest.mark.parametrize("reply", HOSTILE)
def test_replies_of_models_that_do_not_do_as_they_are_told(reply):
    assert read(reply) == (HOSTILE[reply], "")


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
        ('["apology"]', ["apology"]),
        ('["sorry"]', ["sorry"]),
        ('["lo siento, no puedo", "song"]', ["lo siento, no puedo", "song"]),
        ("service (slow), food", ["service (slow)", "food"]),
    ],
)  # fmt: skip
def test_replies_that_are_easily_misread(reply, expected):
    assert read_reply(reply) == expected


PIECES = st.sampled_from(
    [
        "<think>",
        "</think>",
        "[",
        "]",
        "{",
        "}",
        '"',
        "'",
        ",",
        "food",
        "**",
        ":",
        "\n",
        "- ",
        "1. ",
        "```",
        "//",
    ]
    + [
        "json",
        "sorry",
        "I can't",
        "<|im_end|>",
        "(",
        ")",
        "none",
        "<b>",
        "\\",
        " ",
        "｛",
        "；",
        "ﬁ",
        "É",
        "İ",
    ]
)


@settings(max_examples=400, deadline=None)
@given(
    st.text()
    | st.text(alphabet="[]{}\"'“”‘’\\,:;-*`<>/|()think null \n.abé，①ℌ¨…\u0301\u0316\u202e")
    | st.lists(PIECES, max_size=25).map("".join)
    | st.binary().map(str)
)
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
    "deep brackets": "[" * 100_000 + "]" * 100_000,
    "objects in lists": "[{" * 100_000,
    "full-width brackets": "［" * 300_000,
    "lists in strings": '["[\\"a\\", ' * 30_000,
    "strings": '"a", ' * 80_000 + "x",
    "comments": '[// a "b" ' * 50_000,
    "tags": "<a b " * 60_000,
    "open marks": ("<" + " " * 50) * 10_000,
    "ends of turns": "<|im_end|>" * 40_000,
    "bold lines": "**a**: b\n" * 40_000,
    "check boxes": "- [ ] " * 60_000,
    "numbers": "1) a " * 80_000,
    "labels": "topics: " * 50_000,
    "parentheses": "(" * 300_000,
    "accents": "a" + "\u0316\u0301" * 150_000,
    "newlines": " \n" * 150_000,
    "backslashes": '["' + "\\" * 300_001,
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
