"""The store and the pass that fills it, against transformers by hand and against injected faults."""

import copy
import dataclasses
import errno
import json
import os
import shutil
import time
import tracemalloc

import filelock
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import context

from nbkit import activations, models, texts
from nbkit.activations import checks, forward, plan, store
from nbkit.texts import Texts

SENTENCES = [
    "Nobody told me that the train would not stop here.",
    "Yes.",
    "The café's door isn't open, is it?",
    "Four of us waited until two in the morning for a bus that never came.",
    "Bananas!",
]


@pytest.fixture(scope="module")
def corpus() -> Texts:
    return Texts.from_list(SENTENCES, name="five")


def by_hand(subject, sentence):
    """Hidden state and FFN units of one sentence alone, from plain transformers and a plain hook."""
    seen = {}
    matrix = subject.model.encoder.layer[3].output.dense
    hook = matrix.register_forward_pre_hook(lambda _, inputs: seen.update(ffn=inputs[0]))
    batch = subject.tokenizer(sentence, return_tensors="pt")
    with torch.inference_mode():
        out = subject.model(**batch, output_hidden_states=True)
    hook.remove()
    return out.hidden_states[4][0].numpy(), seen["ffn"][0].numpy()


POOLED = {
    "max": lambda x: x[1:-1].max(0),
    "mean": lambda x: x[1:-1].mean(0),
    "cls": lambda x: x[0],
    "first": lambda x: x[1],
    "last": lambda x: x[-2],
}


@pytest.mark.parametrize("pool", POOLED)
def test_text_rows_agree_with_transformers_one_sentence_at_a_time(minilm, corpus, pool):
    sites = ["layer.3.ffn", "layer.3.hidden"]
    found = activations.capture(minilm, corpus, sites=sites, pool=pool, dtype="float32", progress=False)
    for row, sentence in enumerate(SENTENCES):
        hidden, ffn = by_hand(minilm, sentence)
        expected = np.concatenate([POOLED[pool](ffn), POOLED[pool](hidden)])
        assert np.allclose(found.values[row], expected, atol=2e-5)
    assert found.units["site"].unique().tolist() == sites
    assert found.units["unit"].iloc[[0, -1]].tolist() == ["layer.3.ffn.0", "layer.3.hidden.383"]
    assert found.rows["text_id"].tolist() == [0, 1, 2, 3, 4]


def test_token_rows_leave_out_special_tokens_and_carry_spans(minilm, corpus):
    found = activations.capture(minilm, corpus, sites="layer.3.hidden", rows="token", dtype="float32")
    assert not set(found.rows["token"]) & {"[CLS]", "[SEP]", "[PAD]"}
    hidden, _ = by_hand(minilm, SENTENCES[2])
    assert np.allclose(found.values[found.rows["text_id"] == 2], hidden[1:-1], atol=2e-5)
    for line in found.rows.itertuples():
        surface = SENTENCES[line.text_id][line.start : line.end].lower().replace("é", "e")
        assert surface == line.token.removeprefix("##")


@pytest.mark.parametrize("pool", ["max", "mean", "first", "last"])
def test_word_rows_pool_the_tokens_that_overlap_the_word(minilm, pool):
    treebank = texts.load("sample:treebank").sample(30, seed=1)
    found = activations.capture(
        minilm, treebank, sites="layer.3.hidden", rows="word", pool=pool, dtype="float32"
    )
    assert len(found) == len(treebank.words)
    assert found.rows["form"].tolist() == treebank.words["form"].tolist()
    for text_id, text in zip(treebank.frame["text_id"], treebank.frame["text"], strict=True):
        hidden, _ = by_hand(minilm, text)
        spans = minilm.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        for row in np.flatnonzero(found.rows["text_id"] == text_id):
            start, end = found.rows.loc[row, ["start", "end"]]
            own = [i for i, (a, b) in enumerate(spans) if a < end and b > start]
            bare = np.concatenate([hidden[:1], hidden[own], hidden[:1]])  # POOLED cuts both ends
            assert np.allclose(found.values[row], POOLED[pool](bare), atol=2e-5)


def test_words_that_share_a_token_and_words_beyond_the_cut_are_counted(minilm):
    frame = pd.DataFrame({"text_id": [0], "text": ["can't " + "word " * 600]})
    starts = [0, 2, *range(6, 6 + 5 * 600, 5)]
    ends = [2, 5, *(s + 4 for s in starts[2:])]
    forms = [frame["text"][0][a:b] for a, b in zip(starts, ends, strict=True)]
    words = pd.DataFrame(
        {"text_id": 0, "word_id": range(1, 603), "form": forms, "start": starts, "end": ends}
    )
    long = Texts("long", frame, words)
    found = activations.capture(minilm, long, sites="layer.0.hidden", rows="word", cache=False)
    assert found.manifest["dropped"]["truncated_texts"] == 1
    assert found.manifest["dropped"]["words_beyond_cut"] == 602 - len(found) > 0
    assert found.rows["form"].tolist()[:2] == ["ca", "n't"]  # both own the token "can"/"t" they overlap


