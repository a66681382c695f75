"""The journal of a run whose processes were ended before it could write its own end."""

from pathlib import Path

from fedllm_app.runs.directory import RunDirectory, RunDirectoryExists, read_result
from fedllm_app.runs.journal import RESUMED, STARTED, cut_torn_line, read_journal

STOPPED = "stopped: the run's process was told to end"
REASON = "interrupted: the processes of the run were ended before it had finished"


def journal_interruption(path: Path, reason: str = REASON) -> bool:
    """Journal that the run at `path` failed, unless it says how it ended or goes on; whether that was done."""
    directory = RunDirectory(path)
    if not path.is_dir():
        return False
    try:
        with directory.held():
            if read_result(path) is not None:
                return False
            if directory.journal_file.exists():
                cut_torn_line(directory.journal_file)
                if _failed(read_journal(path, everything=True)):
                    return False
            directory.journal("failed", reason=reason)
    except RunDirectoryExists:
        return False  # another run has taken it
    return True


def _failed(events: list[dict]) -> bool:
    """Whether the last start in a journal was followed by a failure. Without a result, "finished" is no end."""
    ends = [event["event"] for event in events if event["event"] in (STARTED, RESUMED, "failed")]
    return ends[-1:] == ["failed"]
