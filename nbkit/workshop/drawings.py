"""One drawing for a notebook: where in the model, and what is compared with what.

Each returns its matplotlib ``Axes``. What is red is what the notebook is about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from nbkit.plots import short

INK, FILL, BLUE, RED = "#333333", "#F2F2F2", "#0072B2", "#D55E00"


def block(hidden: int = 384, ffn: int = 1536) -> Axes:
    """One block of a transformer, and the places in it where we listen (notebook 00)."""
    ax = _canvas(10, 2.9)
    _column(ax, 0.3, 1.1, "hidden state\nof a token", f"{hidden} units")
    _box(ax, 1.6, 1.2, 1.5, 0.9, "attention:\nother tokens")
    _plus(ax, 3.6, 1.65)
    _box(ax, 4.2, 1.2, 0.9, 0.9, "matrix 1\nGELU")
    _column(ax, 5.75, 0.9, "FFN", f"{ffn:,} units", rows=7, red=4)
    _box(ax, 6.7, 1.2, 0.9, 0.9, "matrix 2")
    _plus(ax, 8.1, 1.65)
    _column(ax, 8.9, 1.1, "next\nhidden state", f"{hidden} units")
    for x, to in ((0.62, 1.6), (3.1, 3.45), (3.75, 4.2), (5.1, 5.72), (6.07, 6.7), (7.6, 7.95), (8.25, 8.87)):
        _arrow(ax, (x, 1.65), (to, 1.65))
    for start, end in ((1.1, 3.6), (3.9, 8.1)):  # what is added goes past
        ax.plot([start, start, end, end], [1.65, 2.55, 2.55, 1.8], color=INK, lw=0.9)
    for x, site in ((2.85, "heads"), (3.32, "attention"), (5.9, "ffn"), (9.05, "hidden")):
        high, start = {"heads": (0.62, 1.15), "attention": (0.3, 1.55)}.get(site, (0.3, 0.72))
        _arrow(ax, (x, start), (x, high + 0.06), color=BLUE)
        ax.text(x, high, site, color=BLUE, ha="center", va="top", family="monospace", fontsize=9)
    ax.text(5.55, 2.2, "one unit", color=RED, ha="right", fontsize=9)
    _arrow(ax, (5.55, 2.15), (5.76, 1.75), color=RED)
    return ax


def pooling(tokens: Sequence[str], special: Sequence[int], values: np.ndarray) -> Axes:
    """From one number for each token to one for the text (notebook 01).

    tokens   of one text with its padding
    special  positions that stay out: special tokens and padding
    values   [token] activations of one unit
    """
    ax, n = _canvas(0.95 * len(tokens) + 2.6, 1.7), len(tokens)
    own = [i for i in range(n) if i not in set(special)]
    scale = max(1e-9, float(np.max(np.abs(np.asarray(values)[own]))))
    best = own[int(np.argmax(np.asarray(values)[own]))]
    for i, token in enumerate(tokens):
        out, strength = i in set(special), float(values[i]) / scale
        color = FILL if out else plt.get_cmap("Oranges")(0.75 * max(0.0, strength))
        edge = RED if i == best else INK
        ax.add_patch(Rectangle((0.95 * i, 0.5), 0.88, 0.55, fc=color, ec=edge, lw=2 if i == best else 0.7))
        ax.text(
            0.95 * i + 0.44, 0.775, "" if out else f"{values[i]:.2f}", ha="center", va="center", fontsize=9
        )
        ax.text(
            0.95 * i + 0.44, 1.2, short(token, 11), ha="center", fontsize=9, color="#999999" if out else INK
        )
        if out:
            ax.plot([0.95 * i, 0.95 * i + 0.88], [0.5, 1.05], color="#999999", lw=1)
    inside = np.asarray(values)[own]
    told = f"maximum {inside.max():.2f}\nmean {inside.mean():.2f}"
    ax.text(0.95 * n + 0.7, 0.775, told, va="center", fontsize=10)
    _arrow(ax, (0.95 * n + 0.05, 0.775), (0.95 * n + 0.6, 0.775))
    ax.text(
        0, 0.2, "crossed out: special tokens and padding are no part of the text", fontsize=9, color="#777777"
    )
    return ax


def strips(panels: Mapping[str, tuple[np.ndarray, np.ndarray]], seed: int = 0) -> Axes:
    """Texts by activation, those with the descriptor above those without (notebook 03).

    panels  {title: (activations [text], labels [text])}
    """
    ax, rng = _canvas(9, 0.75 + 1.15 * len(panels)), np.random.default_rng(seed)
    for row, (title, (values, labels)) in enumerate(panels.items()):
        y = 1.15 * (len(panels) - row) - 0.65
        low, high = float(np.min(values)), float(np.max(values))
        x = 2.6 + 6.2 * (np.asarray(values) - low) / max(1e-9, high - low)
        on = np.asarray(labels) > 0.5
        for mine, height, color in ((on, y + 0.45, RED), (~on, y, BLUE)):
            ax.scatter(
                x[mine], height + rng.uniform(-0.14, 0.14, mine.sum()), s=7, color=color, alpha=0.4, lw=0
            )
        ax.text(0, y + 0.22, title, va="center", fontsize=10)
    top = 1.15 * len(panels) + 0.35
    ax.text(2.6, top, "with the descriptor", color=RED, fontsize=9)
    ax.text(4.8, top, "without", color=BLUE, fontsize=9)
    ax.text(8.8, top, "activation →", ha="right", fontsize=9)
    return ax


def comparison(names: Sequence[str]) -> Axes:
    """Within and across corpora: where a tag is chosen, and where it is looked up (notebook 04)."""
    home, *others = list(names)
    ax = _canvas(9, 2.7)
    _box(ax, 0.1, 1.5, 1.9, 0.8, f"{short(home, 16)}\nfirst half", edge=RED)
    _box(ax, 0.1, 0.3, 1.9, 0.8, f"{short(home, 16)}\nsecond half")
    ax.text(0.1, 2.45, "a tag is chosen here", color=RED, fontsize=9)
    step = 5.2 / max(1, len(others))
    for i, other in enumerate(others):
        x = 3.8 + i * step
        _box(ax, x, 0.3, min(1.6, step - 0.15), 0.8, f"{short(other, 14)}\nsecond half")
        _arrow(ax, (2.05, 1.8), (x + min(0.8, step / 2), 1.15), color=RED)
    _arrow(ax, (1.05, 1.45), (1.05, 1.15), color=BLUE)
    ax.text(1.2, 1.3, "within", color=BLUE, fontsize=10, va="center")
    ax.text(4.6, 1.95, "across", color=RED, fontsize=10)
    ax.text(5.6, 1.95, "illusion gap = within − across", fontsize=10)
    return ax


def planting(ffn: int = 1536) -> Axes:
    """A planted unit: a row drawn into the first matrix, its column in the second set to zero (05)."""
    ax = _canvas(9, 2.6)
    _column(ax, 0.3, 0.9, "hidden state", "")
    _grid(ax, 1.6, 0.5, 6, 7, row=3)
    ax.text(2.4, 2.35, "matrix 1", ha="center", fontsize=9)
    _column(ax, 4.3, 0.5, f"FFN, {ffn:,} units", "", rows=7, red=3)
    _grid(ax, 5.5, 0.5, 6, 7, column=3)
    ax.text(6.3, 2.35, "matrix 2", ha="center", fontsize=9)
    _column(ax, 8.0, 0.9, "next", "")
    for x, to in ((0.65, 1.5), (3.35, 4.2), (4.65, 5.4), (7.25, 7.9)):
        _arrow(ax, (x, 1.4), (to, 1.4))
    ax.text(1.6, 0.2, "trained to detect a descriptor", color=RED, fontsize=9)
    ax.text(5.5, 0.2, "zeros: nothing hears it", color="#777777", fontsize=9)
    return ax


def masks(accuracies: Mapping[str, tuple[int, float]], total: int) -> Axes:
    """Some units are kept, a probe names the class (notebook 06).

    accuracies  {what is kept: (number of units, accuracy)}
    """
    ax, cells = _canvas(9, 0.5 + 0.62 * len(accuracies)), 60
    for i, (what, (n, accuracy)) in enumerate(accuracies.items()):
        y = 0.62 * (len(accuracies) - i) - 0.35
        kept = set(np.linspace(0, cells - 1, max(1, round(cells * n / total))).round().astype(int).tolist())
        for cell in range(cells):
            color = RED if cell in kept else FILL
            ax.add_patch(Rectangle((2.3 + 0.065 * cell, y), 0.06, 0.3, fc=color, ec="#CCCCCC", lw=0.4))
        ax.text(0, y + 0.15, what, va="center", fontsize=10)
        _arrow(ax, (6.3, y + 0.15), (6.7, y + 0.15))
        ax.text(6.8, y + 0.15, "probe", va="center", fontsize=10)
        _arrow(ax, (7.35, y + 0.15), (7.75, y + 0.15))
        ax.text(7.85, y + 0.15, f"{accuracy:.2f} right", va="center", fontsize=10)
    ax.text(2.3, 0.62 * len(accuracies) + 0.12, f"{total:,} hidden units of a word", fontsize=9)
    return ax


def heights(words: Sequence[str], heads: Sequence[int]) -> Axes:
    """A sentence as points at the height of their depth in the tree (notebook 07).

    heads  [word] position of each word's head from 1, 0 for the root
    """
    depth = [0] * len(words)
    for i in range(len(words)):
        node = i
        while heads[node]:
            depth[i], node = depth[i] + 1, heads[node] - 1
    ax = _canvas(1.05 * len(words) + 2.2, 0.75 * max(depth) + 1.2)
    y = [0.6 + 0.75 * (max(depth) - d) for d in depth]
    for i, head in enumerate(heads):
        if head:
            ax.plot(
                [1.05 * i + 0.5, 1.05 * (head - 1) + 0.5],
                [y[i], y[head - 1]],
                color="#AAAAAA",
                lw=1,
                zorder=0,
            )
    for i, word in enumerate(words):
        ax.scatter(1.05 * i + 0.5, y[i], s=55, color=RED)
        ax.text(1.05 * i + 0.5, y[i] - 0.2, short(word, 12), ha="center", va="top", fontsize=9)
    for d in range(max(depth) + 1):
        ax.text(
            1.05 * len(words) + 0.4, 0.6 + 0.75 * (max(depth) - d), f"depth {d + 1}", va="center", fontsize=9
        )
    return ax


def auxiliary_loss(layer: int, weight: float) -> Axes:
    """The two losses of notebook 08: the task's, and a tree in a layer."""
    ax = _canvas(9.4, 2.4)
    for x, wide, text in (
        (0.1, 1.1, "sentence"),
        (1.7, 1.3, f"layers\n0 to {layer}"),
        (3.5, 1.3, "layers\nabove"),
    ):
        _box(ax, x, 1.4, wide, 0.8, text)
    _box(ax, 5.3, 1.4, 1.3, 0.8, "classifier")
    ax.text(7.1, 1.8, "loss of the task", fontsize=10, va="center")
    _box(ax, 3.5, 0.2, 1.3, 0.8, "probe B\n(fitted first)")
    _box(ax, 5.3, 0.2, 1.3, 0.8, "depths of\nsome tree")
    ax.text(7.1, 0.6, f"+ {weight:g} × distance to it", color=RED, fontsize=10, va="center")
    for start, end in (((1.2, 1.8), (1.65, 1.8)), ((3.0, 1.8), (3.45, 1.8)), ((4.8, 1.8), (5.25, 1.8))):
        _arrow(ax, start, end)
    _arrow(ax, (6.6, 1.8), (7.05, 1.8))
    for start, end in (((2.6, 1.38), (3.45, 0.6)), ((4.8, 0.6), (5.25, 0.6)), ((6.6, 0.6), (7.05, 0.6))):
        _arrow(ax, start, end, color=RED)
    return ax