def test_a_text_of_ten_thousand_words_is_cut_and_counted(minilm, caplog):
    corpus = Texts.from_list(["word " * 10_000, "Short."], name="long")
    found = activations.capture(minilm, corpus, sites="layer.0.hidden", cache=False)
    assert len(found) == 2 and found.manifest["dropped"]["truncated_texts"] == 1
    assert "1 truncated_texts" in caplog.text


@pytest.mark.parametrize("size", [1, 64, 100_000])
def test_numbers_do_not_depend_on_the_batch(minilm, corpus, monkeypatch, size):
    reference = activations.capture(minilm, corpus, sites="hidden", dtype="float32", cache=False)
    monkeypatch.setattr(forward, "BATCH_TOKENS", size)
    again = activations.capture(minilm, corpus, sites="hidden", dtype="float32", cache=False)
    assert np.allclose(reference.values, again.values, atol=1e-5)


# ---------------------------------------------------------------------------------- the key


def no_forward(*_, **__):
    raise AssertionError("a forward pass ran")


def test_the_same_arguments_run_no_forward_pass(minilm, corpus, monkeypatch):
    first = activations.capture(minilm, corpus, sites="layer.1.ffn")
    monkeypatch.setattr(models.Subject, "run", no_forward)
    again = activations.capture(minilm, Texts.from_list(SENTENCES, name="another name"), sites="layer.1.ffn")
    assert np.array_equal(first.values, again.values)
    assert isinstance(again.values.base, np.memmap) or isinstance(again.values, np.memmap)


@pytest.mark.parametrize(
    "changed",
    [
        {"sites": "layer.2.ffn"},
        {"pool": "mean"},
        {"rows": "token"},
        {"dtype": "float32"},
        {"long": "windows"},
        "text",
        "weight",
    ],
)
def test_any_change_makes_another_key(minilm, corpus, changed):
    arguments = {"sites": "layer.1.ffn", "pool": "max", "rows": "text", "dtype": "float16"}
    subject, other, arguments_then = minilm, corpus, dict(arguments)
    if changed == "text":
        other = Texts.from_list([*SENTENCES[:-1], "Bananas?"])
    elif changed == "weight":
        model = copy.deepcopy(minilm.model)
        model.encoder.layer[5].output.dense.weight.data[0, 0] += 1e-6
        subject = models.Subject("changed", model, minilm.tokenizer)
    else:
        arguments_then |= changed
    keys = [
        store.key_of(plan.identity_of(s, t, engine="local", **{"long": "truncate", **a}))
        for s, t, a in ((minilm, corpus, arguments), (subject, other, arguments_then))
    ]
    assert keys[0] != keys[1]


@pytest.mark.parametrize("field", ["pool", "subject", "n_rows", "corpus", "dropped", "seconds", "checksums"])
def test_a_tampered_manifest_is_refused_with_the_field(minilm, corpus, tmp_path, field):
    activations.capture(minilm, corpus, sites="layer.1.ffn", cache=tmp_path)
    path = next(tmp_path.glob("activations/*/manifest.json"))
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest[field] = "tampered" if field != "n_rows" else 4
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ValueError, match=f"field '{field}'"):
        activations.capture(minilm, corpus, sites="layer.1.ffn", cache=tmp_path)


def test_a_store_cut_short_is_refused(minilm, corpus, tmp_path):
    activations.capture(minilm, corpus, sites="layer.1.ffn", cache=tmp_path)
    path = next(tmp_path.glob("activations/*/values.bin"))
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match="values.bin, which has"):
        activations.capture(minilm, corpus, sites="layer.1.ffn", cache=tmp_path)


def test_an_absent_store_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="capture"):
        store.load(tmp_path / "nothing")


# ---------------------------------------------------------------------------------- faults


def test_a_run_cut_off_resumes_where_it_stopped_with_the_same_bytes(minilm, tmp_path, monkeypatch):
    reviews = texts.load("sample:reviews").sample(60, seed=0)
    monkeypatch.setattr(plan, "BLOCK_BYTES", 10 * 1536 * 2)  # ten texts a block
    whole = activations.capture(minilm, reviews, sites="layer.1.ffn", cache=tmp_path / "whole")
    written, write = [], store._write_block

    def cut_off(*arguments):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(arguments)
        return write(*arguments)

    table = activations.verify(minilm, reviews, n=2)
    monkeypatch.setattr(store, "verify", lambda *_, **__: table)  # its passes are not those counted
    monkeypatch.setattr(store, "_write_block", cut_off)
    with pytest.raises(KeyboardInterrupt):
        activations.capture(minilm, reviews, sites="layer.1.ffn", cache=tmp_path / "cut")
    assert not list((tmp_path / "cut").glob("activations/*/manifest.json")), "a half store has its name"
    part = next((tmp_path / "cut").glob("activations/*.part/journal"))
    part.write_text(part.read_text(encoding="utf-8") + "30 4", encoding="utf-8")  # the line that a kill tore
    counted = []
    run = models.Subject.run
    monkeypatch.setattr(
        models.Subject, "run", lambda s, b, w, **k: counted.append(len(b["input_ids"])) or run(s, b, w, **k)
    )
    monkeypatch.setattr(store, "_write_block", write)
    resumed = activations.capture(minilm, reviews, sites="layer.1.ffn", cache=tmp_path / "cut")
    assert sum(counted) == 30, "finished blocks were computed again"
    one, two = (next((tmp_path / f).glob("activations/*/values.bin")) for f in ("whole", "cut"))
    assert one.read_bytes() == two.read_bytes()
    assert resumed.manifest["checksums"] == whole.manifest["checksums"]


