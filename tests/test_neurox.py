"""NeuroX files: what is written comes back, whatever the words are."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbkit.activations import Activations, neurox

WORDS = st.lists(st.text("aé1( )\u00a0", min_size=1, max_size=6), min_size=1, max_size=5)


def stored(sentences):
    forms = [form for words in sentences for form in words]
    rows = pd.DataFrame({"text_id": np.repeat(np.arange(len(sentences)), [len(s) for s in sentences])})
    rows["word_id"], rows["form"] = rows.groupby("text_id").cumcount() + 1, forms
    units = pd.DataFrame({"unit": [f"embeddings.{i}" for i in range(2)], "site": "embeddings"})
    values = np.arange(2 * len(rows), dtype=np.float32).reshape(-1, 2)
    return Activations(values, rows, units.assign(layer=-1, index=[0, 1]), {"corpus": "c", "rows": "word"})


@pytest.mark.parametrize("ending", ["hdf5", "json"])
@settings(deadline=None, max_examples=60)
@given(sentences=st.lists(WORDS, min_size=1, max_size=4))
def test_words_come_back_spaces_and_repeated_sentences_included(tmp_path_factory, ending, sentences):
    made = stored(sentences)
    found = neurox.read(neurox.write(tmp_path_factory.mktemp("x") / f"a.{ending}", made))
    assert found.rows["form"].tolist() == made.rows["form"].tolist()
    assert found.rows["text_id"].tolist() == made.rows["text_id"].tolist()
    assert np.array_equal(found.values, made.values) and found.units.equals(made.units)


def test_words_without_spaces_leave_the_file_as_neurox_writes_it(tmp_path):
    with h5py.File(neurox.write(tmp_path / "a.hdf5", stored([["10", "000"], ["10 000"]]))) as file:
        assert json.loads(file["sentence_to_index"][0]) == {"10 000": "0", "10 000 (Occurrence 2)": "1"}
        assert not list(file["0"].attrs) and file["1"].attrs["parts"].tolist() == [2]