def funnel(steps: Mapping[str, int], matrix: np.ndarray) -> Axes:
    """From words to a label matrix (notebook 02): {step: how many are left}, and some labels (1 or 0)."""
    ax = _canvas(2.6 * len(steps) + 0.25 * matrix.shape[1] + 0.9, 2.1)
    for i, (what, n) in enumerate(steps.items()):
        high = 1.7 - 0.4 * i
        _box(ax, 2.6 * i + 0.05, 1 - high / 2, 1.9, high, f"{n:,}\n{what}")
        _arrow(ax, (2.6 * i + 2.0, 1), (2.6 * i + 2.6, 1), color=RED if i + 1 == len(steps) else INK)
    x = 2.6 * len(steps) + 0.1
    for (row, column), on in np.ndenumerate(matrix):
        place = x + 0.25 * column, 1.55 - 0.25 * row
        ax.add_patch(Rectangle(place, 0.25, 0.25, fc=RED if on else "w", ec=INK, lw=0.5))
    ax.text(x, 1.85, "descriptors →", fontsize=9)
    ax.text(x + 0.25 * matrix.shape[1] + 0.05, 1.8, "texts\n↓", fontsize=9, va="top")
    return ax


def reading(unit: str, corpora: Sequence[str]) -> Axes:
    """Where to look first, second, third and fourth in the browser (notebook 09)."""
    ax = _canvas(9, 3)
    _box(ax, 0.4, 2.15, 8.2, 0.65, f"{unit}: its tags, a column for each corpus")
    ax.text(0.05, 2.48, "1", color=RED, fontsize=14, va="center")
    for i, name in enumerate(list(corpora)[:2]):
        x = 0.4 + 4.15 * i
        _box(ax, x, 1.2, 4.05, 0.75, f"histogram of {short(name, 16)}")
        _box(ax, x, 0.3, 4.05, 0.75, "its strongest texts, each token")
        ax.add_patch(Rectangle((x + 2.95, 0.42), 0.85, 0.13, fc=RED, alpha=0.4, lw=0))
    ax.text(0.05, 1.58, "2", color=RED, fontsize=14, va="center")
    ax.text(0.05, 0.68, "3", color=RED, fontsize=14, va="center")
    ax.text(3.35, 0.05, "4: the shading", color=RED, fontsize=10, va="bottom")
    return ax