def capture_in_process(cache, queue):
    subject = models.load("minilm")
    corpus = Texts.from_list(SENTENCES * 1, name="five")
    found = activations.capture(subject, corpus, sites="all", cache=cache, progress=False)
    queue.put(np.asarray(found.values).tobytes())


@pytest.mark.slow
def test_two_processes_with_one_key_end_in_one_store(tmp_path):
    queue = context.Queue()
    both = [context.Process(target=capture_in_process, args=(tmp_path, queue)) for _ in range(2)]
    for process in both:
        process.start()
    results = [queue.get(timeout=120) for _ in both]
    for process in both:
        process.join(30)
    assert results[0] == results[1]
    assert len([p for p in (tmp_path / "activations").iterdir() if p.is_dir()]) == 1


def test_a_disk_that_is_too_small_is_said_before_the_work(minilm, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    monkeypatch.setattr(models.Subject, "run", no_forward)
    with pytest.raises(OSError, match="needs .* GB and the disk has"):
        activations.capture(minilm, corpus, sites="layer.1.ffn", cache=tmp_path)


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), "float32"), (1e6, "float16")])
def test_numbers_that_cannot_be_stored_name_unit_and_text(minilm, corpus, tmp_path, value, dtype):
    model = copy.deepcopy(minilm.model)
    model.encoder.layer[1].intermediate.dense.bias.data[7] = value
    broken = models.Subject("broken", model, minilm.tokenizer)
    with pytest.raises(ValueError, match=r"layer\.1\.ffn\.7 on text"):
        activations.capture(broken, corpus, sites="layer.1.ffn", dtype=dtype, cache=tmp_path)
    assert not list(tmp_path.glob("activations/*/manifest.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sites": "layer.9.ffn"}, "layer.9.ffn"),
        ({"rows": "sentence"}, "rows='sentence' is not one of text, word, token"),
        ({"pool": "median"}, "pool='median'"),
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"engine": "spark"}, "engine='spark'"),
        ({"rows": "word"}, "has no words"),
        ({"rows": "token", "pool": "cls"}, "pool='cls' is for text rows"),
    ],
)
def test_bad_arguments_name_the_value_and_write_nothing(minilm, corpus, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        activations.capture(minilm, corpus, cache=tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------- before a long run


def test_estimate_counts_what_capture_then_takes(minilm, tmp_path):
    reviews = texts.load("sample:reviews").sample(100, seed=0)
    cost = activations.estimate(minilm, reviews, sites=["ffn", "hidden"])
    found = activations.capture(minilm, reviews, sites=["ffn", "hidden"], cache=tmp_path)
    assert (cost.rows, cost.units) == found.values.shape
    assert cost.disk_bytes == next(tmp_path.glob("activations/*/values.bin")).stat().st_size
    assert 0.1 < cost.seconds / found.manifest["seconds"] < 10
    assert "100 rows x 11,520 units" in str(cost)


def test_verify_passes_on_the_subject_and_fails_on_a_shifted_hook(minilm, monkeypatch):
    reviews = texts.load("sample:reviews").sample(20, seed=0)
    table = activations.verify(minilm, reviews).set_index("check")
    assert table["ok"].all() and table.index.tolist() == ["hooks", "padding", "order", "storage float16"]
    assert (table["median"] <= table["q99"]).all() and (table["q99"] <= table["error"]).all()
    run = models.Subject.run

    def shifted(subject, batch, sites, *, keep=lambda tensor: tensor):
        return run(subject, batch, sites, keep=lambda tensor: keep(tensor.roll(1, dims=-1)))

    monkeypatch.setattr(models.Subject, "run", shifted)
    assert not activations.verify(minilm, reviews).set_index("check").loc["hooks", "ok"]


def test_verify_sees_a_model_that_minds_its_padding(minilm, monkeypatch):
    reviews = texts.load("sample:reviews").sample(20, seed=0)
    inputs = forward.inputs_of

    def without_mask(*arguments):
        made = inputs(*arguments)
        return {**made, "attention_mask": torch.ones_like(made["attention_mask"])}

    for user in (forward, checks):
        monkeypatch.setattr(user, "inputs_of", without_mask)
    assert not activations.verify(minilm, reviews).set_index("check").loc["padding", "ok"]


# ---------------------------------------------------------------------------------- pieces


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(1, 12))
def test_blocks_partition_the_texts_within_their_capacity(sizes, capacity):
    blocks = plan._blocks(np.array(sizes), capacity)
    assert [t for a, b in blocks for t in range(a, b)] == list(range(len(sizes)))
    assert all(sum(sizes[a:b]) <= capacity or b - a == 1 for a, b in blocks)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["max", "mean", "first", "last", "token"]))
