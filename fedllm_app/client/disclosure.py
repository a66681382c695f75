"""What a site says to the server about errors and about its rows: kinds, counts and line numbers, without a value.

A site is a node outside a simulation (`policy.is_simulated`). Its errors and notes may hold cells, names of columns and
files, roles and keys of messages; they are written in full to the site's own log, and only their public form is sent.
"""

import errno
import os
import sys
import time
import traceback
from collections.abc import Mapping

from fedllm_app.client.policy import SiteRefuses
from fedllm_app.errors import UserError
from fedllm_app.paths import home, make_directory, opener

SITE_LOG = "site.log"
_LARGEST_LOG = 16 << 20  # bytes, after which a new one is begun; the one before is kept

# Packages whose exceptions are told by name; of any other exception, the nearest class of these that it derives from.
_KNOWN = frozenset(
    ("builtins", "fedllm_app", "torch", "transformers", "peft", "trl", "numpy", "pyarrow", "datasets", "flwr")
)
_MORE = "the site's log says more"


def public_error(error: BaseException, node_config: Mapping[str, object]) -> str:
    """One line about an error that may leave the site: its kind, and its public form where it has one.

    Chained exceptions, notes and arguments are left out. So are paths that the node configuration names; but a refusal
    repeats what the run asked for as it stands, so that it does not tell which paths the site has.
    """
    kind = _kind(error)
    if isinstance(error, UserError) and error.public is not None:
        told = error.public if isinstance(error, SiteRefuses) else _without_paths(error.public, node_config)
        return f"{kind}: {told}" if told == str(error) else f"{kind}: {told}; {_MORE}"
    if isinstance(error, OSError) and error.errno in errno.errorcode:
        return f"{kind}: {os.strerror(error.errno)}; {_MORE}"
    return f"{kind}; {_MORE}"


def _kind(error: BaseException) -> str:
    """The name of the first class of an error that is one of a known package, and no other class of that name."""
    for kind in type(error).__mro__:
        module = sys.modules.get(kind.__module__)
        known = kind.__module__.partition(".")[0] in _KNOWN and getattr(module, kind.__name__, None) is kind
        if known:
            return kind.__name__
    return "Exception"


def _without_paths(text: str, node_config: Mapping[str, object]) -> str:
    """A text without the paths that the site has named or works in."""
    named = [value for key, value in node_config.items() if key != "site" and isinstance(value, str)]
    for path in sorted((*named, str(home())), key=len, reverse=True):
        if len(path) > 1 and os.path.isabs(path):
            text = text.replace(path, "…")
    return text


def write_site_log(what: str, error: BaseException | None = None) -> str:
    """Append a line, and the whole traceback of an error, to the site's own log; where it is, as a sentence.

    A log that cannot be written is no reason to give up the work: the sentence says so.
    """
    lines = [f"{time.strftime('%Y-%m-%d %H:%M:%S')} {what}\n"]
    if error is not None:
        lines += traceback.format_exception(error)
    try:
        file = home() / SITE_LOG
        make_directory(file.parent)
        if file.exists() and file.stat().st_size > _LARGEST_LOG:
            os.replace(file, file.with_suffix(".log.1"))
        with open(file, "a", encoding="utf-8", errors="backslashreplace", opener=opener) as log:
            log.write("".join(lines))
    except (OSError, UserError) as unwritten:
        return f"the site's log cannot be written: {type(unwritten).__name__}"
    return f"the site's log: {file}"
