"""Corpora with one exact index: text, character span, word, labels.

Everything downstream joins on the two ids made here, so they are made once and kept.

    load        read a corpus from any source into `Texts`
    Texts       the texts (`.frame`), their words (`.words`), what reading dropped (`.dropped`)
                  from strings or tables:  Texts.from_list, Texts.from_frame, Texts.concat
                  parts of a corpus:       .sample, .split, .where, .tokenize
                  what is in it:           .descriptors, .lengths, .documents, .fingerprint
                `.descriptors()` is a label matrix [text_id, descriptor] by rules on the annotation or on
                plain English; descriptors that a generator finds: `nbkit.descriptors`
    words_of    the words of one plain text, with spans, by a simple regular expression
    SAMPLES     names of the embedded corpora; EWT_GENRES: the genres of UD English EWT

The usual loop:

    corpus = texts.load("ud_en_ewt", split="train")
    genres = {genre: corpus.where(genre=genre) for genre in corpus.frame.genre.unique()}
    calibration, validation = genres["email"].split(0.5, seed=0)
    gold = calibration.descriptors()          # [text_id, descriptor], 0 or 1

Sources of `load`:

    "sample:reviews"           written for the kit; also questions, encyclopedia, fiction, treebank
    "my.csv", text="review"    your own table: `text=` names the column of the texts, the others are kept
    "notes.txt"                a file: .txt (a text on each line) .csv .tsv .jsonl .parquet .conllu
    "ud_en_ewt"                a folder of .conllu files; `split="dev"` takes ...-dev.conllu
    "hf:owner/name"            a dataset of the Hugging Face hub (streamed), or "hf:" + a local folder
    "hf:name/config"           the same, when no dataset has that whole name: the last part is a config

What `load` finds out about a file, and the options with which you say it yourself:

    encoding     that of the byte order mark, else UTF-8             `encoding=`
    separator    of a .csv: the one that fits; a .tsv has tabs       `separator=`
    header       the first line of a .csv or .tsv names the columns  `header=`, `names=`

Where a guess could lose a text (a first line that looks like data, a quote that is never closed), `load`
raises a ValueError that names the file and what to do. A single line that cannot be read is left out and
counted in `.dropped`. A value such as 007 stays text.

Conventions:
- `.frame` has one row per text, in corpus order: `text_id`, `text`, then the label columns of
  the source.
- `.words` has one row per word, in order, or is None for plain text: `text_id`, `word_id`, `form`,
  `start`, `end`, and from CoNLL-U `lemma upos xpos head deprel feats mwt`.
- `text_id` is 0..n-1 in a loaded corpus, and a sub-corpus KEEPS the ids of its parent (unique,
  ascending), so any table can be joined back. It is not a row position in a sub-corpus.
- `word_id` counts from 1 as in CoNLL-U, so that `head` refers to a `word_id` and 0 is the root.
- `start`, `end` are character offsets: `text[start:end] == form` for every word, except inside a
  multi-word token of CoNLL-U (`3-4 au`), whose words all get the span of the whole token
  (`mwt` is True there: leave those words out where two words must not share a vector), and for
  white space that is a token but not in the text (an empty span).
- `doc_id` and `par_id` are those of CoNLL-U; a document without an id is FILE#2 if it is the second.
  Comments of a document (`# meta::genre`) are columns of all its sentences.
- The annotation of some languages lacks what a descriptor needs. `.descriptors()` then has no column for
  that descriptor, and a warning in the log names it.
- The frames are the object's own, not copies: read them, `.copy()` before you change them.

Sources: the annotation is that of Universal Dependencies (Nivre et al. 2020, CoNLL-U). The sixteen
descriptors of `nbkit.texts.grammar` and their rules are new here; the rules on plain text were written
on the training part of UD English EWT and are tested on its other parts.
"""

from nbkit.texts.conllu import EWT_GENRES
from nbkit.texts.corpus import Texts, words_of
from nbkit.texts.loading import SAMPLES, load

__all__ = ["EWT_GENRES", "SAMPLES", "Texts", "load", "words_of"]