def test_pooling_agrees_with_a_loop(seed, pool):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((3, 6, 4)).astype(np.float32)
    members, expected = [], []
    for text in values:
        lengths = rng.integers(1, 4, rng.integers(1, 4))
        positions = np.concatenate([np.sort(rng.choice(6, n, replace=False)) for n in lengths])
        members.append(plan.Members(np.stack([np.zeros_like(positions), positions], axis=1), lengths))
        for group in np.split(positions, np.cumsum(lengths)[:-1]):
            part = text[group]
            expected.append({"max": part.max(0), "mean": part.mean(0), "last": part[-1]}.get(pool, part[0]))
    found = forward.pool_tokens(torch.from_numpy(values), members, pool)
    assert np.allclose(found, expected, atol=1e-6)


# ---------------------------------------------------------------------------------- long texts


def short_sighted(minilm, length: int) -> models.Subject:
    """The same model with room for fewer tokens."""
    model = copy.deepcopy(minilm.model)
    table = model.embeddings.position_embeddings.weight.data[:length]
    model.embeddings.position_embeddings = torch.nn.Embedding.from_pretrained(table)
    model.config.max_position_embeddings = length
    tokenizer = copy.deepcopy(minilm.tokenizer)
    tokenizer.model_max_length = length
    return models.Subject("short-sighted", model, tokenizer)


LONG_TEXT = " ".join(SENTENCES * 4)


def test_windows_hold_every_token_once_with_most_context(minilm):
    subject, corpus = short_sighted(minilm, 16), Texts.from_list([SENTENCES[0], LONG_TEXT])
    made = activations.plan_of(subject, corpus, rows="token", long="windows")
    whole = minilm.tokenizer(LONG_TEXT, add_special_tokens=False, return_offsets_mapping=True)
    mine = made.rows[made.rows["text_id"] == 1]
    assert mine["token"].tolist() == minilm.tokenizer.convert_ids_to_tokens(whole["input_ids"])
    assert mine[["start", "end"]].values.tolist() == [list(o) for o in whole["offset_mapping"]]
    assert made.dropped["truncated_texts"] == 0 and len(made.pieces(1)) > 2
    assert mine["position"].tolist() == list(range(1, len(mine) + 1))
    where = made.members(1).where
    at = [made.ids[made.pieces(1)[piece]][position] for piece, position in where]
    assert at == whole["input_ids"]
    inner = where[(where[:, 0] > 0) & (where[:, 0] < len(made.pieces(1)) - 1), 1]
    room = 14 // plan.OVERLAP  # 14 own tokens a window, three shared with each neighbour
    assert inner.min() >= 1 + room // 2 and inner.max() <= 14 - room // 2


@pytest.mark.parametrize("pool", ["max", "mean", "first", "last", "cls"])
def test_rows_of_long_texts_pool_over_their_windows(minilm, pool):
    subject, corpus = short_sighted(minilm, 16), Texts.from_list([SENTENCES[1], LONG_TEXT, SENTENCES[2]])
    same = dict(sites="layer.3.hidden", dtype="float32", long="windows", cache=False)
    found = activations.capture(subject, corpus, pool=pool, **same).values
    tokens = activations.capture(subject, corpus, rows="token", **same)
    for text in range(3):
        mine = tokens.values[(tokens.rows["text_id"] == text).to_numpy()]
        if pool != "cls":
            by_hand = {"max": mine.max(0), "mean": mine.mean(0), "first": mine[0], "last": mine[-1]}[pool]
            assert np.allclose(found[text], by_hand, atol=1e-5)
    alone = activations.capture(subject, Texts.from_list([SENTENCES[1]]), pool=pool, **same).values
    assert np.allclose(found[0], alone[0], atol=1e-5)


def test_words_of_long_texts_are_not_lost_in_windows(minilm):
    subject, corpus = short_sighted(minilm, 16), Texts.from_list([LONG_TEXT]).tokenize()
    cut = activations.capture(subject, corpus, sites="layer.1.ffn", rows="word", cache=False)
    windows = activations.capture(
        subject, corpus, sites="layer.1.ffn", rows="word", long="windows", cache=False
    )
    assert cut.manifest["dropped"]["words_beyond_cut"] > 0
    assert windows.manifest["dropped"]["words_beyond_cut"] == 0
    assert windows.rows["form"].tolist() == corpus.words["form"].tolist()


