"""nbkit: what does this unit of this language model respond to, and does the answer survive another corpus?

Two matrices with aligned rows meet everywhere: activations ``[row, unit]`` and labels ``[row, descriptor]``.
The rooms in order; each imports only those before it, and ``help(nbkit.illusions)`` is the manual of one:

    stats, provenance          each statistic once; what made a number
    texts, models              corpora with exact word spans; subjects with names for every place inside
    activations, descriptors   the two matrices: one forward pass, stored; short properties of texts
    matching, evaluation       which descriptors a unit responds to; how good such tags are
    illusions                  does a tag survive another corpus?
    claims                     do explanations made elsewhere hold on your texts?
    salience, trees            units that carry word labels; dependency trees in the vectors
    plots, workshop            figures and widgets; what serves the notebooks
    data                       the embedded sample; your own files: ``texts.load``

What to call, in order: ``texts.load``, ``models.load``, ``activations.capture``, ``matching.tag``; for two
corpora or more ``illusions.compare``.
"""

__version__ = "0.2.0"
