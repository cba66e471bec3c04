"""``claims.read``: files in each published format, one malformed of each, and rules for the rest."""

import gzip
import json
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbkit import claims, models


def neuronpedia(index, description, *, layer="6-res-jb", model="gpt2-small", **more):
    """A line of an export, with the fields that its schema has."""
    return {
        "modelId": model,
        "layer": layer,
        "index": str(index),
        "description": description,
        "authorId": "clkht01d40000jv08hvalcvly",
        "triggeredByUserId": None,
        "notes": None,
        "typeName": "oai_token-act-pair",
        "explanationModelName": "gpt-4o-mini",
        "embedding": [0.1, -0.2, 0.3],
        **more,
    }


def lines(found):
    return "".join(json.dumps(line) + "\n" for line in found)


def units(frame):
    return dict(zip(frame["description"], frame["unit"], strict=True))


def test_neuronpedia_batches(tmp_path):
    (tmp_path / "batch-0.jsonl").write_text(
        lines([neuronpedia(650, " terms of law"), neuronpedia(3, "numbers")]), encoding="utf-8"
    )
    more = [neuronpedia(7, "dates", layer="0-res-jb"), neuronpedia(9, "war", layer="12-res-jb")]
    with gzip.open(tmp_path / "batch-1.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(lines(more))
    found = claims.read(tmp_path, "gpt2")
    assert units(found) == {
        "terms of law": "layer.5.hidden.sae.650",
        "numbers": "layer.5.hidden.sae.3",
        "dates": "embeddings.sae.7",
        "war": "layer.11.hidden.sae.9",
    }
    assert found["made_by"].unique().tolist() == ["gpt-4o-mini"]
    assert found["source"].tolist()[0] == "batch-0.jsonl:1"
    assert found.attrs["dropped"] == {}


@pytest.mark.parametrize(
    ("model", "layer", "unit"),
    [
        ("gemma-2-2b", "20-gemmascope-res-16k", "layer.20.hidden.sae.5"),
        ("gemma-2b", "6-res-jb", "layer.6.hidden.sae.5"),
        ("gemma-2-2b", "6-gemmascope-att-16k", "layer.6.heads.sae.5"),
        ("llama3.1-8b-it", "19-resid-post-aa", "layer.19.hidden.sae.5"),
        ("pythia-70m-deduped", "3-att-sm", "layer.3.attention.sae.5"),
        ("pythia-70m-deduped", "e-res-sm", "embeddings.sae.5"),
        ("gpt2-small", "9", "layer.9.ffn.5"),
    ],
)
def test_neuronpedia_sources(tmp_path, model, layer, unit):
    path = tmp_path / "batch-0.jsonl"
    path.write_text(lines([neuronpedia(5, "x", layer=layer, model=model)]), encoding="utf-8")
    assert claims.read(path, model)["unit"].tolist() == [unit]


def test_neuronpedia_with_bad_lines(tmp_path, caplog):
    path = tmp_path / "batch-0.jsonl"
    good = [
        neuronpedia(1, "law"),
        neuronpedia(1, "LAW"),
        neuronpedia(2, "x" * 5, layer="6-gemmascope-mlp-16k"),
        neuronpedia(3, "   "),
        neuronpedia(4, "word " * 2000),
        neuronpedia(5, "food", model="gemma-2-2b"),
        neuronpedia("five", "sport"),
    ]
    text = lines(good) + '{"modelId": "gpt2-small", "layer"\n42\nnull\n'
    path.write_text(text + "\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        found = claims.read(path, "gpt2-small")
    assert found["description"].tolist() == ["law"]
    assert found.attrs["dropped"] == {
        "repeated claims": 1,
        "of '6-gemmascope-mlp-16k', which has no site here": 1,
        "empty descriptions": 1,
        "descriptions of more than 200 words": 1,
        "about another model (gemma-2-2b)": 1,
        "no index of a unit": 1,
        "lines that cannot be read": 3,
    }
    assert "3 lines that cannot be read" in caplog.text


def test_a_cut_archive_gives_what_came_out(tmp_path):
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), 9)) for _ in range(3000)]
    whole = gzip.compress(lines(neuronpedia(i, word) for i, word in enumerate(words)).encode())
    path = tmp_path / "batch-0.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    found = claims.read(path)
    assert 0 < len(found) < 3000
    assert found.attrs["dropped"]["archives that are damaged"] == 1


