"""Runs of one setting under several seeds: what they have reached together, as mean and deviation."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev

from fedllm_app.config.sections import FlatConfig
from fedllm_app.report.gather import ReportData, RunReport
from fedllm_app.report.headline import Gain, Headline, headline, in_words, sentence
from fedllm_app.runs.measures import LOSS, NO_DIFFERENCE

_SEED, _STRATEGY = "run.seed", "strategy.name"


def summary_lines(data: ReportData) -> Iterator[str]:
    """What the runs have reached: a line for each run, or one for all seeds of a setting."""
    settings = {run.label: _setting(run.config) for run in data.runs}
    told = set()
    for run in data.runs:
        if run.label in told:
            continue
        same = _comparable(data, [one for one in data.runs if settings[one.label] == settings[run.label]])
        if len(same) > 1 and run in same:
            told |= {one.label for one in same}
            yield f"{_name(run, list(settings.values()))}, {_seeds(same)}: {_together(data, same)}"
        else:
            told.add(run.label)
            yield f"{run.label}: {sentence(data, run)}"


def _setting(config: FlatConfig) -> dict[str, object]:
    """What seeds of one setting share: all but the seed and what other strategies read."""
    own = f"strategy.{config.get(_STRATEGY)}."
    return {
        key: value
        for key, value in config.items()
        if key not in NO_DIFFERENCE
        and key != _SEED
        and (not key.startswith("strategy.") or key.count(".") == 1 or key.startswith(own))
    }


def _comparable(data: ReportData, runs: Sequence[RunReport]) -> list[RunReport]:
    """Of runs of one setting those that were evaluated last after the same round, the latest, each seed once."""
    ends = {run.label: found for run in runs if (found := headline(data, run)) is not None}
    last = max((found.round for found in ends.values()), default=0)
    by_seed: dict[object, RunReport] = {}
    for run in runs:
        if run.label in ends and ends[run.label].round == last:
            by_seed.setdefault(run.config.get(_SEED), run)
    return list(by_seed.values())


def _name(run: RunReport, settings: Sequence[Mapping[str, object]]) -> str:
    """The strategy, and the values that tell this setting from the strategy's others in the report."""
    own = f"strategy.{run.overview.strategy}."
    mine = _setting(run.config)
    differing = [
        f"{key.removeprefix(own)} = {value}"
        for key, value in sorted(mine.items())
        if any(other.get(key, value) != value for other in settings if other.get(_STRATEGY) == mine.get(_STRATEGY))
    ]
    return ", ".join([run.overview.strategy, *differing])


def _seeds(runs: Sequence[RunReport]) -> str:
    return f"mean ± deviation over {len(runs)} seeds ({', '.join(str(run.config.get(_SEED)) for run in runs)})"


def _together(data: ReportData, runs: Sequence[RunReport]) -> str:
    found = _mean([headline(data, run) for run in runs])
    losses = [headline(data, run, LOSS) for run in runs]
    if found.series.metric == LOSS or None in losses or len({loss.round for loss in losses}) > 1:
        return in_words(found)
    return f"{in_words(found)} {in_words(_mean(losses))}"


def _mean(found: Sequence[Headline]) -> Headline:
    """The mean over seeds; a reference that one of them lacks is left out."""
    names = [gain.name for gain in found[0].gains]
    gains = []
    for name in names:
        own = [gain for one in found for gain in one.gains if gain.name == name]
        if len(own) == len(found):
            better = [gain.better for gain in own]
            mean, deviation = fmean(better), stdev(better)
            within = "the deviation" if deviation and abs(mean) <= deviation else ""
            if all(gain.within for gain in own):
                within = own[0].within
            gains.append(Gain(name, fmean(gain.value for gain in own), mean, deviation, within))
    values = [one.value for one in found]
    return Headline(found[0].series, fmean(values), found[0].round, tuple(gains), stdev(values))
