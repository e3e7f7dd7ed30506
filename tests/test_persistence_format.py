import io
import json
import math
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal
from persistence import SHORT_FITS, Network, assert_same_fit, make, stopped_after
from torch import nn

from skcce._persistence import decode, encode, read_record, write_record

pytestmark = SHORT_FITS

NUMBERS = st.integers() | st.floats() | st.booleans() | st.none()
DTYPES = (
    hnp.floating_dtypes()
    | hnp.integer_dtypes()
    | hnp.unsigned_integer_dtypes()
    | hnp.boolean_dtypes()
    | hnp.complex_number_dtypes()
)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, min_side=0, max_side=3))
KEYS = st.text(max_size=3).filter(lambda key: key != "npy")
RECORDS = st.dictionaries(
    KEYS,
    st.recursive(
        NUMBERS | st.text(max_size=5) | ARRAYS,
        lambda part: st.lists(part, max_size=3) | st.dictionaries(KEYS, part),
        max_leaves=10,
    ),
)


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype  # and byte order
        assert_array_equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        assert_same(list(one.values()), list(other.values()))
    elif isinstance(one, list):
        assert len(one) == len(other)
        for items in zip(one, other, strict=True):
            assert_same(*items)
    else:
        assert one == other or (math.isnan(one) and math.isnan(other))


@pytest.mark.slow
@given(RECORDS)
def test_a_record_comes_back_as_it_was(record):
    text, arrays = encode(record)
    assert_same(decode(text, arrays), record)


@pytest.mark.slow
@given(record=RECORDS)
def test_a_file_comes_back_as_it_was(record, tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "record.npz"
    record |= {"model": 1}
    write_record(path, record)
    assert_same(read_record(path), {"format": 3, **record})


def test_numbers_that_json_lacks():
    values = [math.inf, -math.inf, math.nan, 2**53 + 1, -(10**40), 5e-324, -0.0, 1, 1.0]
    values += [True, None]
    text, _ = encode({"values": values})
    assert_same(decode(text, {})["values"], values)
    assert math.copysign(1, decode(text, {})["values"][6]) == -1


def test_scalars_of_numpy_and_tuples_become_pythons():
    record = {"a": np.float32(0.1), "b": np.bool_(True), "c": (np.int64(3), 4)}
    expected = {"a": float(np.float32(0.1)), "b": True, "c": [3, 4]}
    assert_same(decode(*encode(record)), expected)


@pytest.mark.parametrize(
    "value", [{1: 2}, {None: 2}, {"npy": 3}, {1, 2}, b"bytes", object(), 1j, len]
)
def test_other_things_are_named(path, value):
    with pytest.raises(TypeError, match=r"a/0=.*cannot be written"):
        write_record(path, {"a": [value]})
    assert not path.exists()


def test_no_objects_in_arrays(path):
    with pytest.raises(ValueError, match="allow_pickle=False"):
        write_record(path, {"a": np.array([{}], dtype=object)})
    assert not path.exists()


def test_two_places_in_a_file_are_two_arrays():
    text, arrays = encode({"a": np.ones(2)})
    with pytest.raises(KeyError):
        decode(text.replace("{", '{"b": {"npy": "a"}, ', 1), arrays)


def test_files_of_one_record_are_equal(tmp_path):
    record = {"b": np.arange(3), "a": {"c": 1.5}}
    for name in ("one", "two"):
        write_record(tmp_path / name, record)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_numpy_reads_the_files(drawings, path):
    stopped_after(1, drawings, path)
    fitted = make(checkpoint=path).fit(drawings)
    other = path.with_name("model.npz")
    fitted.save(other)
    for file in (path, other):
        with np.load(file, allow_pickle=False) as members:
            record = json.loads(members["record.json"])
            prefix = "model/network/"
            weights = {
                name.removeprefix(prefix): torch.from_numpy(members[name])
                for name in members.files
                if name.startswith(prefix)
            }
        assert record["format"] == 3
        network = Network()
        network.load_state_dict(weights)
        assert torch.equal(network[1].weight, fitted.model_.network_[1].weight)
    assert "optimizer" not in record["model"]
    with zipfile.ZipFile(other) as archive:
        assert {info.compress_type for info in archive.filelist} == {0}


DTYPES_OF_TORCH = [
    *(torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float16, torch.float64),
    *(torch.complex64, torch.int8, torch.int64, torch.bool, torch.uint16),
]


class WithBuffer(nn.Sequential):
    def __init__(self, buffer):
        super().__init__(nn.Flatten(), nn.Linear(64, 8))
        self.register_buffer("scale", buffer)


@pytest.mark.parametrize("dtype", DTYPES_OF_TORCH, ids=str)
@pytest.mark.parametrize("shape", [(), (3, 2)])
def test_tensors_of_all_dtypes(drawings, path, dtype, shape):
    torch.manual_seed(0)
    bits = torch.randint(2, (*shape, dtype.itemsize), dtype=torch.uint8)
    buffer = bits.view(dtype).reshape(shape)
    fitted = make(WithBuffer(buffer), max_iter=1).fit(drawings)
    fitted.save(path)
    loaded = make(WithBuffer(torch.zeros_like(buffer))).load(path)
    found = loaded.model_.network_.scale
    assert found.dtype == dtype
    assert found.shape == shape
    assert torch.equal(found.reshape(-1).view(torch.uint8), bits.reshape(-1))


def test_a_resumed_optimizer_has_the_layout_of_the_weights(drawings, path):
    def convolution():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3), nn.Flatten())

    expected = make(convolution()).fit(drawings)
    make(convolution(), checkpoint=path, max_iter=2).fit(drawings)
    resumed = make(convolution(), checkpoint=path).fit(drawings)
    for fit in (expected, resumed):
        for weight, held in fit.model_._optimizer.state.items():
            assert held["exp_avg"].stride() == weight.stride()
            assert held["exp_avg_sq"].stride() == weight.stride()


def test_a_state_is_a_copy(drawings):
    model = make(max_iter=1).fit(drawings).model_
    state = model.get_state()
    arrays, file = encode(state)[1], io.BytesIO()
    np.savez(file, **{name.replace("/", " "): array for name, array in arrays.items()})
    batch = model.validate_input(drawings)
    logits = model.decision_function(batch)

    def objective(logits):
        return logits[..., 0], np.ones_like(logits)

    for _ in range(2):
        model.set_state(state)
        assert_array_equal(model.decision_function(batch), logits)
        model.train_step(batch[:20], objective, progress=0)
        file.seek(0)
        for name, array in np.load(file).items():
            assert_array_equal(encode(state)[1][name.replace(" ", "/")], array)
        assert (model.decision_function(batch) != logits).any()


def test_equal_states_give_equal_fits(drawings, path):
    first = make(max_iter=2, checkpoint=path).fit(drawings)
    state = first.model_.get_state()
    again = make().load(path)
    again.model_.set_state(state)
    assert_same_fit(again, first)