# ---------------------------------------------------------------------------------- faults


def test_bfloat16_is_stored_and_read_as_torch_rounds_it(minilm, corpus, tmp_path):
    same = dict(sites="layer.1.ffn")
    exact = activations.capture(minilm, corpus, dtype="float32", cache=False, **same).values
    stored = activations.capture(minilm, corpus, dtype="bfloat16", cache=tmp_path, **same)
    again = store.load(next(tmp_path.glob("activations/*/")))
    expected = torch.from_numpy(exact).bfloat16().float().numpy()
    assert np.array_equal(np.asarray(stored.values, np.float32), expected)
    assert np.array_equal(np.asarray(again.values, np.float32), expected)


def test_a_batch_too_large_for_the_memory_goes_on_in_halves(minilm, corpus, monkeypatch):
    expected = activations.capture(minilm, corpus, sites="layer.1.ffn", cache=False).values
    run = models.Subject.run

    def small(self, batch, sites, **keep):
        if len(batch["input_ids"]) > 2:
            raise torch.OutOfMemoryError("injected")
        return run(self, batch, sites, **keep)

    monkeypatch.setattr(models.Subject, "run", small)
    assert np.allclose(
        activations.capture(minilm, corpus, sites="layer.1.ffn", cache=False).values, expected, atol=1e-3
    )

    def none(self, batch, sites, **keep):
        raise torch.OutOfMemoryError("injected")

    monkeypatch.setattr(models.Subject, "run", none)
    with pytest.raises(RuntimeError, match="single text of .* does not fit"):
        activations.capture(minilm, corpus, sites="layer.1.ffn", cache=False)


def test_a_disk_that_fills_up_is_said_and_the_run_goes_on_later(minilm, tmp_path, monkeypatch):
    reviews = texts.load("sample:reviews").sample(40, seed=0)
    monkeypatch.setattr(plan, "BLOCK_BYTES", 10 * 1536 * 2)
    write, calls = store._write_at, []

    def full(*arguments):
        calls.append(1)
        if len(calls) > 2 * 1536:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*arguments)

    monkeypatch.setattr(store, "_write_at", full)
    with pytest.raises(OSError, match="is full; the blocks before are kept"):
        activations.capture(minilm, reviews, sites="layer.1.ffn", cache=tmp_path)
    assert not list(tmp_path.glob("activations/*/manifest.json"))
    monkeypatch.setattr(store, "_write_at", write)
    found = activations.capture(minilm, reviews, sites="layer.1.ffn", cache=tmp_path)
    assert np.array_equal(
        found.values,
        activations.capture(minilm, reviews, sites="layer.1.ffn", cache=tmp_path / "other").values,
    )


def test_a_cache_that_cannot_be_written_is_said(minilm, corpus, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OSError, match="cannot be written .*NBKIT_CACHE"):
        activations.capture(minilm, corpus, sites="layer.1.ffn", cache=tmp_path / "file")


def capture_in_blocks_of_four(cache):
    plan.BLOCK_BYTES = 4 * 1536 * 2
    corpus = texts.load("sample:reviews").sample(240, seed=0)
    subject = models.load("minilm")
    activations.capture(subject, corpus, sites="layer.1.ffn", cache=cache, progress=False)


@pytest.mark.slow
def test_killed_ten_times_and_resumed_the_store_has_the_same_bytes(minilm, tmp_path, monkeypatch):
    """SIGKILL at random moments of the work: no finished block is computed again, nothing is torn."""
    rng, journal = np.random.default_rng(0), "activations/*.part/journal"
    kept, kills = [], 0
    while kills < 10:
        process = context.Process(target=capture_in_blocks_of_four, args=(tmp_path / "killed",))
        process.start()
        before, deadline = len(kept), time.monotonic() + 120
        more = before + int(rng.integers(1, 5))  # blocks of this run, then a moment within the next
        while time.monotonic() < deadline and process.is_alive():
            lines = [p.read_text(encoding="utf-8").splitlines() for p in (tmp_path / "killed").glob(journal)]
            if lines and len(lines[0]) >= more:
                break
            time.sleep(0.001)
        assert process.is_alive(), "the run ended before it was killed"
        time.sleep(float(rng.random()) * 0.05)
        process.kill()
        process.join()
        kills += 1
        after = next((tmp_path / "killed").glob(journal)).read_text(encoding="utf-8").split("\n")[:-1]
        assert after[: len(kept)] == kept and len(after) > len(kept)  # what was done stays done, once
        assert len(set(after)) == len(after)
        kept = after
    monkeypatch.setattr(plan, "BLOCK_BYTES", 4 * 1536 * 2)
    corpus = texts.load("sample:reviews").sample(240, seed=0)
    for folder in ("killed", "whole"):
        activations.capture(minilm, corpus, sites="layer.1.ffn", cache=tmp_path / folder, progress=False)
    one, two = (next((tmp_path / f).glob("activations/*/values.bin")) for f in ("killed", "whole"))
    assert one.read_bytes() == two.read_bytes()


