"""The rooms of the package: imports go down only, without a circle; files and functions of a size that can be read."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from places import ROOT

PACKAGE = ROOT / "fedllm_app"

LEVELS = [
    {"api"},
    {"commands"},
    {"in_process"},
    {"sites"},
    {"server_app", "client_app"},
    {"comparison"},
    {"client", "federation"},
    {"report"},
    {"evaluation"},
    {"training"},
    {"runs"},
    {"config"},
    {"updates"},
    {"strategies"},
    {"adapters", "tasks"},
    {"data", "models"},
    {"messages", "process_cache", "class_paths"},
    {"packed_arrays"},
    {"paths"},
    {"errors"},
    {""},  # the package itself
]
"""From the top: a room may import from those below it, and not from the others of its level."""

MAX_LINES = 400
MAX_FUNCTION_LINES = 60


def module_name(path: Path, package: Path) -> str:
    """`fedllm_app.data.corpus` for a file; a package's `__init__.py` has the name of the package."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_of(package: Path) -> dict[str, Path]:
    return {module_name(path, package): path for path in sorted(package.rglob("*.py"))}


def room_of(module: str) -> str:
    """The first part below the package; "" for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def imports_of(path: Path, modules: dict[str, Path]) -> set[str]:
    """The package's own modules that a file imports anywhere: at the top, in functions, under TYPE_CHECKING."""
    return {name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for name in _named(node, modules)}


def _named(node: ast.AST, modules: dict[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in modules)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from ({name if name in modules else node.module for name in names} & modules.keys())


def upward_imports(package: Path) -> list[str]:
    """Imports from a room on the same level or above, "from -> to"."""
    level = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
    modules = modules_of(package)
    pairs = [(name, imported) for name, path in modules.items() for imported in sorted(imports_of(path, modules))]
    return [
        f"{name} -> {imported}"
        for name, imported in pairs
        if room_of(name) != room_of(imported) and level[room_of(name)] >= level[room_of(imported)]
    ]


def circle(package: Path) -> list[str]:
    """Modules that import each other in a circle; none if there is no circle."""
    modules = modules_of(package)
    graph = {name: imports_of(path, modules) - {name} for name, path in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_every_room_has_a_level():
    """And no level names a room that is not there."""
    rooms = {room_of(name) for name in modules_of(PACKAGE)}
    assert rooms == {room for level in LEVELS for room in level}


def test_imports_go_down_only():
    assert upward_imports(PACKAGE) == []


def test_no_module_imports_itself_by_way_of_others():
    assert circle(PACKAGE) == []


@pytest.mark.parametrize("name", sorted(modules_of(PACKAGE)))
def test_files_and_functions_fit(name):
    """A file has at most 400 lines, a function at most 60, decorators and docstring included."""
    text = modules_of(PACKAGE)[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert {function: lines for function, lines in long.items() if lines > MAX_FUNCTION_LINES} == {}


@pytest.fixture
def make_package(tmp_path):
    """Write a package `fedllm_app` of some files, by path."""

    def write(files: dict[str, str]) -> Path:
        package = tmp_path / "fedllm_app"
        for name, text in {"__init__.py": "", **files}.items():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(text)
        return package

    return write


@pytest.mark.parametrize(
    "text",
    [
        "from fedllm_app.config.parse import flatten\n",
        "import fedllm_app.config.parse\n",
        "from fedllm_app.config import parse\n",
        "def late():\n    from fedllm_app.config.parse import flatten\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fedllm_app.config.parse import flatten\n",
    ],
)
def test_an_upward_import_is_found_in_every_form(text, make_package):
    """In a file of `data`, below `config`; the same text in `runs`, above it, is fine."""
    others = {"config/parse.py": "", "config/__init__.py": ""}
    assert upward_imports(make_package({"data/a.py": text, **others})) == [
        "fedllm_app.data.a -> fedllm_app.config.parse"
    ]
    assert upward_imports(make_package({"data/a.py": "", "runs/a.py": text, **others})) == []


def test_rooms_of_one_level_do_not_import_each_other(make_package):
    package = make_package({"client/a.py": "from fedllm_app.federation import b\n", "federation/b.py": ""})
    assert upward_imports(package) == ["fedllm_app.client.a -> fedllm_app.federation.b"]


def test_a_circle_within_a_room_is_found(make_package):
    """Three modules of one room, the last import inside a function."""
    files = {
        "data/a.py": "from fedllm_app.data.b import x\n",
        "data/b.py": "from fedllm_app.data import c\n",
        "data/c.py": "def late():\n    import fedllm_app.data.a\n",
    }
    assert set(circle(make_package({"data/__init__.py": "", **files}))) == {f"fedllm_app.data.{name}" for name in "abc"}
