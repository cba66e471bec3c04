"""Provenance: files that are there whole or not at all."""

import pytest

from nbkit import provenance


def test_atomic_replaces_the_file_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "facts.json"
    with provenance.atomic(path) as part:
        part.write_text("one", encoding="utf-8")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "one"
    with pytest.raises(KeyboardInterrupt), provenance.atomic(path) as part:
        part.write_text("half of", encoding="utf-8")
        raise KeyboardInterrupt
    assert path.read_text(encoding="utf-8") == "one" and [p.name for p in path.parent.iterdir()] == [
        "facts.json"
    ]