def test_select_takes_sites_units_and_texts(minilm, corpus):
    found = activations.capture(minilm, corpus, sites="ffn", dtype="float32")
    site = found.select(sites="layer.2.ffn")
    assert np.shares_memory(site.values, found.values) and len(site.units) == 1536
    some = found.select(units=["layer.2.ffn.5", 0], text_ids=[3, 1])
    assert np.array_equal(some.values, found.values[[1, 3]][:, [found.column("layer.2.ffn.5"), 0]])
    with pytest.raises(ValueError, match="layer.7.ffn"):
        found.select(sites="layer.7.ffn")
    with pytest.raises(ValueError, match="unknown unit 'x'"):
        found.column("x")
    with pytest.raises(ValueError, match="nothing is left"):
        found.select(text_ids=[99])


def test_verify_qualifies_half_precision(minilm):
    """bfloat16 on the CPU: what it costs in accuracy is in the table, and it passes the tolerance for it."""
    half = models.load("minilm", dtype="bfloat16")
    table = activations.verify(half, texts.load("sample:reviews"), n=16).set_index("check")
    assert table.loc["arithmetic bfloat16", "ok"] and table.loc["padding", "ok"]
    exact = activations.verify(minilm, texts.load("sample:reviews"), n=16).set_index("check")
    # not the padding in bfloat16: kernels that sum in one order, whatever the batch, make no error there
    assert table.loc["arithmetic bfloat16", "q99"] > 100 * exact.loc["padding", "q99"]


def test_the_table_of_checks_is_in_the_manifest(minilm, corpus, tmp_path):
    found = activations.capture(minilm, corpus, sites="layer.1.ffn", cache=tmp_path).manifest["verified"]
    assert [line["check"] for line in found] == ["hooks", "padding", "order", "storage float16"]
    assert all(line["ok"] for line in found)


# ---------------------------------------------------------------------------------- kinds of texts


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5)), max_size=12),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5)), max_size=8),
    st.booleans(),
)
def test_the_tokens_of_words_are_those_that_overlap_whatever_their_order(tokens, words, ordered):
    """Against every token compared with every word, as it was done before."""
    spans = np.array([(a, a + n) for a, n in (sorted(tokens) if ordered else tokens)], int).reshape(-1, 2)
    begins, ends = (np.array([a + n * k for a, n in words], int) for k in (0, 1))
    own, lengths = plan._overlaps(spans, begins, ends)
    every = (spans[:, 0] < ends[:, None]) & (spans[:, 1] > begins[:, None])
    assert own.tolist() == np.nonzero(every)[1].tolist() and lengths.tolist() == every.sum(1).tolist()


