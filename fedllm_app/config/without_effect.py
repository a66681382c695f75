"""Values that would do nothing: an option that has no effect is refused, not passed over in silence."""

from fedllm_app.config.sections import Config

_NEED_SMOOTHING = {
    "robust": "is 'sigmoid' without it",
    "exo_pair": "is not defined without it",
}
KNOW_SMOOTHING = (*_NEED_SMOOTHING, "aot", "aot_unpaired")
_COMPARE_ROWS = ("aot", "aot_unpaired")


def without_effect(config: Config) -> list[str]:
    """Options that are set and do nothing beside the others, a sentence each."""
    return [*_of_dpo(config), *_of_references(config), *_of_adapter(config), *_of_model(config)]


def _of_dpo(config: Config) -> list[str]:
    """TRL's losses against their parameters. Nothing of `dpo` is looked at for another task."""
    if config.train.task != "dpo":
        return []
    problems = []
    loss, smoothing = config.dpo.loss_type, config.dpo.label_smoothing
    if loss in _NEED_SMOOTHING and not smoothing:
        problems.append(
            f"dpo.label-smoothing = 0.0: dpo.loss-type = {loss!r} {_NEED_SMOOTHING[loss]}; set the share of pairs "
            "that are "
            "labelled the wrong way round, above 0 and below 0.5 (robust: often 0.1; exo_pair: 1e-3)"
        )
    if smoothing and loss not in KNOW_SMOOTHING:
        problems.append(
            f"dpo.label-smoothing = {smoothing}: dpo.loss-type = {loss!r} does not read it; set 0.0, or one of "
            f"{', '.join(KNOW_SMOOTHING)}"
        )
    if loss in _COMPARE_ROWS and config.train.batch_size == 1:
        problems.append(
            f"dpo.loss-type = {loss!r} compares the pairs of a batch in order of their margins, and with "
            "train.batch-size = "
            "1 it is 'sigmoid': set a larger batch, or 'sigmoid'"
        )
    return problems


def _of_references(config: Config) -> list[str]:
    """Tasks that compare with a reference: TRL trains them without dropout, so that both are the same model."""
    task, dropout = config.train.task, config.lora.dropout
    if task not in ("dpo", "kto") or not dropout:
        return []
    return [f"lora.dropout = {dropout}: must be 0.0 with train.task = {task!r}, in which TRL switches dropout off"]


def _of_adapter(config: Config) -> list[str]:
    problems = []
    lora, method = config.lora, config.adapter.method
    for key, value, neutral in (
        ("rslora", lora.rslora, "false"),
        ("dora", lora.dora, "false"),
        ("dropout", lora.dropout, "0.0"),
    ):
        if value and method != "lora":
            shown = str(value).lower()
            problems.append(
                f"lora.{key} = {shown}: must be {neutral} with adapter.method = {method!r}, which has no LoRA"
            )
    if lora.rslora and lora.r == 1:
        problems.append("lora.rslora = true: with lora.r = 1, alpha / √r is alpha / r; set false, or a larger rank")
    if lora.aggregation != "factors" and method != "lora":
        problems.append(
            f"lora.aggregation = {lora.aggregation!r}: must be 'factors' with adapter.method = {method!r}, which has "
            "no "
            "factors"
        )
    return problems


def _of_model(config: Config) -> list[str]:
    model = config.model
    problems = []
    if model.double_quantization and model.quantization != "nf4":
        problems.append(
            "model.double-quantization = true: must be false with model.quantization = "
            f"{model.quantization!r}; it quantizes the scales of nf4"
        )
    if model.attention.startswith("flash") and model.dtype == "float32":
        problems.append(
            f"model.attention = {model.attention!r} multiplies in 16 bits: set model.dtype = 'bfloat16', or another "
            "attention"
        )
    return problems
