"""Drawings of the notebooks: what they say of their numbers is so."""

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt

from nbkit.workshop import drawings

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def words_of(ax):
    return [text.get_text() for text in ax.texts]


def test_pooling_leaves_out_what_is_crossed_out():
    ax = drawings.pooling(["[CLS]", "no", "yes", "[SEP]"], [0, 3], np.array([9.0, 1.0, 2.0, 8.0]))
    assert "maximum 2.00\nmean 1.50" in words_of(ax)
    assert len(ax.lines) == 2


def test_heights_are_depths():
    ax = drawings.heights(["the", "dog", "barks"], [2, 3, 0])
    heights = [float(dots.get_offsets()[0][1]) for dots in ax.collections]
    assert heights[2] > heights[1] > heights[0]
    assert {"depth 1", "depth 2", "depth 3"} <= set(words_of(ax))


def test_strips_part_texts_by_their_label():
    values, labels = np.arange(10.0), np.arange(10) >= 7
    ax = drawings.strips({"r": (values, labels)})
    with_it, without = (dots.get_offsets() for dots in ax.collections)
    assert (len(with_it), len(without)) == (3, 7) and with_it[:, 0].min() > without[:, 0].max()


def test_masks_keep_their_share_of_the_cells():
    ax = drawings.masks({"all": (100, 0.9), "half": (50, 0.8)}, 100)
    red = [bar for bar in ax.patches if bar.get_facecolor()[:3] == matplotlib.colors.to_rgb(drawings.RED)]
    assert len(red) == 60 + 30
    assert {"0.90 right", "0.80 right"} <= set(words_of(ax))


@pytest.mark.parametrize(
    "draw",
    [
        drawings.block,
        drawings.planting,
        lambda: drawings.judging(["a", "b", "c"]),
        lambda: drawings.comparison(["a", "b", "c", "d", "e"]),
        lambda: drawings.auxiliary_loss(3, 0.1),
        lambda: drawings.links({"model": "ab12", "picture": "$x_1$"}),
        lambda: drawings.funnel({"proposals": 12345, "descriptors": 90}, np.eye(6, 10)),
        lambda: drawings.reading("layer.3.ffn.722", ["a", "b", "c"]),
    ],
)
def test_no_word_lies_on_another_or_outside(draw):
    ax = draw()
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text() not in ("", "+")]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :]), ax.texts[i].get_text()
        assert box.x0 >= -8 and box.x1 <= ax.figure.bbox.width + 8, ax.texts[i].get_text()
