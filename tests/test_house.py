"""The house rules: rooms import one way and through doors, public names are used, words are the field's."""

import ast
import re
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
#: A room imports only rooms before it.
ROOMS = (
    "stats provenance texts models activations descriptors matching evaluation illusions claims salience"
    " trees plots workshop"
).split()
#: Rooms that implement published methods: their manual says what is from which paper.
WITH_SOURCES = "descriptors matching evaluation illusions claims salience trees".split()

#: Public names that nothing outside their room uses, and why they stay.
UNUSED: dict[str, str] = {
    "trees.TreeDataset": "the type of what dataset makes and the probes take",
    "activations.Quantiles": "quantiles and a sample of rows for a corpus whose activations no disk holds",
    "texts.words_of": "the rule by which plain texts are cut into words, for one text",
    "descriptors.Ledger": "notebook 02 names it in its text; propose(..., ledger=path) makes one",
    "descriptors.Reply": "what a generator of one's own returns",
    "descriptors.Reliability": "what reliability returns",
    "descriptors.reliability": "notebook 02 draws it when it is built next",
    "plots.reliability": "notebook 02 draws it when it is built next",
    "descriptors.Topics": "what topics returns",
    "descriptors.topics": "the clusters of discover on their own",
    "descriptors.Question": 'what label(..., "asked") asks, for those who change its words',
    **{
        f"claims.{name}": "a labeller of one's own choice; notebook 11 takes the usual ones"
        for name in "LABELLERS asked label patterns similarity".split()
    },
    "illusions.agreement_of": "it reads what people answered, which no notebook can hold",
}

#: The project's list of words to avoid, as whole names: of functions, parameters, variables, attributes and
#: columns.
OUT_NAMES = "by control level rate losses Bank term chain chance spread said truth".split()
#: The same as parts of a name (``floors_of``); "held" is out but for what was held out.
OUT_PARTS = re.compile(r"(?:^|_)(?:floors?|fates?|said|truth|bank|held(?!_out))(?:_|$)")
#: The same in docstrings, messages, comments and texts for readers.
OUT_PROSE = re.compile(r"\b(?:floors?|fates?|ours|second hand|an? (?:row|line) an? \w+)\b", re.IGNORECASE)
#: Such words that say something else: why they stay.
ALLOWED_PROSE = {
    "nbkit/texts/grammar.py: ours": "the English pronoun, in lists of pronouns",
}
#: Names that another library or a paper gave: why they stay.
ALLOWED_NAMES = {
    "by": "pandas' own parameter, where a string names it",
}


class Source(NamedTuple):
    """A piece of Python: a file, or a code block of a page (``path`` is the page's)."""

    path: str
    tree: ast.Module
    text: str

    @property
    def room(self) -> str:
        parts = Path(self.path).parts
        return Path(parts[1]).stem if parts[0] == "nbkit" and len(parts) > 1 else ""


def of_folder(pattern: str) -> Iterator[Source]:
    for path in sorted(ROOT.glob(pattern)):
        text = path.read_text(encoding="utf-8")
        yield Source(path.relative_to(ROOT).as_posix(), ast.parse(text), text)


def of_pages(pattern: str) -> Iterator[Source]:
    for path in sorted(ROOT.glob(pattern)):
        blocks = re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
        text = "\n".join(blocks)
        yield Source(path.relative_to(ROOT).as_posix(), ast.parse(text), text)


@cache
def package() -> tuple[Source, ...]:
    return tuple(of_folder("nbkit/**/*.py"))


@cache
def readers() -> tuple[Source, ...]:
    """What uses the package from outside: tests are not among them."""
    scripts = ("notebooks/*.py", "benchmarks/*.py", "tools/*.py", "docs/*.py")
    found = [source for pattern in scripts for source in of_folder(pattern)]
    return (*found, *of_pages("*.md"), *of_pages("docs/*.md"))


@cache
def doors() -> dict[str, tuple[str, ...]]:
    """{room: its ``__all__``}; a room that is one file without one exports all its plain names."""
    found = {}
    for source in package():
        parts = Path(source.path).parts
        if len(parts) == 2 or parts[2] == "__init__.py":
            listed = [
                ast.literal_eval(node.value)
                for node in source.tree.body
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            ]
            found[source.room] = tuple(listed[0]) if listed else ()
    return {room: names for room, names in found.items() if room in ROOMS}