def test_delphi_folder(tmp_path):
    texts = {
        "layers.9_latent123.txt": "Verbs of motion",
        "transformer.h.2.attn_latent7.txt": "Commas",
        "model.layers.0.self_attn_latent5.txt": "Names",
        "layers.9.mlp_latent5.txt": "no site",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(json.dumps(text), encoding="utf-8")
    (tmp_path / "layers.9_latent124.txt").write_text('"cut', encoding="utf-8")
    (tmp_path / "layers.9_latent125.txt").write_text('{"a": 1}', encoding="utf-8")
    (tmp_path / "README.txt").write_text("about", encoding="utf-8")
    found = claims.read(tmp_path)
    assert units(found) == {
        "Verbs of motion": "layer.9.hidden.sae.123",
        "Commas": "layer.2.attention.sae.7",
        "Names": "layer.0.attention.sae.5",
    }
    assert found.attrs["dropped"] == {
        "files of another kind": 1,
        "of 'layers.9.mlp', which has no site here": 1,
        "files that cannot be read": 2,
    }
    named = claims.read(tmp_path, sites={"layers.9.mlp": "layer.9.ffn.sae"})
    assert units(named)["no site"] == "layer.9.ffn.sae.5"


def explainer(layer, neuron, *explanations):
    """What OpenAI's neuron-explainer writes for a neuron."""
    return {
        "dataclass_name": "NeuronSimulationResults",
        "neuron_id": {"dataclass_name": "NeuronId", "layer_index": layer, "neuron_index": neuron},
        "scored_explanations": [
            {
                "dataclass_name": "ScoredExplanation",
                "explanation": text,
                "scored_simulation": {"ev_correlation_score": 0.3},
            }
            for text in explanations
        ],
    }


def test_neuron_explainer(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        lines([explainer(9, 6236, "pain", "suffering"), {**explainer(9, 1), "scored_explanations": [5]}]),
        encoding="utf-8",
    )
    (tmp_path / "b.json").write_text(json.dumps(explainer(10, 2, "law"), indent=1), encoding="utf-8")
    (tmp_path / "c.json").write_text('{"neuron_id": {\n', encoding="utf-8")
    found = claims.read(tmp_path)
    assert units(found) == {
        "pain": "layer.9.ffn.6236",
        "suffering": "layer.9.ffn.6236",
        "law": "layer.10.ffn.2",
    }
    assert found.attrs["dropped"] == {"lines that cannot be read": 1, "files that cannot be read": 1}


def test_transluce_like_json(tmp_path):
    path = tmp_path / "neurons.json"
    listed = [
        {"layer": 3, "neuron": 5, "explanation": "cities"},
        {"layer": 3, "neuron": 5, "polarity": "negative", "explanation": "villages"},
        {"layer": 4, "neuron": 6, "explanations": {"positive": {"explanation": "up"}, "negative": ["down"]}},
        {"layer": 4, "neuron": 7, "explanations": ["one", "two"]},
        {"layer": 4, "neuron": 8, "explanation": None},
        "nonsense",
    ]
    path.write_text(json.dumps(listed), encoding="utf-8")
    found = claims.read(path)
    by_text = dict(zip(found["description"], zip(found["unit"], found["sign"], strict=True), strict=True))
    assert by_text == {
        "cities": ("layer.3.ffn.5", 1),
        "villages": ("layer.3.ffn.5", -1),
        "up": ("layer.4.ffn.6", 1),
        "down": ("layer.4.ffn.6", -1),
        "one": ("layer.4.ffn.7", 1),
        "two": ("layer.4.ffn.7", 1),
    }
    assert found.attrs["dropped"] == {"empty descriptions": 1, "lines that cannot be read": 1}


@pytest.mark.parametrize(
    "text",
    [
        'unit,description\nlayer.3.ffn.5,"cities, towns"\nL2N7,war\n1/3,sea\nblocks.2.mlp.hook_post.4,sun\n',
        "layer;neuron;explanation\n3;5;cities, towns\n2;7;war\n1;3;sea\n2;4;sun\n",
        "unit\tdescription\nlayer.3.ffn.5\tcities, towns\nL2N7\twar\nlayer 1 neuron 3\tsea\n2:4\tsun\n",
    ],
)
def test_tables(tmp_path, text):
    path = tmp_path / "mine.csv"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    expected = {
        "cities, towns": "layer.3.ffn.5",
        "war": "layer.2.ffn.7",
        "sea": "layer.1.ffn.3",
        "sun": "layer.2.ffn.4",
    }
    assert units(claims.read(path)) == expected


def test_a_table_with_bad_rows(tmp_path):
    path = tmp_path / "mine.csv"
    rows = ["unit,description", "layer.1.ffn.1,sea", "layer.1.ffn.2", "a,b,c", 'layer.1.ffn.3,"open', "x,y"]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    found = claims.read(path)
    assert units(found) == {"sea": "layer.1.ffn.1", "open x,y": "layer.1.ffn.3"}
    assert found.attrs["dropped"] == {"lines that cannot be read": 2}


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no claims at"):
        claims.read(tmp_path / "nothing.csv")
    (tmp_path / "a.csv").write_text("name,text\n1,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no column of descriptions"):
        claims.read(tmp_path / "a.csv")
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(ValueError, match="in no format of claims"):
        claims.read(tmp_path / "a.pdf")
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="it is empty"):
        claims.read(tmp_path / "empty.jsonl")


def test_units_of_the_subject(tmp_path):
    subject = models.load()
    path = tmp_path / "mine.csv"
    path.write_text(
        "unit,description\nlayer.3.ffn.1535,a\nlayer.3.ffn.1536,b\nlayer.6.ffn.1,c\nlayer.3.hidden.sae.9,d\n",
        encoding="utf-8",
    )
    found = claims.read(path, subject)
    assert found["description"].tolist() == ["a", "d"]
    assert found.attrs["dropped"] == {"units that the subject does not have": 2}


# ------------------------------------------------------------------------------------------- rules

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(st.lists(st.tuples(st.integers(0, 99), TEXT), min_size=1, max_size=20))
def test_every_line_is_a_claim_or_counted(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("claims") / "batch-0.jsonl"
    path.write_text(lines(neuronpedia(i, text) for i, text in made), encoding="utf-8")
    try:
        found = claims.read(path)
    except ValueError as error:
        assert "no claim is left" in str(error)
        assert not any(text.replace("\0", "").split() for _, text in made)
        return
    assert len(found) + sum(found.attrs["dropped"].values()) == len(made)
    assert not found.duplicated(["unit", "description"]).any()
    assert (found["description"].str.split().str.len() > 0).all()
    assert found["claim"].tolist() == list(range(len(found)))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | TEXT,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["layer", "index", "description", "explanations", "neuron_id", "sign", "unit"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_no_json_stops_the_reading(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("claims") / "batch-0.jsonl"
    path.write_text(lines([value, neuronpedia(1, "law")]), encoding="utf-8")
    assert "law" in claims.read(path)["description"].tolist()
