"""Figures for papers, and views to browse: in a notebook with controls, and as pages without a kernel.

Figures, drawn by seaborn from the frames of other rooms. Those of one axes take ``ax`` (None: a new figure)
and return it; ``facets`` and ``histograms`` return seaborn's ``FacetGrid``:

    with plots.style():                        the kit's look; style("single"), style("double") for a paper
        ax = plots.agreement({"FFN": report.baselines})
    plots.save(ax.figure, "04_agreement", sources, data=report.baselines)

    does a tag hold elsewhere
        agreement            {name: Report.baselines} of ``illusions.compare``
        outcomes             {name: Report.outcomes}: tags that are kept, changed, silent, ...
        transfer             {corpus: scores [descriptor, unit]} of ``matching.score``, and a unit
    why, and where
        confusion_map        ``illusions.confusion``
        corpus_map           ``illusions.layout``
        quintile_curves      ``illusions.quintile_rates``
    tags and how good they are
        shift, layers        ``matching.tag``
        precision_recall     a frame method, k, precision, recall (``Estimate``)
    salient units
        accuracy_curves      accuracy [n, ranking] by ``salience.accuracy_curve``, and that of all units
        layer_bars           number of units [site, property]
    trees
        layer_lines          a frame layer, value, low, high and, for the lines, null or another column
        arcs                 the words of a sentence, its gold and its predicted edges
        gains                ``trees.differences``
    panels
        histograms           a frame with a column of values and ``corpus``: one panel for each corpus
        facets               any figure that takes a frame, one panel for each value of a column

``save`` writes NAME.svg, .png, .csv (the frame it was drawn from) and .json. Both pictures carry a short
manifest (sources, versions, notebook and cell, hash of the CSV), which ``provenance.read`` reads back.
Letters in the SVG are outlines, so no font has to be there. Names are shown as they are: "$" is a dollar
sign, a leading "_" stays, what is too long is cut with an ellipsis (``short``), and a font is chosen that has
the letters, if any is installed.

Views are shown by naming them in a cell. ``.view(...)`` is their HTML, ``.to_html()`` a page that needs no
kernel, no server and no network. All can be used with the keyboard alone:

    neuron_browser(subject, corpora, activations, labels)   search the units, and see one in every corpus
    corpus_compare(...)                                     a unit in two corpora, side by side
    atlas(folder, subject, corpora, activations, labels)    a site of all units, searched; a link for each
    claim_card(card), claim_cards(folder, judged, ...)      a claim with its texts; a page for each, an index
    salience_slider(...)                                    accuracy, units and words by number of units
    tree_stepper(forms, gold, predicted)                    gold and predicted trees by sentence and layer
    annotate(sets, path, "ada")                             people judge blinded sets; every answer is saved
    descriptor_editor(merged, path)                         rename, join and drop descriptors by hand
    Views(title, controls, view)                            any view with a few choices
"""

from nbkit.plots.annotation import annotate
from nbkit.plots.atlas_pages import atlas
from nbkit.plots.browser import neuron_browser
from nbkit.plots.claims import claim_card, claim_cards
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
    outcomes,
    precision_recall,
    quintile_curves,
    reliability,
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
    "atlas",
    "arcs",
    "claim_card",
    "claim_cards",
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
    "outcomes",
    "precision_recall",
    "quintile_curves",
    "reliability",
    "salience_slider",
    "save",
    "shift",
    "short",
    "style",
    "transfer",
    "tree_stepper",
]