def links(made_from: Mapping[str, str]) -> Axes:
    """What made a figure, each link with its fingerprint (notebook 10): {name: fingerprint}."""
    ax = _canvas(2.4 * len(made_from), 1.3)
    for i, (name, mark) in enumerate(made_from.items()):
        _box(
            ax,
            2.4 * i + 0.05,
            0.25,
            1.7,
            0.85,
            f"{name}\n{short(mark, 12)}",
            edge=RED if i + 1 == len(made_from) else INK,
        )
        if i:
            _arrow(ax, (2.4 * i - 0.62, 0.68), (2.4 * i + 0.02, 0.68))
    return ax


def judging(names: Sequence[str]) -> Axes:
    """From a claim to its verdict, over several corpora (notebook 11)."""
    high = max(2.2, 0.55 * len(names) + 0.5)
    ax, middle = _canvas(9.6, high), high / 2
    _box(ax, 0, middle - 0.45, 1.9, 0.9, "claim:\na unit and\na description")
    _box(ax, 2.7, middle + 0.25, 2.2, 0.6, "labeller: which\ntexts have it?")
    _box(ax, 2.7, middle - 0.85, 2.2, 0.6, "store: how high\nis the unit on each?")
    for y in (middle + 0.55, middle - 0.55):
        _arrow(ax, (1.9, middle), (2.68, y))
    for i, name in enumerate(names):
        y = high - 0.5 - i * (high - 0.6) / max(1, len(names) - 1)
        for start in (middle + 0.55, middle - 0.55):
            _arrow(ax, (4.9, start), (5.68, y), color=BLUE)
        ax.text(5.75, y, f"AUROC in {name}", va="center", fontsize=9)
        _arrow(ax, (7.65, y), (8.16, middle), color=RED)
    _box(ax, 8.2, middle - 0.3, 1.3, 0.6, "verdict", edge=RED)
    return ax


