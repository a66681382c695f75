"""What a base model's files say of its licence."""

import pytest

from fedllm_app.models.base import locate_model, stored_dtype
from fedllm_app.models.licence import Licence, licence_of
from fedllm_app.models.location import ModelLocation


@pytest.fixture
def base(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    return ModelLocation(str(tmp_path), str(tmp_path))


def of(base: ModelLocation, card: str | None) -> Licence:
    if card is not None:
        (base.directory / "README.md").write_text(card, encoding="utf-8")
    return licence_of(base)


@pytest.mark.parametrize(
    ("card", "name", "shown"),
    [
        (None, "", ""),
        ("---\nlicense: apache-2.0\n---\n# é", "apache-2.0", "apache-2.0"),
        (
            "---\nlicense: other\nlicense_name: llama-9\nlicense_link: https://example.org/l\n---\n",
            "other",
            "llama-9 (https://example.org/l)",
        ),
        ("---\nlicense: other\nlicense_name: llama-9\nlicense_link: LICENSE\n---\n", "other", "llama-9"),
        ("# no metadata", "", ""),
        ("---\nlicense: [1, \n---\n", "", ""),
        ("---\n- a list\n---\n", "", ""),
        ("---\nlicense: {a: b}\n---\n", "", ""),
    ],
)
def test_the_licence_of_a_directory(base, card, name, shown):
    """Of its card; a card that is none leaves it unknown."""
    licence = of(base, card)
    assert (licence.name, licence.shown) == (name, shown)


def test_the_texts_that_come_along(base):
    for name in ("LICENSE", "Notice.txt", "USE_POLICY.md", "LICENCE.md", "licenses.py", "README.md"):
        (base.directory / name).touch()
    assert [file.name for file in licence_of(base).files] == ["LICENCE.md", "LICENSE", "Notice.txt", "USE_POLICY.md"]


def test_the_licence_of_a_packaged_model(base):
    """Known without the package."""
    location = ModelLocation("/nowhere", "smollm2-135m-instruct")
    assert licence_of(location) == Licence("apache-2.0")


@pytest.mark.parametrize(("said", "dtype"), [('"bfloat16"', "bfloat16"), ("null", "float32")])
def test_the_type_in_which_weights_are_stored(base, said, dtype):
    (base.directory / "config.json").write_text(f'{{"model_type": "llama", "dtype": {said}}}')
    assert stored_dtype(locate_model(str(base.directory))) == dtype
