"""All files of a run in one directory.

config.json            the resolved configuration
journal.jsonl          one line a client and round, one a round, one an evaluation, and every refusal
checkpoints/round-N/   all that the run needs to go on after round N, the global adapter in PEFT format
start/                 the adapter that the run started from, where adapter.start named one
adapter/               the final adapter in PEFT format, and prompt.json: how its prompts were written
adapters/client-K/     where clients train alone: the final adapter of each
result.json            written last; its absence means that the run failed
figure.png             of a local run: losses and held-out metrics, drawn when the run has ended
.lock                  held while the run goes on
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import Timeout

from fedllm_app.adapters.layout import Layout
from fedllm_app.adapters.peft_directory import save_peft_directory
from fedllm_app.config.changes import refused_changes
from fedllm_app.config.sections import ConfigError, FlatConfig
from fedllm_app.data.templates import TemplateError, template_source
from fedllm_app.errors import UserError
from fedllm_app.paths import atomic_path, lock_file, make_directory, write_text
from fedllm_app.runs.checkpoints import Checkpoint, write_checkpoint
from fedllm_app.runs.journal import (
    JOURNAL_FILE,
    STARTED,
    append_event,
    cut_torn_line,
    read_journal,
)

_CONFIG_FILE = "config.json"
_RESULT_FILE = "result.json"
_FEDERATION_FILE = "federation-config.txt"
_PROMPT_FILE = "prompt.json"
_FAILED_START_FILE = "failed-start.jsonl"  # the journal of a run that failed before its first round
_LOCK_FILE = ".lock"
_BEGAN = "ready"


class RunDirectoryExists(UserError):
    """The directory of a new run holds another run already."""


class NotResumable(UserError):
    """There is no run that could go on; the message says why."""


class RunDirectoryUnusable(UserError):
    """A run directory cannot be made or written; the message says why."""


@dataclass(frozen=True)
class PromptRecord:
    """How the prompts that an adapter was trained on were written.

    `template` and `system_prompt` as configured; `text` is the content of a Jinja file, None for a template by name and
    for a file that is not on the server's machine. `special_tokens_in_text` says whether control tokens that were
    spelled out in the rows' text were meant as such.
    """

    template: str
    system_prompt: str
    text: str | None
    special_tokens_in_text: bool = False

    @classmethod
    def of(cls, template: str, system_prompt: str, special_tokens_in_text: bool = False) -> "PromptRecord":
        """The record of a run's `data.template`, `data.system-prompt` and `data.special-tokens-in-text`."""
        try:
            text = template_source(template)
        except TemplateError:
            text = None  # the clients, which need it, say what is wrong
        return cls(template, system_prompt, text, special_tokens_in_text)


class RunDirectory:
    """Writes the files of one run.

    Parameters
    ----------
    prompt : PromptRecord | None
        If given, goes with every adapter that is saved.
    tell : Callable[[Mapping[str, object]], None] | None
        Called with every event of the journal, and at last with the result as event `result`.
    """

    def __init__(
        self,
        path: Path,
        prompt: PromptRecord | None = None,
        tell: Callable[[Mapping[str, object]], None] | None = None,
    ) -> None:
        self.path = path
        self.prompt = prompt
        self.tell = tell or (lambda _event: None)

    @property
    def journal_file(self) -> Path:
        """The journal."""
        return self.path / JOURNAL_FILE

    @property
    def result_file(self) -> Path:
        """The result, written last."""
        return self.path / _RESULT_FILE

    def began(self) -> bool:
        """Whether a run here came as far as its first round. One that failed before leaves the directory free."""
        return self.journal_file.exists() and any(event["event"] == _BEGAN for event in read_journal(self.path, True))

    def run_key(self) -> str:
        """What the run is known by, also when it is resumed: 32 hexadecimal digits."""
        keys = (event.get("run", "") for event in read_journal(self.path, True) if event["event"] == STARTED)
        key = next(keys, "")
        if not key:
            raise NotResumable(
                f"run.resume = {str(self.path)!r}: its journal names no run; it is of an earlier version"
            )
        return key

    def put_failed_start_aside(self) -> None:
        """Rename the journal of a run that failed before its first round, so that another run can begin here."""
        if self.journal_file.exists() and not self.began():
            self.journal_file.replace(self.path / _FAILED_START_FILE)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the directory for one run. The operating system lets go of it when the process ends, however it ends.

        Raises
        ------
        RunDirectoryExists
            Another process holds it: two runs would write one journal.
        RunDirectoryUnusable
            It cannot be made, or not be written.
        """
        if not self.path.is_absolute():
            raise RunDirectoryExists(f"run.directory = {str(self.path)!r}: must be an absolute path")
        lock = lock_file(self.path / _LOCK_FILE)
        try:
            make_directory(self.path)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RunDirectoryExists(
                f"run.directory = {str(self.path)!r} is in use by a run that has not ended; name a new directory"
            ) from error
        except OSError as error:
            raise RunDirectoryUnusable(
                f"run.directory = {str(self.path)!r} cannot be written: {error.strerror}; name the absolute path of a "
                "directory that this user may write to"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def create(self, config: Mapping[str, object]) -> None:
        """Begin a run: an absolute path whose directory holds no other run."""
        if not self.path.is_absolute():
            raise RunDirectoryExists(f"run.directory = {str(self.path)!r}: must be an absolute path")
        if self.began():
            raise RunDirectoryExists(f"run.directory = {str(self.path)!r} holds another run; name a new directory")
        make_directory(self.path)
        self.put_failed_start_aside()
        write_text(self.path / _CONFIG_FILE, json.dumps(dict(config), indent=2, sort_keys=True) + "\n")

    def resume(self, config: FlatConfig) -> None:
        """Go on with the run of this directory under a configuration that differs where it may.

        Raises
        ------
        NotResumable
            There is no run here, or it has finished and no more rounds are asked for.
        ConfigError
            The configuration differs where it must not.
        """
        check_resumable(self.path, config)
        finished = read_result(self.path)
        if finished is not None:
            self.result_file.replace(self.path / f"result-after-round-{finished['rounds']}.json")
        if cut_torn_line(self.journal_file):
            self.journal("warning", reason="the last line of the journal had no end, and was cut")
        again = dict(config) | {"run.resume": "", "run.directory": str(self.path)}
        write_text(self.path / _CONFIG_FILE, json.dumps(again, indent=2, sort_keys=True) + "\n")

    def keep_start(self, adapter: np.ndarray, layout: Layout) -> None:
        """Keep the adapter that the run starts from: what it was read from may be gone when the run is resumed."""
        self._save_adapter(self.start_directory, adapter, layout)

    @property
    def start_directory(self) -> Path:
        """The adapter that the run started from, where `adapter.start` named one."""
        return self.path / "start"

    def journal(self, event: str, **fields: object) -> None:
        """Append one event with its time (seconds since the epoch), and tell it."""
        append_event(self.journal_file, event, **fields)
        self.tell({"event": event, "time": time.time(), **fields})

    def checkpoint(self, checkpoint: Checkpoint, adapter: np.ndarray, layout: Layout) -> None:
        """Write what a run needs to go on after a round; `adapter` is the whole adapter, packed with this layout."""
        write_checkpoint(self.path, checkpoint, lambda directory: self._save_adapter(directory, adapter, layout))

    def finish(
        self,
        adapter: np.ndarray,
        own_adapters: Mapping[int, np.ndarray],
        layout: Layout,
        result: Mapping[str, object],
    ) -> None:
        """Write the final adapter, those that clients have of their own, the journal's last event, then the result."""
        self._save_adapter(self.path / "adapter", adapter, layout)
        for client, own in own_adapters.items():
            self._save_adapter(self.path / "adapters" / f"client-{client}", own, layout)
        last = {name: result[name] for name in ("seconds", "participation") if name in result}
        self.journal("finished", **last)
        write_text(self.result_file, json.dumps(dict(result), indent=2) + "\n")
        self.tell({**result, "event": "result"})

    def _save_adapter(self, directory: Path, vector: np.ndarray, layout: Layout) -> None:
        with atomic_path(directory) as temporary:
            save_peft_directory(temporary, vector, layout)
            if self.prompt:
                write_text(temporary / _PROMPT_FILE, json.dumps(asdict(self.prompt), indent=2) + "\n")


