"""`site.toml`: what a site says of itself, once, for `fedllm site check` and `fedllm site start`."""

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedllm_app.client.site import NodeConfig, site_items
from fedllm_app.data.errors import DataError
from fedllm_app.errors import UserError
from fedllm_app.paths import expanded
from fedllm_app.sites.approval import RULES, SAME

FILE = "site.toml"

_TABLES = {
    "connection": ("superlink", "certificate-authority", "key"),
    "site": ("name", "home", "policy", "code"),
    "data": None,  # the keys of a node configuration; `site_items` checks them
    "models": ("allowed",),
}


class SiteFileError(UserError):
    """site.toml cannot be used; the message names the file, the key and what is accepted."""


@dataclass(frozen=True)
class Site:
    """A site as its file says. Paths are absolute.

    Attributes
    ----------
    superlink : str
        host:port of the server.
    authority, key : Path
        Certificate of the federation's authority; private key of this node.
    home : Path
        FEDLLM_HOME of what runs here, and Flower's files below it.
    code : str
        Which apps are accepted, one of `approval.RULES`.
    data : dict[str, str]
        What a node configuration says of the site's data: data-path, prompt-column and so on.
    models : tuple[str, ...]
        Base models that runs may use here beside those of the policy.
    """

    directory: Path
    superlink: str
    authority: Path
    key: Path
    name: str
    home: Path
    policy: Path
    code: str = SAME
    data: dict[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        return self.superlink.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.superlink.rpartition(":")[2])

    def node_config(self) -> NodeConfig:
        """What Flower's node is told, and the app reads in it."""
        models = {"models": ", ".join(_quoted(name) for name in self.models)} if self.models else {}
        return {"site": self.name, "policy": str(self.policy), **models, **self.data}


def read_site(directory: Path) -> Site:
    """Read the site.toml of a directory.

    Raises
    ------
    SiteFileError
        It is missing, is no TOML, or says something that is not understood.
    """
    directory = directory.resolve()
    file = directory / FILE
    try:
        parsed = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SiteFileError(f"{file} does not exist; `fedllm site init {directory} …` makes it") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SiteFileError(f"{file} cannot be read: {error}") from error
    problems = _problems(parsed)
    if problems:
        raise SiteFileError(f"{file} has problems:\n" + "\n".join(f"  - {line}" for line in problems))
    connection, said = parsed["connection"], parsed["site"]

    def absolute(text: str) -> Path:
        return (directory / expanded(text)).absolute()

    data = dict(parsed.get("data", {}))
    if data.get("data-path"):
        data["data-path"] = str(absolute(data["data-path"]))
    return Site(
        directory=directory,
        superlink=connection["superlink"],
        authority=absolute(connection.get("certificate-authority", "ca.crt")),
        key=absolute(connection.get("key", "node.key")),
        name=said["name"],
        home=absolute(said.get("home", "home")),
        policy=absolute(said.get("policy", "policy.toml")),
        code=said.get("code", SAME),
        data=data,
        models=tuple(parsed.get("models", {}).get("allowed", ())),
    )


def lock_file(site: Site) -> Path:
    """The file that is locked while `fedllm site start` runs for this site."""
    return site.home / "site.lock"


def site_text(
    superlink: str, name: str, data: Mapping[str, str], home: str = "home", models: tuple[str, ...] = ()
) -> str:
    """The text of a site.toml with every key and what it means. Relative paths are those of its directory."""
    lines = [
        "# A site of a federation: read by `fedllm site check` and `fedllm site start`.",
        "# Relative paths are those of this directory.",
        "",
        "[connection]",
        "# host:port of the server, as its certificate names it.",
        f"superlink = {_quoted(superlink)}",
        "# The certificate that the operator sent, and the private key of this node, which never leaves this machine.",
        'certificate-authority = "ca.crt"',
        'key = "node.key"',
        "",
        "[site]",
        f"name = {_quoted(name)}",
        "# Tokenized rows, client state and logs: readable by the owner only.",
        f"home = {_quoted(home)}",
        "# What runs may use here.",
        'policy = "policy.toml"',
        '# "same": only runs whose app equals the one installed here. "own": other code, too, as long as it speaks the',
        "# same protocol. In both cases only the code that is installed here is executed.",
        'code = "same"',
        "",
        "[data]",
        "# The file, folder or saved data set that this site trains on, and what must be known to read it, such as",
        "# prompt-column, completion-column, data-split, delimiter, encoding.",
        *(f"{key} = {_quoted(value)}" for key, value in data.items()),
        "",
        "[models]",
        "# Base models that runs may use beside those of the policy: absolute directories or Hub ids.",
        f"allowed = [{', '.join(_quoted(name) for name in models)}]",
    ]
    return "\n".join(lines) + "\n"


def _problems(parsed: Mapping[str, object]) -> list[str]:
    problems = [_unknown(key, list(_TABLES)) for key in parsed if key not in _TABLES]
    tables = {name: parsed.get(name, {}) for name in _TABLES}
    for name, keys in _TABLES.items():
        table = tables[name]
        if not isinstance(table, Mapping):
            return [*problems, f"{name} = {table!r}: must be a table, [{name}]"]
        problems += [
            _unknown(f"{name}.{key}", [f"{name}.{k}" for k in keys]) for key in table if keys and key not in keys
        ]
        for key, value in table.items():
            if name != "models" and not isinstance(value, str):
                problems.append(f"{name}.{key} = {value!r}: must be text in quotes")
    allowed = tables["models"].get("allowed", [])
    if not isinstance(allowed, list) or not all(isinstance(entry, str) for entry in allowed):
        problems.append(f"models.allowed = {allowed!r}: must be a list of texts")
    return problems or _wrong_values(tables)


def _wrong_values(tables: Mapping[str, Mapping]) -> list[str]:
    problems = []
    if said := address_problem(str(tables["connection"].get("superlink", ""))):
        problems.append(f"connection.superlink = {tables['connection'].get('superlink', '')!r}: {said}")
    if not str(tables["site"].get("name", "")).strip():
        problems.append("site.name: must be the name of this site, such as 'berlin', different from those of others")
    code = tables["site"].get("code", SAME)
    if code not in RULES:
        problems.append(f"site.code = {code!r}: must be one of {', '.join(RULES)}")
    data = dict(tables["data"])
    if not data.get("data-path"):
        problems.append("data.data-path: must name the data of this site")
    try:
        # A relative path is that of this file and becomes absolute later.
        site_items(data | {"data-path": "/"} if "data-path" in data else data)
    except DataError as error:
        problems.append(str(error).replace("node-config ", "data."))
    return problems


def address_problem(address: str) -> str:
    """What is wrong with a host:port; "" for nothing."""
    host, _, port = address.rpartition(":")
    if "://" in address:
        return "must be host:port without https://"
    if not host or any(character.isspace() or character in "/'\"" for character in host):
        return "must be host:port, such as 'fl.example.org:8000'"
    if not port.isdecimal() or not 0 < int(port) < 65536:
        return f"the port {port!r} must be a number from 1 to 65535"
    return ""


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"{key}: unknown key; " + (f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}")


def _quoted(text: str) -> str:
    """A basic string of TOML, which knows JSON's escapes."""
    return json.dumps(text, ensure_ascii=False)
