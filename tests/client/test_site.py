"""What a site says of its own data."""

from dataclasses import replace

import pytest

from fedllm_app.client.site import SiteConfigError, at_site, site_items
from fedllm_app.data.client_rows import DataSelection
from fedllm_app.data.readers.base import TextFormat
from fedllm_app.data.schemas import Columns

SELECTION = DataSelection(
    "alpaca", Columns(prompt="q", chosen="c"), 4, 1, 10, 3, 0.0, "sft", split="train", partition="iid", samples=9
)


def test_nodes_of_a_simulation_all_give_the_same():
    assert site_items({"partition-id": 1, "num-partitions": 4}) == site_items({"partition-id": 2, "num-partitions": 4})
    assert at_site(SELECTION, ()) == SELECTION


def test_keys_of_other_apps_are_left_alone():
    assert site_items({"rack": 7, "owner": "x"}) == ()


def test_a_site_with_a_path_owns_all_of_it():
    own = at_site(SELECTION, site_items({"data-path": "/d/x.csv", "site": "berlin", "prompt-column": "frage"}))
    assert (own.name, own.whole, own.site, own.split, own.samples) == ("/d/x.csv", True, "berlin", "train", 9)
    assert own.columns == Columns(prompt="frage", chosen="c")


def test_columns_and_split_alone_leave_the_partition():
    own = at_site(SELECTION, site_items({"prompt-column": "", "rejected-column": "r", "data-split": "dev"}))
    assert (own.name, own.whole, own.split) == ("alpaca", False, "dev")
    assert own.columns == Columns(prompt="", chosen="c", rejected="r")


def test_a_site_says_how_its_files_are_written():
    run = replace(SELECTION, text_format=TextFormat(delimiter="|", encoding="latin-1"))
    own = at_site(run, site_items({"delimiter": ";"}))
    assert own.text_format == TextFormat(";", "latin-1")
    assert at_site(run, site_items({"encoding": "", "delimiter": "tab"})).text_format == TextFormat("tab", "")


def test_every_column_of_the_configuration_can_be_named_at_a_site():
    """Those of documents and of rated answers too."""
    own = at_site(SELECTION, site_items({"text-column": "body", "label-column": "vote"}))
    assert own.columns == Columns(prompt="q", chosen="c", text="body", label="vote")


@pytest.mark.parametrize("said", [{"site": "rome"}, {"prompt-column": "frage"}])
def test_a_site_without_data_does_not_train_on_the_generated_set(said):
    built_in = replace(SELECTION, name="builtin")
    with pytest.raises(SiteConfigError, match=r"has no data-path, and data\.name = 'builtin'.*give data-path="):
        at_site(built_in, site_items(said))
    assert at_site(built_in, ()) == built_in


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"data-path": "rows.csv"}, "data-path = 'rows.csv': must be an absolute path"),
        ({"data-path": ""}, "data-path = '': must be an absolute path"),
        ({"data-path": 7}, "data-path = 7: must be text"),
        ({"site": 3}, "site = 3: must be text"),
        ({"delimiter": ";;"}, "delimiter = ';;': must be one character"),
        ({"encoding": "utf-99"}, "encoding = 'utf-99': must be an encoding that Python knows"),
        ({"data_path": "/x"}, "data_path: unknown key; did you mean data-path?"),
        ({"promt-column": "x"}, "promt-column: unknown key; did you mean prompt-column?"),
    ],
)
def test_what_is_wrong_is_named(said, told):
    with pytest.raises(SiteConfigError) as caught:
        site_items(said)
    assert told in str(caught.value)