def test_words_of_a_long_text_are_planned_in_linear_memory(minilm):
    def peak(n):
        corpus = Texts.from_list(["the fox " * (n // 2)]).tokenize()
        tracemalloc.start()
        made = activations.plan_of(minilm, corpus, rows="word", long="windows")
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(made.rows) == n
        return used

    assert peak(16_000) < 6 * peak(4_000)


@pytest.mark.parametrize("rows", ["text", "word", "token"])
@pytest.mark.parametrize("cache", [False, None])
def test_texts_without_a_token_are_said(minilm, rows, cache):
    corpus = Texts.from_list(["\u00ad", "\u200b"], name="invisible").tokenize()
    with pytest.raises(ValueError, match="none of the 2 texts of invisible has a (word|token) for minilm"):
        activations.capture(minilm, corpus, rows=rows, cache=cache, progress=False)


@pytest.mark.parametrize("rows", ["text", "word", "token"])
def test_texts_without_a_token_among_others_are_counted(minilm, rows, monkeypatch):
    monkeypatch.setattr(plan, "BLOCK_BYTES", 1)  # each text is a block of its own
    corpus = Texts.from_list(["\u00ad", SENTENCES[0], "\u200b"]).tokenize()
    options = {"sites": "layer.1.ffn", "rows": rows, "progress": False}
    alone = activations.capture(minilm, Texts.from_list(SENTENCES[:1]).tokenize(), cache=False, **options)
    for cache in (False, None):
        found = activations.capture(minilm, corpus, cache=cache, **options)
        assert set(found.rows["text_id"]) == {1} and np.allclose(found.values, alone.values, atol=1e-3)
    if rows == "text":
        assert found.manifest["dropped"]["texts_without_token"] == 2
    top = activations.reduce(minilm, corpus, {"top": activations.TopK(2)}, **options)["top"]
    assert set(top["text_id"]) == {1}


def test_a_word_without_a_token_is_not_blamed_on_a_cut(minilm):
    dropped = activations.plan_of(minilm, Texts.from_list(["hello \u00ad"]), rows="text").dropped
    assert dropped["truncated_texts"] == 0
    words = pd.DataFrame({"text_id": 0, "word_id": [1, 2], "form": ["hello", "\u00ad"]})
    corpus = Texts(
        "c", pd.DataFrame({"text_id": [0], "text": ["hello \u00ad"]}), words.assign(start=[0, 6], end=[5, 7])
    )
    for long in ("truncate", "windows"):
        dropped = activations.plan_of(minilm, corpus, rows="word", long=long).dropped
        assert dropped == {"truncated_texts": 0, "words_beyond_cut": 0, "words_without_token": 1}


def test_a_cut_text_counts_its_words_beyond_the_cut_and_those_without_a_token(minilm):
    subject = short_sighted(minilm, 8)
    text = "one \u00ad two three four five six seven eight"
    forms = text.split(" ")
    starts = np.cumsum([0, *(len(f) + 1 for f in forms[:-1])])
    words = pd.DataFrame({"text_id": 0, "word_id": range(1, 10), "form": forms, "start": starts})
    words["end"] = words["start"] + words["form"].str.len()
    corpus = Texts("c", pd.DataFrame({"text_id": [0], "text": [text]}), words)
    made = activations.plan_of(subject, corpus, rows="word")
    assert made.rows["form"].tolist() == ["one", "two", "three", "four", "five", "six"]
    assert made.dropped == {"truncated_texts": 1, "words_beyond_cut": 2, "words_without_token": 1}


def test_words_of_a_multiword_token_are_marked(minilm):
    words = pd.DataFrame(
        {"text_id": 0, "word_id": [1, 2, 3], "form": ["à", "le", "marché"], "start": [0, 0, 3]}
    )
    words = words.assign(end=[2, 2, 9], mwt=[True, True, False])
    corpus = Texts("c", pd.DataFrame({"text_id": [0], "text": ["au marché"]}), words)
    found = activations.capture(minilm, corpus, sites="hidden", rows="word", cache=False)
    assert found.rows["mwt"].tolist() == [True, True, False]
    assert np.array_equal(found.values[0], found.values[1])


# ---------------------------------------------------------------------------------- kinds of machines


def test_a_complete_store_on_a_disk_that_cannot_be_written_is_loaded(minilm, corpus, tmp_path, monkeypatch):
    made = activations.capture(minilm, corpus, sites="layer.1.ffn", cache=tmp_path)

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(filelock.FileLock, "acquire", read_only)
    monkeypatch.setattr(os, "mkdir", read_only)
    again = activations.capture(minilm, corpus, sites="layer.1.ffn", cache=tmp_path)
    assert np.array_equal(made.values, again.values)
    with pytest.raises(OSError, match="cannot be written .*Read-only"):
        activations.capture(minilm, corpus, sites="layer.2.ffn", cache=tmp_path)


PAIRS = [
    f"The {noun} said that {pronoun} would come home soon ."
    for noun in ("nurse", "pilot", "cook", "judge")
    for pronoun in ("he", "she")
]


@pytest.mark.parametrize("some", [PAIRS, ["Yes"] * 4, ["one", "two"], [SENTENCES[0]] * 3])
def test_verify_does_not_warn_of_texts_that_are_alike(minilm, some):
    table = activations.verify(minilm, Texts.from_list(some))
    assert table["ok"].all(), table


def test_long_work_is_announced_and_short_work_is_not_even_measured(minilm, corpus, monkeypatch, capsys):
    options = {"sites": "layer.1.ffn", "cache": False}
    monkeypatch.setattr(checks, "_cost", no_forward)
    activations.capture(minilm, corpus, **options)
    monkeypatch.undo()
    monkeypatch.setattr(checks, "MANY_BATCHES", 1)
    activations.capture(minilm, corpus, **options)
    assert "rows x" not in capsys.readouterr().err
    monkeypatch.setattr(checks, "LONG_SECONDS", 0)
    activations.capture(minilm, corpus, **options)
    assert "minilm: 5 rows x 1,536 units: 0.00 GB on disk" in capsys.readouterr().err
    activations.capture(minilm, corpus, progress=False, **options)
    assert "rows x" not in capsys.readouterr().err


def test_rows_carry_the_documents_of_the_corpus_and_the_store_does_not_depend_on_them(minilm, corpus):
    """A renamed document changes no activation, so it makes no other store; the rows say the new name."""
    found = []
    for names in (list("aabbc"), list("xxyyz")):
        named = dataclasses.replace(corpus, frame=corpus.frame.assign(doc_id=names))
        for cache in (None, False):
            stored = activations.capture(minilm, named, sites="layer.0.ffn", cache=cache, progress=False)
            assert stored.rows["document"].tolist() == names
        found.append(activations.capture(minilm, named, sites="layer.0.ffn", progress=False).manifest)
    assert found[0] == found[1]
    plain = activations.capture(minilm, corpus, sites="layer.0.ffn", progress=False)
    assert "document" not in plain.rows and plain.manifest == found[0]


# ---------------------------------------------------------------------------------- several stores, one pass


EACH = {
    "most": {"sites": "ffn", "pool": "max"},
    "mean": {"sites": ["layer.1.ffn", "layer.5.hidden"], "pool": "mean", "dtype": "float32"},
    "first": {"sites": "layer.5.hidden", "pool": "cls"},
    "words": {"sites": "layer.2.hidden", "rows": "word", "pool": "last"},
    "windows": {"sites": "layer.2.hidden", "pool": "mean", "long": "windows"},
}


def test_stores_of_one_pass_are_those_of_a_pass_each(minilm, tmp_path, monkeypatch):
    corpus = texts.Texts.from_list([*SENTENCES, "word " * 900], name="long ones").tokenize()
    passes = []
    original = type(minilm).run
    monkeypatch.setattr(type(minilm), "run", lambda *a, **k: passes.append(1) or original(*a, **k))
    alone = {
        name: activations.capture(minilm, corpus, cache=tmp_path / "alone", progress=False, **arguments)
        for name, arguments in EACH.items()
    }
    separate = len(passes)
    together = activations.capture_each(minilm, corpus, EACH, cache=tmp_path / "one", progress=False)
    assert len(passes) - separate < separate, "nothing was shared"
    assert list(together) == list(EACH)
    for name, expected in alone.items():
        found = together[name]
        pd.testing.assert_frame_equal(found.rows, expected.rows)
        pd.testing.assert_frame_equal(found.units, expected.units)
        np.testing.assert_allclose(found.values, expected.values, atol=2e-3, rtol=1e-3)
        for field in (*plan.IDENTITY, "dropped"):
            assert found.manifest[field] == expected.manifest[field]
        assert len(found.manifest["verified"]) == len(expected.manifest["verified"])
    done = len(passes)
    again = activations.capture_each(minilm, corpus, EACH, cache=tmp_path / "one", progress=False)
    assert len(passes) == done and (again["most"].values == together["most"].values).all()
    activations.capture(minilm, corpus, cache=tmp_path / "one", progress=False, **EACH["mean"])
    assert len(passes) == done, "capture finds what capture_each made"


def test_what_does_not_fit_one_block_is_captured_one_after_another(minilm, tmp_path, monkeypatch):
    monkeypatch.setattr("nbkit.activations.plan.BLOCK_BYTES", 2 * 9216 * 3)
    corpus = texts.Texts.from_list(SENTENCES, name="blocks")
    two = {"most": {"sites": "ffn", "pool": "max"}, "mean": {"sites": "ffn", "pool": "mean"}}
    found = activations.capture_each(minilm, corpus, two, cache=tmp_path, progress=False)
    assert all(len(store.manifest["checksums"]) > 1 for store in found.values())


def test_a_pass_for_several_that_lacks_memory_goes_on_in_halves(minilm, tmp_path, monkeypatch):
    corpus = texts.Texts.from_list(SENTENCES, name="short of memory")
    two = {"most": {"sites": "ffn", "pool": "max"}, "mean": {"sites": "ffn", "pool": "mean"}}
    expected = activations.capture_each(minilm, corpus, two, cache=tmp_path / "a", progress=False)
    original, failed = type(minilm).run, []

    def short(self, batch, sites, **keep):
        if len(failed) < 2:  # the pass itself and its first half; not what verifies the store afterwards
            failed.append(len(batch["input_ids"]))
            raise torch.OutOfMemoryError("injected")
        return original(self, batch, sites, **keep)

    monkeypatch.setattr(type(minilm), "run", short)
    found = activations.capture_each(minilm, corpus, two, cache=tmp_path / "b", progress=False)
    assert failed == [len(SENTENCES), len(SENTENCES) // 2]
    for name in two:
        np.testing.assert_allclose(found[name].values, expected[name].values, atol=2e-3)


def test_texts_without_a_row_share_a_pass(minilm, tmp_path, monkeypatch):
    """A text of signs has no word: alone in its batch, it gives the word rows nothing."""
    corpus = texts.Texts.from_list(["Bananas!", "... " * 400], name="signs").tokenize()
    corpus = dataclasses.replace(corpus, words=corpus.words[corpus.words["text_id"] == 0])
    two = {"word": {"sites": "layer.1.ffn", "rows": "word"}, "text": {"sites": "layer.1.ffn"}}
    monkeypatch.setattr(forward, "token_budget", lambda subject: 1)  # a batch for each text
    found = activations.capture_each(minilm, corpus, two, cache=tmp_path, progress=False)
    assert set(found["word"].rows["text_id"]) == {0} and len(found["text"].rows) == 2