def is_run(path: Path) -> bool:
    """Whether a directory is that of a run."""
    return all((path / file).is_file() for file in (_CONFIG_FILE, JOURNAL_FILE))


def check_resumable(path: Path, config: FlatConfig) -> None:
    """Refuse to go on with the run in a directory. See `RunDirectory.resume` for the errors."""
    if not is_run(path):
        raise NotResumable(f"run.resume = {str(path)!r}: holds no run; name a run directory, with its config.json")
    problems = refused_changes(read_run_config(path), config)
    if problems:
        raise ConfigError(problems)
    finished, rounds = read_result(path), config["train.rounds"]
    if finished is not None and finished["rounds"] >= rounds:
        raise NotResumable(
            f"run.resume = {str(path)!r}: the run has finished its {finished['rounds']} rounds; to go on, set "
            "train.rounds above that"
        )


def adapter_directory(path: Path) -> Path:
    """The PEFT directory that `path` names: itself, or the final adapter of a run directory."""
    return path / "adapter" if (path / "adapter").is_dir() else path


def client_adapters(path: Path) -> dict[int, Path]:
    """The final adapter of every client that trained alone, by client; of other runs, none."""
    found = ((directory.name.removeprefix("client-"), directory) for directory in path.glob("adapters/client-*"))
    return dict(sorted((int(client), directory) for client, directory in found if client.isdecimal()))


def run_of(adapter: Path) -> Path | None:
    """The run directory that an adapter is of: its final one, a client's or a checkpoint's; None elsewhere."""
    return next((directory for directory in adapter.parents[:3] if is_run(directory)), None)


def read_run_config(path: Path) -> dict[str, bool | int | float | str]:
    """The resolved configuration of a run, flat."""
    return json.loads((path / _CONFIG_FILE).read_text(encoding="utf-8"))


def recorded_template(directory: Path) -> PromptRecord | None:
    """How the prompts of a saved adapter were written; None for an adapter that does not say."""
    file = directory / _PROMPT_FILE
    if not file.is_file():
        return None
    try:
        return PromptRecord(**json.loads(file.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise TemplateError(f"{file} cannot be read as the record of a template: {error}") from error


def keep_federation(path: Path, config: str | None, resumed: bool = False) -> None:
    """Keep the `--federation-config` of a run, for those who repeat it. A resumed run without one keeps its first."""
    if config:
        write_text(path / _FEDERATION_FILE, config + "\n")
    elif not resumed:
        (path / _FEDERATION_FILE).unlink(missing_ok=True)  # of a run that failed at its start


def read_federation(path: Path) -> str:
    """The `--federation-config` that a run was given; "" if none."""
    file = path / _FEDERATION_FILE
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""


def read_result(path: Path) -> dict | None:
    """The result of a run, or None if it did not finish."""
    file = path / _RESULT_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
