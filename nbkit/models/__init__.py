"""Subjects: a language model, its tokenizer, and names for everything inside it that responds.

The names, in the order you meet them:

    subject = models.load()                       # all-MiniLM-L6-v2, the embedded default
    subject = models.load("bert-base-uncased", revision="86b5e09")   # or a hub name, or a folder
    models.estimate("org/large")                  # memory at each dtype, before loading (`Memory`)
    models.load("org/large", dtype="bfloat16", device_map="auto")    # over GPUs, memory and disk
    subject.sites                                 # frame: site, layer, kind, width
    subject.select(["ffn", "layer.3.hidden"])     # groups and single sites -> site names
    batch, own = subject.encode(texts)            # tokenized; `own` leaves out special tokens and padding
    subject.tokenize(texts, ...)                  # the tokenizer's call; "[SEP]" in a text is plain
    subject.run(batch, "ffn")                     # {site: tensor [batch, token, width]}
    with subject.record("hidden") as seen:        # the same around your own forward passes
        subject.model(**batch)                    # each pass replaces what is in `seen`
    with subject.edit({"layer.3.ffn": function}): # passes use what `function(tensor)` returns
    attach(subject, "folder")                     # dictionary latents as units: site layer.N.SITE.sae
    subject.randomized(seed=0)                    # the same network with untrained weights
    subject.fingerprint                           # changes when the numbers may change

minilm is a sentence encoder, fine-tuned from MiniLM: what its units respond to was shaped by
sentence similarity, not by word prediction alone. `sentence_encoder()` is the same model as an encoder of
sentences, `.encode(strings)`; `ARCHITECTURES` lists the families that are known. Of an unknown one the
sites are guessed by shape and checked against its hidden states, which `subject.architecture.guessed` and a
warning say; where that fails, the error shows the record to add. A mixture of experts has no `ffn`.

Sites are tensors [batch, token, width], layers count from 0 (the first block). Within block N:

    embeddings         what enters block 0, == `hidden_states[0]` of transformers: after the
                       embedding layer norm, and after the projection of ELECTRA and ALBERT
    layer.N.heads      the heads' outputs side by side, [.., heads * head_dim]: the input of the
                       attention's output projection
    layer.N.attention  the output of that projection, bias included, BEFORE residual and layer norm
    layer.N.ffn        the units of the feed-forward network AFTER its nonlinearity: the input of
                       its second matrix; in a gated layer act(gate) * up
    layer.N.gate, .up  of a gated layer: what the nonlinearity gets, and what its result is multiplied by
    layer.N.SITE.sae   latents of a dictionary (sparse autoencoder) that was attached to a site
    layer.N.hidden     the output of the block, == `hidden_states[N + 1]`. One exception: where a final
                       norm follows (`subject.final_norm`), transformers passes the last one through it,
                       here it is the raw output of the block

Of a model loaded with `device_map` (`subject.dispatched`), `subject.device` is that of the embeddings: inputs
go there, each tensor stays where its block computed it, and what is pooled is gathered on the first.
Padding is part of the tensors: which positions are text is in `batch["attention_mask"]`.
ALBERT runs one block many times; each run is a layer here. Where several threads use one model, their
forward passes run one after another.

Sources: minilm is all-MiniLM-L6-v2 of sentence-transformers (Reimers and Gurevych 2019; Wang et al. 2020).
Reading and editing by forward hooks is common practice; the site names are new here.
"""

from nbkit.models.architectures import ARCHITECTURES
from nbkit.models.dictionaries import attach
from nbkit.models.loading import MINILM_SHA256, estimate, load, sentence_encoder, smollm2_folder
from nbkit.models.memory import Memory
from nbkit.models.subject import Subject

__all__ = [
    "ARCHITECTURES",
    "MINILM_SHA256",
    "Memory",
    "Subject",
    "attach",
    "estimate",
    "load",
    "sentence_encoder",
    "smollm2_folder",
]
