"""Where a base model is, its configuration and tokenizer: from a built-in name, a local directory or the Hub."""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_app.models.files import CONFIG_FILE, config_digest, read_json
from fedllm_app.models.packaged import PACKAGED_MODELS, ModelNotFound, converted
from fedllm_app.paths import expanded, home, write_text

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_FORMAT = 2  # of what `found_once` keeps; another number when what is found of a model changes


@dataclass(frozen=True)
class ModelValues:
    """What determines the loaded base model: its name, and how its weights are stored, multiplied and placed."""

    name: str
    dtype: str
    attention: str = "auto"
    trust_remote_code: bool = False
    quantization: str = "none"
    double_quantization: bool = False
    device_map: str = "none"


@dataclass(frozen=True)
class ModelLocation:
    """What transformers' `from_pretrained` is given: a directory or a Hub id.

    `name` is the model's name as configured, which adapters record: of a built-in model the directory is this
    machine's.
    """

    reference: str
    name: str
    trust_remote_code: bool = False

    @property
    def directory(self) -> Path | None:
        """The model's directory; None for a Hub id."""
        path = Path(self.reference)
        return path if path.is_absolute() else None


def locate_model(name: str, trust_remote_code: bool = False) -> ModelLocation:
    """Find the base model `name`: a built-in name, an absolute directory or a Hub id.

    A built-in model is converted once from its package's GGUF file into a safetensors copy below `FEDLLM_HOME`
    (loading the GGUF takes some 20 s, the copy under 1 s); processes that ask at the same time wait for one another.

    Raises
    ------
    ModelNotFound
        If the package or the directory is missing, or the path is relative.
    UnusableModel
        If config.json is not valid JSON.
    """
    if name in PACKAGED_MODELS:
        return ModelLocation(str(converted(name, PACKAGED_MODELS[name])), name)
    path = expanded(name)
    if path.is_absolute():
        if not (path / CONFIG_FILE).is_file():
            raise ModelNotFound(f"model.name = {name!r}: {path / CONFIG_FILE} does not exist")
        read_json(path / CONFIG_FILE)
        return ModelLocation(str(path), str(path), trust_remote_code)
    if name.startswith(".") or name.count("/") > 1 or path.exists():
        raise ModelNotFound(
            f"model.name = {name!r}: a model directory must be named by its absolute path, because clients and server "
            "run in other working directories"
        )
    return ModelLocation(name, name, trust_remote_code)


def load_model_config(location: ModelLocation) -> "PretrainedConfig":
    """The model's configuration, without weights."""
    from transformers import AutoConfig

    return from_pretrained(AutoConfig, location)


def load_tokenizer(location: ModelLocation) -> "PreTrainedTokenizerBase":
    """The model's tokenizer, with a padding token. Padding is masked by construction, so the end token may serve."""
    from transformers import AutoTokenizer

    tokenizer = from_pretrained(AutoTokenizer, location)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def from_pretrained(auto_class: Any, location: ModelLocation, **options: Any) -> Any:
    """`auto_class.from_pretrained`, with an error that says how to provide a model that cannot be loaded.

    Code that comes with a model runs only if the location says so, and transformers never asks for it on the terminal.
    """
    try:
        return auto_class.from_pretrained(location.reference, trust_remote_code=location.trust_remote_code, **options)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        if "trust_remote_code" in str(error) and not location.trust_remote_code:
            raise ModelNotFound(
                f"model.name = {location.name!r} needs Python code that comes with it, which is not run unless you "
                "allow "
                "it: read that code, and if you trust it set model.trust-remote-code = true (fedllm chat: "
                "--trust-remote-code)"
            ) from error
        raise ModelNotFound(
            f"model.name = {location.reference!r} could not be loaded ({reason}). Give the absolute "
            f"path of a directory with config.json, tokenizer and safetensors, a Hub id that this machine can reach, "
            f"or one of {', '.join(PACKAGED_MODELS)}"
        ) from error


def found_once(location: ModelLocation, subject: object, find: Callable[[], dict]) -> dict:
    """What `find()` learns from a model's files short of its weights, as JSON: kept for a model in a local directory.

    Finding it takes transformers and PEFT, whose import is a good part of a run's start. `subject` names all that the
    answer depends on beside config.json and the code that comes with the model. What `find` refuses is not kept.
    """
    directory = location.directory
    if directory is None:
        return find()
    versions = [importlib.metadata.version(name) for name in ("peft", "transformers")]
    digest = config_digest(directory, code=location.trust_remote_code)
    key = json.dumps([_FORMAT, digest, subject, versions])
    kept = home() / "layouts" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    found = find()
    write_text(kept, json.dumps(found))
    return found


def context_length(location: ModelLocation) -> int | None:
    """How many positions the model has; None for one whose configuration sets no bound."""

    def find() -> dict:
        text = load_model_config(location).get_text_config()
        return {"context": getattr(text, "max_position_embeddings", None)}

    return found_once(location, "context", find)["context"]


def stored_dtype(location: ModelLocation) -> str:
    """The type in which the model's files keep its weights, by torch's name; "float32" where they do not say."""
    config = load_model_config(location)
    named = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    return str(named or "float32").removeprefix("torch.")


def stop_ids(location: ModelLocation) -> tuple[int, ...]:
    """Ids of the tokens at which the model's files say that generation stops: end tokens, of text or of a turn.

    They stand in generation_config.json, or else in config.json.
    """
    file = file_of(location, "generation_config.json")
    try:
        settings = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelNotFound(f"{file} cannot be read: {error}; repair it, or remove it") from error
    named = settings.get("eos_token_id")
    if named is None:

        def find() -> dict:
            return {"stops": getattr(load_model_config(location).get_text_config(), "eos_token_id", None)}

        named = found_once(location, "stops", find)["stops"]
    return tuple(named) if isinstance(named, list) else () if named is None else (named,)


def file_of(location: ModelLocation, name: str) -> Path | None:
    """A file beside a model's weights; None where it has no such file."""
    if Path(location.reference).is_dir():
        file = Path(location.reference) / name
        return file if file.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(location.reference, name))
    except EntryNotFoundError:  # also where the model was loaded before and there is no connection now
        return None