def imports(source: Source) -> Iterator[tuple[str, str]]:
    """Every import from the package as (dotted module below nbkit, imported name)."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nbkit":
            for alias in node.names:
                yield node.module.removeprefix("nbkit").lstrip("."), alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("nbkit."):
                    yield alias.name.removeprefix("nbkit."), ""


def bound(scope: ast.AST) -> set[str]:
    """Names that a function or comprehension binds itself: inside, they are no modules."""
    arguments = {node.arg for node in ast.walk(scope) if isinstance(node, ast.arg)}
    stores = (node for node in ast.walk(scope) if isinstance(node, ast.Name))
    return arguments | {node.id for node in stores if isinstance(node.ctx, ast.Store)}


def attributes(node: ast.AST, rooms: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Every ``room.name`` below ``node``; ``rooms`` are {local name: room}."""
    scopes = (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    if isinstance(node, scopes):
        rooms = {name: room for name, room in rooms.items() if name not in bound(node)}
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in rooms:
        yield rooms[node.value.id], node.attr
    for child in ast.iter_child_nodes(node):
        yield from attributes(child, rooms)


@cache
def uses(source: Source) -> frozenset[tuple[str, str]]:
    """Every (room, name) that ``source`` takes from a room other than its own."""
    taken = list(imports(source))
    found = {(module, name) for module, name in taken if module in doors() and module != source.room}
    rooms = {name: name for module, name in taken if module == "" and name in doors()}
    return frozenset(found | set(attributes(source.tree, rooms)))


def none_of(found: set[str]) -> None:
    """Fails with a line for each of ``found``."""
    assert not found, "\n".join(["", *sorted(found)])


# --------------------------------------------------------------------------------------------- rooms


def test_the_package_is_the_rooms():
    entries = {path.stem for path in (ROOT / "nbkit").iterdir() if not path.name.startswith("__")}
    assert entries - {"data", "py"} <= set(ROOMS)


def test_rooms_import_only_rooms_above_them():
    upward = set()
    for source in (s for s in package() if s.room in ROOMS):
        above = {source.room, *ROOMS[: ROOMS.index(source.room)], "data", ""}
        for module, name in imports(source):
            room = module.split(".")[0] or name
            if room not in above and not room.startswith("__"):
                upward.add(f"{source.path} imports {room}")
    none_of(upward)


def test_nobody_reaches_past_a_door():
    past = set()
    for source in (*package(), *readers()):
        for module, name in imports(source):
            room, *inside = module.split(".")
            if room in ROOMS and room != source.room and inside:
                past.add(f"{source.path}: from nbkit.{module} import {name}")
        for room, name in uses(source):
            if doors()[room] and name not in (*doors()[room], "*"):
                past.add(f"{source.path}: {room}.{name} is not in the door of {room}")
    none_of(past)


def test_every_public_name_is_used_or_explained():
    used = {use for source in (*package(), *readers()) for use in uses(source)}
    idle = {f"{room}.{name}" for room, names in doors().items() for name in names if (room, name) not in used}
    assert set(UNUSED) <= idle, f"used by now: {set(UNUSED) - idle}"
    none_of(idle - set(UNUSED))


def test_every_room_has_a_door_and_a_manual():
    bare = {f"{room}: no __all__" for room, names in doors().items() if not names}
    for source in package():
        manual = ast.get_docstring(source.tree) or ""
        if len(manual.split()) < 4:
            bare.add(f"{source.path}: no docstring that says anything")
        door = source.path in (f"nbkit/{source.room}/__init__.py", f"nbkit/{source.room}.py")
        if door and source.room in WITH_SOURCES and not re.search(r"^Sources\b", manual, re.MULTILINE):
            bare.add(f"{source.path}: no Sources")
    none_of(bare)


def test_every_function_that_others_call_says_what_it_does():
    silent = {
        f"{source.path}: {node.name}"
        for source in package()
        for node in source.tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    }
    none_of(silent)


# --------------------------------------------------------------------------------------------- sizes


def functions(source: Source) -> Iterator[tuple[str, int, int]]:
    """Name, lines, and lines without the docstring, of every function."""
    for node in ast.walk(source.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines, told = node.end_lineno - node.lineno + 1, 0
            if ast.get_docstring(node):
                told = node.body[0].end_lineno - node.body[0].lineno + 1
            yield node.name, lines, lines - told


def test_files_and_functions_are_short():
    long = {s.path for s in package() if len(s.text.splitlines()) > 500}
    sizes = [(f"{s.path}: {name}", whole, code) for s in package() for name, whole, code in functions(s)]
    none_of(long | {where for where, whole, _ in sizes if whole > 60})
    assert statistics.median(code for *_, code in sizes) <= 8


# --------------------------------------------------------------------------------------------- words


def names_of(source: Source) -> Iterator[str]:
    """Every name that ``source`` gives: functions, classes, parameters, variables, columns."""
    for node in ast.walk(source.tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value


def test_names_are_the_fields():
    odd = set()
    for source in (*package(), *(s for s in readers() if not s.path.startswith("docs"))):
        for name in set(names_of(source)):
            if (name in OUT_NAMES or OUT_PARTS.search(name)) and name not in ALLOWED_NAMES:
                odd.add(f"{source.path}: {name}")
    none_of(odd)


def prose() -> Iterator[tuple[str, str]]:
    for pattern in ("nbkit/**/*.py", "notebooks/*.py", "notebooks/*.toml", "benchmarks/*.py", "tools/*.py"):
        for path in sorted(ROOT.glob(pattern)):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))):
        if path.name != "CHANGELOG.md":  # it lists old names beside new ones
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def test_prose_has_no_private_vocabulary():
    odd = {f"{path}: {word}" for path, text in prose() for word in set(OUT_PROSE.findall(text))}
    none_of(odd - set(ALLOWED_PROSE))


# --------------------------------------------------------------------------------------------- files


def test_text_is_read_and_written_as_utf8():
    bare = set()
    tests = (*of_folder("tests/*.py"), *of_folder("tests/browser/*.py"))  # some run in a plain locale
    for source in (*package(), *readers(), *tests):
        for call in (node for node in ast.walk(source.tree) if isinstance(node, ast.Call)):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            if name in ("read_text", "write_text") or (name == "open" and in_text_mode(call)):
                if not any(keyword.arg == "encoding" for keyword in call.keywords):
                    bare.add(f"{source.path}: {ast.unparse(call)[:70]}")
    none_of(bare)


def in_text_mode(call: ast.Call) -> bool:
    """``open(path)``, ``open(path, "w")`` or ``path.open("w")``; not ``Image.open(path)``."""
    if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in ("Image", "os"):
        return False
    given = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    texts = [node.value for value in given for node in ast.walk(value) if isinstance(node, ast.Constant)]
    return not any(isinstance(text, str) and re.fullmatch("[rwax+]*b[+]?", text) for text in texts)
