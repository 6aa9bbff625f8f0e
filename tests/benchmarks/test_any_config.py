"""What validation accepts runs: 300 random variants here, 10,000 in the benchmark."""

import numpy as np
import pytest

from benchmarks.any_config import failure, random_config


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numbers at the ends of their ranges
def test_variants_that_validation_accepts_run_without_an_exception() -> None:
    variants = [random_config(np.random.default_rng((0, index))) for index in range(300)]
    assert [(found, config) for config in variants if (found := failure(config)) is not None] == []
