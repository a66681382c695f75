"""What a node says of itself and a client of what it holds, read with types and bounds."""

from dataclasses import dataclass

from flwr.app import ConfigRecord, Message

from fedllm_app.messages import CONFIG, BadMessage, ClientHolding, plain_text, whole_number

_LONGEST = 200  # characters of a name, a version, a hash
_MOST_VERSIONS = 100
_MOST_PARTITIONS = 10**7


@dataclass(frozen=True)
class Description:
    """A client's description of itself before round 1.

    Attributes
    ----------
    holding : ClientHolding
        Its rows.
    versions : list[str]
        Of its code and libraries, "name version".
    manifest : str
        Hash of the layout of what it will send.
    """

    holding: ClientHolding
    versions: list[str]
    manifest: str


def read_description(answer: Message) -> Description:
    """Read a reply to the query "describe". BadMessage says what is wrong with it."""
    config = _config(answer)
    versions = config.get("versions")
    if not isinstance(versions, list) or len(versions) > _MOST_VERSIONS:
        raise BadMessage(f"a client's description has no list of at most {_MOST_VERSIONS} versions")
    return Description(
        holding=ClientHolding.from_config(config),
        versions=[_text({"versions": version}, "versions") for version in versions],
        manifest=_text(config, "manifest"),
    )


def read_identity(answer: Message) -> dict[str, int | str]:
    """Read a reply to the query "identify": the fields of a `Node`. BadMessage says what is wrong with it."""
    config = _config(answer)
    return {
        "partition": whole_number(config, "partition", -1, _MOST_PARTITIONS),
        "partitions": whole_number(config, "partitions", 0, _MOST_PARTITIONS),
        "site": _text(config, "site"),
        "code": _text(config, "code"),
        # A site from before there was a number says none.
        "protocol": whole_number(config, "protocol", 0, _MOST_PARTITIONS) if "protocol" in config else 1,
        "gpus_hidden": config.get("gpus-hidden") is True,
    }


def _config(answer: Message) -> ConfigRecord:
    config = answer.content.get(CONFIG)
    if not isinstance(config, ConfigRecord):
        raise BadMessage("the reply carries no configuration")
    return config


def _text(config: ConfigRecord | dict, key: str) -> str:
    value = config.get(key)
    if not isinstance(value, str):
        raise BadMessage(f"{key} is a {type(value).__name__}, it must be text")
    return plain_text(value, _LONGEST)
