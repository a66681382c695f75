"""What `fedllm site check` says of a site's data and models, and of a run configuration."""

import pytest

from fedllm_app.client.policy import default_policy_text
from fedllm_app.config.parse import parse_run_config
from fedllm_app.data.errors import DataError
from fedllm_app.sites.findings import guarded
from fedllm_app.sites.machine_checks import check_data, check_disk, check_policy, check_run
from fedllm_app.sites.site_file import Site


@pytest.fixture
def site(tmp_path, tiny_model) -> Site:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"question": "x {n}", "answer": "{n}"}}\n' for n in range(12)))
    (tmp_path / "policy.toml").write_text(default_policy_text())
    place = tmp_path / "ca.crt", tmp_path / "node.key"
    own = {"data": {"data-path": str(rows)}, "models": (str(tiny_model), str(tmp_path / "nowhere"))}
    return Site(tmp_path, "a:1", *place, "a", tmp_path / "home", tmp_path / "policy.toml", **own)


def lines(check) -> list[str]:
    return [f"{finding.level} {finding.text}" for finding in guarded("x", check)]


def test_tasks_that_can_read_the_rows(site):
    said = lines(lambda: check_data(site))
    assert [line.split(",")[0] for line in said] == ["ok for sft: 12 rows"]
    with open(site.data["data-path"], "a") as file:
        file.write('{"question": "", "answer": "SECRET"}\n')
    (line,) = lines(lambda: check_data(site))
    assert line.startswith("warning") and "1 of 13 rows are bad" in line


@pytest.mark.parametrize("text", ["Jane Doe,ill\nJohn Doe,well\n", ""])
def test_rows_that_no_task_can_read(site, tmp_path, text):
    file = tmp_path / "headerless.csv"
    file.write_text(text)
    site.data["data-path"] = str(file)
    (line,) = lines(lambda: check_data(site))
    assert line.startswith("fails")


def test_models_and_disk(site):
    site.home.mkdir(mode=0o755)
    assert any("can be read by others" in line for line in lines(lambda: check_disk(site)))
    said = lines(lambda: check_policy(site))
    assert any(line.startswith("ok") and "is there" in line for line in said)
    assert any(line.startswith("warning") and "nowhere holds no model" in line for line in said)
    site.policy.write_text("[modles]\n")
    assert "did you mean models?" in " ".join(lines(lambda: check_policy(site)))


def test_a_run_that_would_work(site, run_config):
    config = parse_run_config(run_config)
    said = lines(lambda: check_run(site, run_config, config))
    assert said[0].startswith("ok 8 training and 4 held-out rows, ")
    assert "2 rounds" in said[-1]


def test_a_run_that_would_be_refused(site, run_config):
    """Nothing is loaded, and the line says what would allow it."""
    flat = run_config | {"model.name": "/elsewhere/model"}
    (line,) = lines(lambda: check_run(site, flat, parse_run_config(flat)))
    assert line.startswith("fails model.name = '/elsewhere/model': to allow it, add it to allowed in [models]")


def test_an_error_is_a_finding_and_not_the_end():
    def broken():
        raise DataError("no such column")
        yield

    assert lines(broken) == ["fails no such column"]
