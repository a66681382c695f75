"""The problems of a configuration that differs from the defaults."""

import pytest
from places import ROOT

from fedllm_app.config.parse import default_run_config, parse_run_config
from fedllm_app.config.sections import ConfigError

DEFAULTS = default_run_config(ROOT)


def problems(**overrides):
    """The problems of the defaults with overrides, written section__key with _ for -."""
    changed = {key.replace("__", ".").replace("_", "-"): value for key, value in overrides.items()}
    with pytest.raises(ConfigError) as caught:
        parse_run_config(DEFAULTS | changed)
    for problem in caught.value.problems:
        assert problem in str(caught.value)
    return caught.value.problems
