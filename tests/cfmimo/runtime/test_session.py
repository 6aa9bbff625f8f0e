"""What AP processes take is known before any is started."""

import pytest

from cfmimo.errors import ConfigError
from cfmimo.presets import load
from cfmimo.runtime.session import check_memory, memory_needed


def test_a_hundred_forked_learners_fit_a_laptop() -> None:
    forked, plain = (memory_needed(load("paper", [f"run.start={start}"])) for start in ("fork", "plain"))
    assert forked < 8 * 2**30 < plain


def test_a_run_that_does_not_fit_is_refused_with_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"20000 AP processes need about 1\d{3}\.\d GiB"):
        check_memory(load("paper", ["radio.num_aps=20000"]))
