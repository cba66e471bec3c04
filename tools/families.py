"""The book's table of families: runs their tests and writes docs/families.md, one line for each family.

python tools/families.py
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("tests/test_families.py", "tests/test_models.py")
#: Tests of every family, by file and column: the others are of single traps.
COLUMNS = {
    "widths": "test_sites_widths_and_facts test_frame_of_sites",
    "hidden states": "test_hidden_sites_equal_transformers",
    "arithmetic": "test_sites_are_what_goes_in_and_comes_out test_sites_against_matrix_arithmetic",
    "edits": "test_an_edit_changes_what_follows_and_nothing_before"
    " test_an_edit_reaches_its_site_and_what_follows",
    "padding": "test_padding_and_order_leave_the_numbers test_padding_does_not_change_the_numbers",
    "length": "test_sites_widths_and_facts test_max_length_is_what_the_model_can_take",
    "fingerprint": "test_random_copy_and_fingerprint test_randomized_is_a_deterministic_control",
}
HEAD = """# Families of models

Made by `python tools/families.py` with transformers {version}: {n} families, {passed} tests passed and
{failed} failed. Every line is a tiny model with random weights. {guessed} families have no record in
`models.ARCHITECTURES`: their sites were guessed by shape.

- hidden states: `embeddings` and every `layer.N.hidden` equal transformers' `output_hidden_states`, the last
  one after the final norm where there is one
- arithmetic: `attention` is `heads` times the projection's weights; a gated `ffn` is act(`gate`) · `up`
- edits: a changed site changes what follows and nothing before
- padding: a text alone, in a batch, and in a batch reversed

"""


class Outcomes:
    """A pytest plugin: what each test of each family came to."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
        self.passed = self.failed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name, _, kinds = report.nodeid.rpartition("::")[2].partition("[")
        if report.when != "call" and not report.failed:
            return
        self.passed, self.failed = self.passed + report.passed, self.failed + report.failed
        for family in kinds.rstrip("]").split("-layer")[:1]:
            for part in {family, family.partition("-")[2], family.rpartition("-")[0]}:
                self.found[part][name].append(report.passed)


def main() -> int:
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    outcomes = Outcomes()
    pytest.main(["-q", "-p", "no:cacheprovider", *(str(ROOT / test) for test in TESTS)], plugins=[outcomes])
    import test_families
    import test_models

    known, guessed = set(test_families.FAMILIES), set(test_families.GUESSED)
    lines = ["| family | sites in a block | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    every = [*test_models.CONFIGS, *test_families.EVERY]
    for family in every:
        gated = family in known | guessed and test_families.EVERY[family].gated
        sites = "heads, attention, " + ("gate, up, " if gated else "") + "ffn, hidden"
        seen = outcomes.found[family]
        marks = [
            mark([ok for name in names.split() for ok in seen.get(name, [])]) for names in COLUMNS.values()
        ]
        lines.append(
            f"| {family}{' (guessed)' if family in guessed else ''} | {sites} | " + " | ".join(marks) + " |"
        )
    head = HEAD.format(
        version=importlib.metadata.version("transformers"),
        n=len(every),
        passed=outcomes.passed,
        failed=outcomes.failed,
        guessed=len(guessed),
    )
    (ROOT / "docs" / "families.md").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    return int(bool(outcomes.failed))


def mark(results: list[bool]) -> str:
    """How a cell reads: all passed, or how many did."""
    return "–" if not results else "ok" if all(results) else f"{sum(results)} of {len(results)}"


if __name__ == "__main__":
    sys.exit(main())
