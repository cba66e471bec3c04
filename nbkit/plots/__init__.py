"""Figures for papers, and views to browse: in a notebook with controls, and as pages without a kernel.

Figures, drawn by seaborn from the frames of other rooms. Those of one axes take ``ax`` (None: a new figure)
and return it; ``facets`` and ``histograms`` return seaborn's ``FacetGrid``:

    with plots.style():                        the kit's look; style("single"), style("double") for a paper
        ax = plots.agreement({"FFN": report.baselines})
    plots.save(ax.figure, "04_agreement", sources, data=report.baselines)

    agreement, transfer                        of ``illusions.compare`` and of scores: does a tag hold
    elsewhere? confusion_map, corpus_map, quintile_curves       why, and where shift, layers, precision_recall
    tags and how good they are accuracy_curves, layer_bars                salient units layer_lines, arcs,
    gains                   trees histograms, facets                         one panel for each corpus; any
    figure in panels

``save`` writes NAME.svg, .png, .csv (the frame it was drawn from) and .json. Both pictures carry a short
manifest (sources, versions, notebook and cell, hash of the CSV), which ``provenance.read`` reads back.
Letters in the SVG are outlines, so no font has to be there. Names are shown as they are: "$" is a dollar
sign, a leading "_" stays, what is too long is cut with an ellipsis (``short``), and a font is chosen that has
the letters, if any is installed.

Views are shown by naming them in a cell. ``.view(...)`` is their HTML, ``.to_html()`` a page that needs no
kernel, no server and no network. All can be used with the keyboard alone:

    neuron_browser(subject, corpora, activations, labels)   search the units, and see one in every corpus
    corpus_compare(...)                                     a unit in two corpora, side by side
    salience_slider(...)                                    accuracy, units and words by number of units
    tree_stepper(forms, gold, predicted)                    gold and predicted trees by sentence and layer
    annotate(sets, path, "ada")                             people judge blinded sets; every answer is saved
    descriptor_editor(merged, path)                         rename, join and drop descriptors by hand
    Views(title, controls, view)                            any view with a few choices
"""

from nbkit.plots.annotation import annotate
from nbkit.plots.browser import neuron_browser
from nbkit.plots.comparison import corpus_compare
from nbkit.plots.figures import (
    accuracy_curves,
    agreement,
    arcs,
    confusion_map,
    corpus_map,
    gains,
    layer_bars,
    layer_lines,
    layers,
    precision_recall,
    quintile_curves,
    shift,
    transfer,
)
from nbkit.plots.html import Views
from nbkit.plots.panels import facets, histograms
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
