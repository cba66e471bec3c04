"""Plots."""

from nbkit.plots.annotation import annotate
from nbkit.plots.browser import neuron_browser
from nbkit.plots.comparison import corpus_compare
from nbkit.plots.figures import (
    accuracy_curves,
    agreement,
    arcs,
    confusion_map,
    corpus_map,
    facets,
    gains,
    histograms,
    layer_bars,
    layer_lines,
    layers,
    precision_recall,
    quintile_curves,
    shift,
    transfer,
)
from nbkit.plots.html import Views
from nbkit.plots.style import COLUMNS, save, short, style
from nbkit.plots.widgets import descriptor_editor, salience_slider, tree_stepper

__all__ = [
    "COLUMNS",
    "Views",
    "accuracy_curves",
    "agreement",
    "annotate",
    "arcs",
    "confusion_map",
    "corpus_compare",
    "corpus_map",
    "descriptor_editor",
    "facets",
    "gains",
    "histograms",
    "layer_bars",
    "layer_lines",
    "layers",
    "neuron_browser",
    "precision_recall",
    "quintile_curves",
    "salience_slider",
    "save",
    "shift",
    "short",
    "style",
    "transfer",
    "tree_stepper",
]
