"""The figure of a run: its panels, its references, and a run without anything to draw."""

import pytest
from rich.console import Console
from run_material import write_run

from fedllm_app.commands.run import draw_figure
from fedllm_app.runs.directory import RunDirectory
from fedllm_app.runs.figures import FIGURE_FILE, NothingToDraw, Shares, plot_run


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, as matplotlib has them."""
    from matplotlib.figure import Figure

    kept = []
    save = Figure.savefig

    def keep(figure, *arguments, **options):
        kept.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


def test_panels_references_and_one_legend(tmp_path, drawn):
    """Base: 5 and 0 before round 1; alone: 3.5 after round 2. The two losses have one axis, the held-out panels the
    rounds. Nobody trains before round 1."""
    run = write_run(tmp_path / "run", run__seed=7)
    alone = write_run(tmp_path / "alone", strategy__name="local", losses={0: 5.0, 1: 4.0, 2: 3.5})
    plot_run(run, tmp_path / "figure.png", alone=alone)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    losses, held_out, exact = figure.axes
    assert figure.get_suptitle() == "fedavg on builtin, seed 7"
    assert [axes.get_title() for axes in figure.axes] == ["training loss", "held-out loss", "held-out exact match"]
    assert losses.get_ylim() == held_out.get_ylim() != exact.get_ylim()
    assert held_out.get_xlim() == exact.get_xlim()
    assert held_out.get_xlim()[0] < 0 < losses.get_xlim()[0] < 1
    lines = {line.get_label(): list(line.get_ydata()) for line in held_out.get_lines()}
    assert lines["all clients"] == [5.0, 3.0, 2.0]
    assert lines["client 1 (south)"] == [5.5, 3.5, 2.5]
    assert (lines["base model (round 0)"], lines["clients alone, each on its own rows"]) == ([5.0, 5.0], [3.5, 3.5])
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) == len(set(labels)) == 7


def test_an_axis_of_shares_has_room_for_what_clients_reach_alone(tmp_path, drawn):
    """In percent, from just below 0 to above the 90 % that they reach; all clients together reach 10 %."""
    run = write_run(tmp_path / "run", exact={0: 0.0, 1: 0.05, 2: 0.1})
    alone = write_run(tmp_path / "alone", strategy__name="local", exact={0: 0.0, 1: 0.5, 2: 0.9})
    plot_run(run, tmp_path / "figure.png", alone=alone)
    exact = drawn[0].axes[2]
    low, high = exact.get_ylim()
    assert -0.05 < low < 0 and high > 0.9
    assert exact.yaxis.get_major_formatter()(0.5) == "50%"


def test_shares_of_models_are_bars_beside_the_panels(tmp_path, drawn):
    """From the worst at the bottom to the best, with percents; the legend and the rounds are those of the panels."""
    shares = Shares("the same questions", {"base": 0.0, "federated": 0.479, "math alone": 0.129}, "federated")
    plot_run(write_run(tmp_path / "run"), tmp_path / "figure.png", shares=shares)
    *panels, bars = drawn[0].axes
    assert [panel.get_title() for panel in panels] == ["training loss", "held-out loss", "held-out exact match"]
    assert bars.get_title() == "the same questions"
    assert [text.get_text() for text in bars.get_yticklabels()] == ["base", "math alone", "federated"]
    assert [round(bar.get_width(), 1) for bar in bars.patches] == [0.0, 12.9, 47.9]
    assert [text.get_text() for text in bars.texts] == ["0.0 %", "12.9 %", "47.9 %"]
    assert bars.patches[2].get_facecolor()[:3] == (0, 0, 0) != bars.patches[1].get_facecolor()[:3]


def test_the_spread_and_the_interval_look_different(tmp_path, drawn):
    """The legend names both; the one is a grey area, the other is hatched."""
    plot_run(write_run(tmp_path / "run"), tmp_path / "figure.png")
    (legend,) = drawn[0].legends
    looks = {
        text.get_text(): (handle.get_hatch(), tuple(handle.get_facecolor()))
        for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)
        if not hasattr(handle, "get_linestyle") or hasattr(handle, "get_hatch")
    }
    assert looks["smallest to largest client"] != looks["95 % interval"]
    assert looks["95 % interval"][0]


def test_the_line_of_a_single_client_is_above_that_of_all(tmp_path, drawn):
    """Both have the same values; the client's is the thinner one."""
    plot_run(write_run(tmp_path / "run", names={0: "north"}, refused={}), tmp_path / "figure.png")
    lines = {line.get_label(): line for line in drawn[0].axes[0].get_lines()}
    client, mean = lines["client 0 (north)"], lines["all clients"]
    assert list(client.get_ydata()) == list(mean.get_ydata())
    assert client.get_zorder() > mean.get_zorder()
    assert client.get_linewidth() < mean.get_linewidth()


def test_words_of_clients_are_no_formulas(tmp_path, drawn):
    """matplotlib would fail at the second one, and set the first in another script."""
    plot_run(write_run(tmp_path / "run", names={0: "$x^2$", 1: r"$\nonsense{$"}), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").exists()


def test_many_clients_are_drawn_as_their_spread(tmp_path, drawn):
    plot_run(write_run(tmp_path / "run", names={k: f"c{k}" for k in range(30)}, refused={}), tmp_path / "figure.png")
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert "smallest to largest client" in labels
    assert not any(label.startswith("client ") for label in labels)


def test_a_run_without_a_round(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.create({})
    run.journal("failed", reason="no")
    for path in (run.path, tmp_path / "nowhere"):
        with pytest.raises(NothingToDraw):
            plot_run(path, tmp_path / "figure.png")


def test_a_run_draws_its_figure_beside_its_reference(tmp_path, console: Console, drawn):
    """What `fedllm run` calls at its end."""
    run = write_run(tmp_path / "run")
    write_run(tmp_path / "alone", strategy__name="local")
    draw_figure(run, console)
    assert (run / FIGURE_FILE).is_file()
    assert f"figure: {run / FIGURE_FILE}" in console.file.getvalue()
    assert "clients alone, each on its own rows" in [line.get_label() for line in drawn[0].axes[1].get_lines()]


def test_a_figure_that_cannot_be_drawn_is_told_and_no_more(tmp_path, console: Console, monkeypatch):
    def broken(*_arguments, **_options):
        raise OSError("no font")

    run = write_run(tmp_path / "run")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", broken)
    draw_figure(run, console)
    assert "the figure of the run could not be drawn: OSError: no font" in console.file.getvalue()
    assert not (run / FIGURE_FILE).exists()


def test_a_run_that_failed_at_once_says_nothing_of_a_figure(tmp_path, console: Console):
    draw_figure(tmp_path / "nowhere", console)
    assert console.file.getvalue() == ""
