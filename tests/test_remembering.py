"""The sentence encoder that remembers, against sentence-transformers' own."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from nbkit import descriptors, models
from nbkit.models import remembering

PHRASES = ["cats", "a train", "cats", "the weather of the north"]


@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_are_those_of_sentence_transformers(monkeypatch, normalize):
    encoder = models.sentence_encoder()
    options = {"normalize_embeddings": normalize, "show_progress_bar": False}
    expected = SentenceTransformer.encode(encoder, PHRASES, **options)
    encoder.encode(PHRASES[:2], **options)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-6)
    for _ in range(2):
        np.testing.assert_allclose(encoder.encode(PHRASES, **options), expected, atol=1e-6)
    monkeypatch.setattr(remembering, "MOST", 0)  # what is over the limit is embedded again
    np.testing.assert_allclose(encoder.encode(PHRASES, **options), expected, atol=1e-6)


def test_what_is_known_is_not_embedded_again(monkeypatch):
    encoder = models.sentence_encoder()
    encoder.encode(PHRASES)
    monkeypatch.setattr(SentenceTransformer, "encode", lambda *_, **__: pytest.fail("embedded again"))
    assert encoder.encode(PHRASES[::-1]).shape == (4, 384)


def test_keyphrases_come_from_the_encoder_on_board(monkeypatch):
    """KeyBERT knows an encoder by the name of its class, and would fetch another from the hub."""
    import keybert._model

    monkeypatch.setattr(keybert._model, "select_backend", lambda given, *_: given)
    messages = descriptors.Prompt().messages("The soup was cold, and nobody came to ask.")
    assert "soup" in descriptors.connect("keyphrase").complete(messages).text