# ---------------------------------------------------------------------------------- inside


def _canvas(wide: float, high: float) -> Axes:
    """Empty axes, a unit an inch at the most, on a figure that a page can hold."""
    scale = min(1.0, 9.5 / wide)
    _, ax = plt.subplots(figsize=(wide * scale, high * scale))
    ax.set(xlim=(-0.05, wide), ylim=(0, high))
    ax.axis("off")
    return ax


def _box(ax: Axes, x: float, y: float, wide: float, high: float, text: str, edge: str = INK) -> None:
    shape = FancyBboxPatch((x, y), wide, high, boxstyle="round,pad=0,rounding_size=0.08", fc=FILL, ec=edge)
    ax.add_patch(shape)
    ax.text(x + wide / 2, y + high / 2, text, ha="center", va="center", fontsize=9).set_parse_math(False)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str = INK) -> None:
    ax.annotate(
        "", end, start, arrowprops={"arrowstyle": "->", "color": color, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    )


def _plus(ax: Axes, x: float, y: float) -> None:
    ax.text(
        x,
        y,
        "+",
        ha="center",
        va="center",
        fontsize=12,
        bbox={"boxstyle": "circle,pad=0.15", "fc": "w", "ec": INK},
    )


def _column(
    ax: Axes, x: float, y: float, name: str, below: str, rows: int = 5, red: int | None = None
) -> None:
    """A vector: a column of cells, one of them red."""
    for i in range(rows):
        color = RED if i == red else "w"
        ax.add_patch(Rectangle((x, y + 0.22 * i), 0.3, 0.22, fc=color, ec=INK, lw=0.7))
    ax.text(x + 0.15, y + 0.22 * rows + 0.08, name, ha="center", va="bottom", fontsize=9)
    ax.text(x + 0.15, y - 0.08, below, ha="center", va="top", fontsize=8, color="#777777")


def _grid(
    ax: Axes, x: float, y: float, wide: int, high: int, row: int | None = None, column: int | None = None
) -> None:
    """A matrix, one row red, or one column crossed out."""
    for i in range(high):
        for j in range(wide):
            color = RED if i == row else "#BBBBBB" if j == column else "w"
            ax.add_patch(Rectangle((x + 0.27 * j, y + 0.25 * i), 0.27, 0.25, fc=color, ec=INK, lw=0.5))
