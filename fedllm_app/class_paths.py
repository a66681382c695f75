"""Names of the configuration that are class paths: code of the user's own, installed where it runs."""

import importlib
import inspect

from fedllm_app.errors import UserError


class ClassPathError(UserError):
    """A class path that leads to nothing usable."""

    public = "a class path of the run leads to nothing that can be used here"


class NotImportable(ClassPathError):
    """The module of a class path is not installed here; it may be where the run takes place."""


def is_class_path(name: str) -> bool:
    """Whether a name is a class path, "package.module.Class", and not a name of one of the app's tables."""
    return "." in name


def class_paths(text: str) -> tuple[str, ...]:
    """The class paths of a configuration value, which are separated by commas; none for ""."""
    return tuple(path.strip() for path in text.split(",") if path.strip())


def import_object(path: str, purpose: str) -> object:
    """Import what a class path names.

    Parameters
    ----------
    path : str
        "package.module.Name".
    purpose : str
        What it is for, to begin an error with: "The strategy".

    Raises
    ------
    NotImportable
        There is no such module here.
    ClassPathError
        The module has no such name, or fails while it is imported.
    """
    module_name, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        raise NotImportable(f"{purpose} {path} cannot be imported: {error}.") from error
    except Exception as error:  # whatever a module of the user's raises, its name belongs into the message
        raise ClassPathError(f"{purpose} {path} cannot be imported: {type(error).__name__}: {error}.") from error


def import_class(path: str, base: type, purpose: str) -> type:
    """Import a concrete class that derives from `base`; errors as `import_object`."""
    found = import_object(path, purpose)
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise ClassPathError(f"{purpose} {path} is no subclass of {base.__module__}.{base.__qualname__}.")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ClassPathError(f"{purpose} {path} is abstract; it does not define {missing}.")
    return found
