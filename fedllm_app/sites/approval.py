"""Whether the app that a run brings is the one that this site has installed.

A run brings its app as a bundle, and anybody who can start a run can write one. A site never imports a bundle's code:
it runs the package that is installed here (`sites/client_process.py`). Beyond that, by default it refuses a run whose
bundle holds another package, so that what the server computes and what the site computes fit together.
"""

import hashlib
import zipfile
from io import BytesIO
from pathlib import Path, PurePosixPath

import fedllm_app
from fedllm_app.errors import UserError

SAME, OWN = "same", "own"
RULES = (SAME, OWN)
"""`same`: the package in the bundle must equal the one installed here; `own`: it may differ, and is never run."""

_NAMED = 3  # files that a refusal names
_MOST_BYTES = 50_000_000  # of unpacked code; a small archive can unpack to anything


class CodeRefused(UserError):
    """The site does not accept the app of a run; the message goes to the server and says what differs."""


def check_bundle(content: bytes, claimed_hash: str, rule: str) -> None:
    """Refuse an app bundle by the site's rule.

    Parameters
    ----------
    content : bytes
        Flower's app bundle, a ZIP archive.
    claimed_hash : str
        SHA-256 by which the server calls it.
    rule : str
        One of `RULES`.

    Raises
    ------
    CodeRefused
        The bundle is not what the server says, cannot be read, or holds other code than the site's.
    """
    if hashlib.sha256(content).hexdigest() != claimed_hash:
        raise CodeRefused("this site refuses the app of the run: its content is not that of its hash")
    if rule == OWN:
        return
    theirs, ours = _of_bundle(content), installed_files()
    differ = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    if not differ:
        return
    more = f" and {len(differ) - _NAMED} more" if len(differ) > _NAMED else ""
    raise CodeRefused(
        f"this site refuses the app of the run: its code is not the code that is installed here ({len(differ)} of "
        f"{len(ours)} files differ: {', '.join(differ[:_NAMED])}{more}); install the same version at both ends, or let "
        "the site set code = 'own' in its site.toml"
    )


def installed_files() -> dict[str, str]:
    """SHA-256 of the Python files of the package that this process imports, by their path in a bundle."""
    root = Path(fedllm_app.__file__).parent
    return {
        f"fedllm_app/{path.relative_to(root).as_posix()}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*.py")
    }


def _of_bundle(content: bytes) -> dict[str, str]:
    """SHA-256 of the package's Python files in a bundle, by path. Other files of it are never imported at a site."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as bundle:
            entries = [entry for entry in bundle.infolist() if _is_of_package(entry.filename)]
            if sum(entry.file_size for entry in entries) > _MOST_BYTES:
                raise CodeRefused("this site refuses the app of the run: its code is larger than any of this app")
            return {_shown(entry.filename): hashlib.sha256(bundle.read(entry)).hexdigest() for entry in entries}
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
        raise CodeRefused(
            f"this site refuses the app of the run: not a readable bundle ({type(error).__name__})"
        ) from None


def _is_of_package(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix == ".py" and path.parts[:1] == ("fedllm_app",)


def _shown(name: str) -> str:
    """A name that the server chose, fit for a log: printable and short."""
    return "".join(character if character.isprintable() else "?" for character in name)[:120]
