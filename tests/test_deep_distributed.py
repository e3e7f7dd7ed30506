"""Networks that several processes train together, by torchrun and gloo."""

import os
import subprocess
import sys
from pathlib import Path

import distributed_fits
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

SCRIPT = Path(__file__).with_name("distributed_fits.py")
# Starting the processes takes most of the time.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not torch.distributed.is_available(), reason="torch without torch.distributed"
    ),
]


def torchrun(call, folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*command, "--nproc-per-node=2", SCRIPT, call, folder],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Return what each of two processes has found."""
    folder = tmp_path_factory.mktemp("ranks")
    result = torchrun("everything", folder)
    assert result.returncode == 0, result.stderr
    return [dict(np.load(folder / f"rank{rank}.npz")) for rank in range(2)]


def of(call, found):
    """Return what a process has found in one of the calls."""
    named = {tuple(name.split("/")): value for name, value in found.items()}
    return {name: value for (prefix, name), value in named.items() if prefix == call}


@pytest.mark.parametrize("call", distributed_fits.COMPARED, ids=lambda c: c.__name__)
def test_processes_find_what_one_finds(ranks, call):
    one = call(False)
    for found in ranks:
        of_all = of(call.__name__, found)
        assert of_all.keys() == one.keys()
        for name, value in one.items():
            tolerance = 1e-6 if call is distributed_fits.gradients else 1e-5
            scale = np.abs(value).max()
            assert_allclose(
                of_all[name], value, rtol=0, atol=tolerance * scale, err_msg=name
            )


@pytest.mark.parametrize("call", [*distributed_fits.COMPARED, distributed_fits.chance])
def test_all_processes_have_the_same_bits(ranks, call):
    first, *others = (of(call.__name__, found) for found in ranks)
    assert first
    for other in others:
        for name, value in first.items():
            assert_array_equal(other[name], value, err_msg=name)


def test_each_process_draws_random_numbers_of_its_own(ranks):
    one = distributed_fits.chance(False)
    different = of("chance", ranks[0])
    assert not np.allclose(different["weights"], one["weights"], atol=1e-4)
    # And yet it is as good.
    assert different["loss"] < 2 * one["loss"] + 0.1


def test_only_the_first_process_reports(ranks):
    for rank, found in enumerate(ranks):
        reports = of("reports", found)
        assert reports == dict.fromkeys(("shows", "warns", "writes"), rank == 0)


def test_run_goes_on_from_the_checkpoint_of_the_first(ranks):
    for found in ranks:
        of_run = of("checkpoint", found)
        assert_array_equal(of_run["parts"], of_run["whole"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("random_state", "random_state differs between the processes"),
        ("X", "X differs between the processes"),
        ("length", "X differs between the processes"),
        ("checkpoint", "The checkpoint differs between the processes"),
        ("batch_size", "A batch of 1 samples cannot be split among"),
    ],
)
def test_what_has_to_be_the_same_is_named_by_all(ranks, name, message):
    for found in ranks:
        assert message in str(of("errors", found)[name])


@pytest.mark.parametrize(
    ("call", "reason"),
    [("error_in_one", "this process fails"), ("death_of_one", "SIGKILL")],
)
def test_others_do_not_wait_for_a_process_that_fails(call, reason, tmp_path):
    result = torchrun(call, tmp_path)
    assert result.returncode != 0
    assert reason in result.stderr
    assert not list(tmp_path.glob("rank*"))


def test_without_a_group_one_is_asked_for():
    clusterer = distributed_fits.make(True)
    with pytest.raises(ValueError, match="distributed=True needs a process group"):
        clusterer.fit(distributed_fits.load_images())
    assert not hasattr(clusterer, "model_")
