"""Some of the cases of fuzz.py, always the same ones."""

import fuzz
import pytest

# As many as a few seconds allow.
N_SEEDS = {"solver": 150, "checkpoint": 150, "cache": 80, "images": 60}


@pytest.mark.slow
@pytest.mark.parametrize("room", fuzz.ROOMS)
def test_cases_of_fuzz(room):
    for seed in range(N_SEEDS[room]):
        try:
            fuzz.run(room, seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
