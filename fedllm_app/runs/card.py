"""The model card of a merged model or of an adapter: README.md with the metadata that hubs read at its top.

`model_card` makes it of what is recorded, and of nothing else: what a run did not record is said to be unknown.
It names data and models of this machine by the last part of their paths, and neither sites nor directories.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from fedllm_app.data.named_sets import BUILT_IN, NAMED_SETS, set_names
from fedllm_app.models.licence import Licence
from fedllm_app.runs.card_tables import evaluation_lines, held_out_lines, markdown_table
from fedllm_app.runs.directory import PromptRecord
from fedllm_app.strategies.registry import STRATEGIES

_METHODS = {
    "LORA": "LoRA",
    "IA3": "(IA)³",
    "PREFIX_TUNING": "prefix tuning",
    "P_TUNING": "p-tuning",
    "PROMPT_TUNING": "prompt tuning",
}
_TASKS = {
    "sft": "instruction tuning (SFT)",
    "dpo": "value alignment on preference pairs (DPO)",
    "kto": "value alignment on rated answers (KTO)",
    "text": "continued pretraining on raw text",
}
_UNKNOWN = "not recorded"


@dataclass(frozen=True)
class Base:
    """The base model: `name` as a card shows it, its Hub id ("" where it has none), its licence, and a remark."""

    name: str
    hub_id: str = ""
    licence: Licence = field(default_factory=Licence)
    remark: str = ""


@dataclass(frozen=True)
class CardFacts:
    """What is known of a model.

    Attributes
    ----------
    title : str
        The heading.
    base : Base
        What it is made of.
    settings : Mapping[str, object]
        The content of adapter_config.json.
    prompt : PromptRecord | None
        How its prompts are written.
    use : Sequence[str]
        Lines of Markdown on how it is used.
    merged : str
        The type of a merged model's weights; "" of an adapter.
    config, result : Mapping[str, object] | None
        The run's config.json and result.json; None of an adapter from elsewhere, and of a run that did not finish.
    journal : Sequence[Mapping[str, object]]
        The run's events.
    server_round, client : int | None
        Of a checkpoint, its round; of a client that trained alone, its number.
    evaluations : Sequence[tuple[Mapping[str, object], str]]
        Saved reports (report.json) in which it was asked, and its name there.
    versions : Mapping[str, str]
        Of the packages that wrote the files.
    """

    title: str
    base: Base
    settings: Mapping[str, object]
    prompt: PromptRecord | None
    use: Sequence[str]
    merged: str = ""
    config: Mapping[str, object] | None = None
    result: Mapping[str, object] | None = None
    journal: Sequence[Mapping[str, object]] = ()
    server_round: int | None = None
    client: int | None = None
    evaluations: Sequence[tuple[Mapping[str, object], str]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


def model_card(facts: CardFacts) -> str:
    """The text of README.md."""
    parts = [
        _metadata(facts),
        f"# {facts.title}\n\n{_summary(facts)}",
        "## Use\n\n" + "\n".join(facts.use),
        "## Prompts\n\n" + _prompts(facts.prompt),
        "## Training\n\n" + "\n".join(_training(facts)),
        "## Evaluation\n\n" + "\n".join(_evaluation(facts)),
        "## Privacy\n\n" + _privacy(facts),
        "## Licences\n\n" + "\n".join(_licences(facts)),
        "## Versions\n\n" + "\n".join(_versions(facts)),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def shown_name(name: str) -> str:
    """A Hub id or a built-in name as it is; of a path of this machine its last part."""
    path = PurePath(name)
    return path.name if path.is_absolute() or name.startswith(("~", ".")) else name


def _metadata(facts: CardFacts) -> str:
    from huggingface_hub import ModelCardData

    licence = facts.base.licence
    config = facts.config
    federated = config is not None and facts.client is None and config["strategy.name"] != "centralized"
    card = ModelCardData(
        base_model=facts.base.hub_id or None,
        datasets=[id for name in _data_names(facts) if (id := _hub_id_of_set(name))] or None,
        library_name="transformers" if facts.merged else "peft",
        pipeline_tag="text-generation",
        license=licence.name or None,
        license_name=licence.full_name or None,
        license_link=licence.link or None,
        tags=[*(["federated-learning", "flower"] if federated else []), *([] if facts.merged else ["adapter"])] or None,
    )
    return f"---\n{card.to_yaml()}\n---"


def _summary(facts: CardFacts) -> str:
    base, method = _linked(facts.base), _method(facts.settings)
    what = f"This is the base model {base}, fine-tuned with {method}; the adapter is merged into the weights."
    if not facts.merged:
        what = f"This is an adapter ({method}) for the base model {base}."
    config = facts.config
    if config is None:
        return f"{what} It was not trained by a run that is recorded here."
    if facts.client is not None:
        return f"{what} Client {facts.client} of the run trained it alone, on its own data."
    if config["strategy.name"] == "centralized":
        return f"{what} It was trained on the data of all clients in one place, as a baseline of federated learning."
    return (
        f"{what} It was trained with federated learning (Flower): each of several clients trained the adapter on its "
        "own data, and a server combined the adapters."
    )


def _prompts(prompt: PromptRecord | None) -> str:
    if prompt is None:
        return "How the prompts were written in training is not recorded."
    template = f"It was trained with the template `{shown_name(prompt.template)}`"
    same = "The chat template that comes with it writes the same prompts"
    if not prompt.system_prompt:
        return f"{template}. {same}."
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", prompt.system_prompt)), 0)
    return (
        f"{template} and this system prompt:\n\n{fence}text\n{prompt.system_prompt}\n{fence}\n\n{same}, and puts that "
        "system prompt where a conversation has none of its own."
    )


def _training(facts: CardFacts) -> list[str]:
    rows = [("base model", _linked(facts.base) + (f"; {facts.base.remark}" if facts.base.remark else ""))]
    rows += [("weights", f"{facts.merged}, adapter merged")] if facts.merged else []
    rows.append(("adapter", _adapter(facts)))
    config = facts.config
    if config is not None:
        steps, batch = config["train.local-steps"], config["train.batch-size"] * config["train.gradient-accumulation"]
        rate, last = config["train.learning-rate"], config["train.min-learning-rate"]
        task = str(config["train.task"])
        rows += [
            ("task", _TASKS.get(task, f"`{task}`")),
            ("data", _data(facts)),
            ("algorithm", _algorithm(config)),
            ("rounds", _rounds(facts)),
            ("clients", _clients(facts)),
            (
                "local training",
                f"{steps} steps of {batch} rows a round, up to {config['train.max-length']} tokens a row",
            ),
            ("optimizer", f"{config['train.optimizer']}, learning rate {rate:g} to {last:g}"),
            ("base while training", _base_while_training(config)),
            ("seed", str(config["run.seed"])),
        ]
        if start := config.get("adapter.start"):
            rows.append(("started from", f"the adapter `{shown_name(str(start))}`"))
    return markdown_table(("", ""), rows)


def _adapter(facts: CardFacts) -> str:
    settings, config = facts.settings, facts.config or {}
    if settings.get("peft_type") == "LORA":
        modules = settings.get("target_modules")
        leaves = {str(name).rpartition(".")[2] for name in modules} if isinstance(modules, list) else {str(modules)}
        named = ", ".join(sorted(leaves))
        text = f"{_method(settings)}, r = {settings.get('r')}, alpha = {settings.get('lora_alpha')}, on {named}"
        return (
            f"{text}; the factors B alone were trained (FFA-LoRA)" if config.get("lora.aggregation") == "ffa" else text
        )
    if virtual := settings.get("num_virtual_tokens"):
        return f"{_method(settings)}, {virtual} virtual tokens"
    return _method(settings)


def _method(settings: Mapping[str, object]) -> str:
    name = _METHODS.get(str(settings.get("peft_type")), str(settings.get("peft_type")))
    if settings.get("use_rslora"):
        return "DoRA with rank-stabilised scale" if settings.get("use_dora") else "rank-stabilised LoRA"
    return "DoRA" if settings.get("use_dora") else name


def _algorithm(config: Mapping[str, object]) -> str:
    name = str(config["strategy.name"])
    if name not in STRATEGIES:
        arguments = config.get("strategy.arguments")
        return f"`{name}`, a strategy of the run's own" + (f" ({arguments})" if arguments else "")
    prefix = f"strategy.{name}."
    hyper = [f"{key.removeprefix(prefix)} = {value}" for key, value in config.items() if key.startswith(prefix)]
    extra = [f"updates sent as {config['update.compress']}"] if config.get("update.compress", "none") != "none" else []
    extra += [f"update steps `{config['update.steps']}`"] if config.get("update.steps") else []
    extra += [f"corrections `{config['train.corrections']}`"] if config.get("train.corrections") else []
    return ", ".join([name, *hyper, *extra])


def _rounds(facts: CardFacts) -> str:
    planned = facts.config["train.rounds"]
    if facts.server_round is not None:
        return f"{facts.server_round}; a checkpoint of a run of {planned}"
    return str(facts.result["rounds"] if facts.result else planned)


def _clients(facts: CardFacts) -> str:
    lines = (facts.result or {}).get("participation") or ()
    number = len(lines) or facts.config["clients.number"]
    if not number:
        return _UNKNOWN
    if facts.client is not None:
        return f"1 of {number}, alone"
    took_part = sum(line["took_part"] > 0 for line in lines)
    rows = [event["examples"] for event in _holds(facts)]
    drawn = facts.config["clients.per-round"] or number
    text = f"{number}, {drawn} drawn a round"
    text += f"; updates of {took_part} were used" if lines else ""
    return text + (f"; {sum(rows):,} training rows" if rows else "")


def _base_while_training(config: Mapping[str, object]) -> str:
    quantization = config.get("model.quantization", "none")
    dtype = config["model.dtype"]
    return ("weights in what suits each machine" if dtype == "auto" else f"weights in {dtype}") + (
        f", stored as {quantization}" if quantization != "none" else ""
    )


def _holds(facts: CardFacts) -> list[Mapping[str, object]]:
    """What each client held when the run began; one that came back says so again."""
    last = {event["client"]: event for event in facts.journal if event["event"] == "holds"}
    return [event for client, event in last.items() if facts.client in (None, client)]


def _data_names(facts: CardFacts) -> list[str]:
    """`data.name` by set; none where the sites had data of their own instead of the built-in corpus."""
    if facts.config is None:
        return []
    names = set_names(str(facts.config["data.name"]))
    own = any(event["schema"] != BUILT_IN for event in _holds(facts))
    return [name for name in names if not (own and name == BUILT_IN)]


def _data(facts: CardFacts) -> str:
    names = _data_names(facts)
    if not names:
        return "each site's own, which the server was not told"
    shown = "the built-in corpus, generated rows" if names == [BUILT_IN] else ", ".join(map(_shown_set, names))
    if names == [BUILT_IN]:
        return shown
    return f"{shown}. A site of a deployment may have had data of its own in its place, which the server is not told"


def _shown_set(name: str) -> str:
    if name in NAMED_SETS:
        return f"{name} ([{NAMED_SETS[name].hub_id}]({NAMED_SETS[name].url}))"
    return f"`{shown_name(name)}`"


def _hub_id_of_set(name: str) -> str:
    if name in NAMED_SETS:
        return NAMED_SETS[name].hub_id
    return name if name.count("/") == 1 and not PurePath(name).is_absolute() else ""


def _linked(base: Base) -> str:
    return f"[{base.hub_id}](https://huggingface.co/{base.hub_id})" if base.hub_id else f"`{base.name}`"


def _evaluation(facts: CardFacts) -> list[str]:
    lines = [line for report, name in facts.evaluations for line in [*evaluation_lines(report, name), ""]]
    alone = facts.config is None or facts.client is not None
    held_out = [] if alone else held_out_lines(facts.journal, facts.config, facts.server_round)
    if not lines and not held_out:
        return ["No evaluation is recorded. `fedllm evaluate` makes one, with 95 % intervals."]
    if not lines:
        held_out += ["", "No saved evaluation was found. `fedllm evaluate` makes one, with 95 % intervals."]
    return [*lines, *held_out]


def _privacy(facts: CardFacts) -> str:
    general = (
        "A model can repeat parts of what it was trained on, and whether a certain text was among the data can be "
        "guessed from it. Do not publish it if the data must not become known."
    )
    if facts.config is None:
        return general
    if facts.config["strategy.name"] == "centralized":
        return f"The rows of all clients were trained on in one place. {general}"
    return (
        "Clients and server exchanged adapters or their changes, counts and losses, and no rows. The run used no "
        "differential privacy and no secure aggregation: the server saw each client's update, from which something of "
        f"its rows can be learnt. {general}"
    )


def _licences(facts: CardFacts) -> list[str]:
    licence = facts.base.licence
    lines = [
        f"- Base model {_linked(facts.base)}: {licence.shown or 'licence not known; look it up before you publish'}."
        + (" Its terms hold for this model, too." if facts.merged else " Whoever uses the adapter needs it, too.")
    ]
    if licence.files:
        lines.append(f"- Files of the base: {', '.join(f'`{file.name}`' for file in licence.files)}.")
    for name in _data_names(facts):
        if name in NAMED_SETS:
            lines.append(f"- Data {_shown_set(name)}: {NAMED_SETS[name].licence}.")
        elif name != BUILT_IN:
            lines.append(f"- Data {_shown_set(name)}: licence not known here.")
    return lines


def _versions(facts: CardFacts) -> list[str]:
    lines = []
    for event in facts.journal:
        if event["event"] == "versions":
            lines.append(f"- trained with: {', '.join(map(str, event['versions']))}")
    written = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    return [*dict.fromkeys(lines), *([f"- written with: {written}"] if written else [])] or [_UNKNOWN]
