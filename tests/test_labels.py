"""Reading given labels."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skcce._labels import read_labels

NUMBERS = [1, 0, 2, -1, 0, -1]
NAMES = np.array(["a", "b", "c"], dtype=object)
MISSING = [number < 0 for number in NUMBERS]


def named(missing):
    return [missing if number < 0 else NAMES[number] for number in NUMBERS]


def numbered(missing):
    return [missing if number < 0 else number for number in NUMBERS]


def read(y, **settings):
    return read_labels(y, len(y), **settings)


OF_NUMBERS = {
    "list": NUMBERS,
    "list with None": numbered(None),
    "list with NaN": numbered(np.nan),
    "int8": np.array(NUMBERS, dtype=np.int8),
    "float32": np.array(NUMBERS, dtype=np.float32),
    "NaN": np.array(numbered(np.nan)),
    "NaN and -1": np.array([1, 0, 2, np.nan, 0, -1]),
    "objects": np.array(numbered(None), dtype=object),
    "objects, -1": np.array(NUMBERS, dtype=object),
    "objects of NumPy": np.array([np.int64(k) for k in NUMBERS], dtype=object),
    "Int64": pd.Series(numbered(None), dtype="Int64"),
    "Int64 without a gap": pd.Series(NUMBERS, dtype="Int64"),
    "Float64": pd.array(numbered(None), dtype="Float64"),
    "Categorical": pd.Categorical(numbered(np.nan)),
    "read-only": np.array(NUMBERS),
    "strided": np.repeat(NUMBERS, 2)[::2],
}
OF_NUMBERS["read-only"].flags.writeable = False
OF_NAMES = {
    "list, -1": named(-1),
    "list, '-1'": named("-1"),
    "list with None": named(None),
    "list with NaN": named(np.nan),
    "array": np.array(named("-1")),
    "np.where": np.where(MISSING, "-1", np.array(named("x"))),
    "objects": np.array(named(None), dtype=object),
    "objects with NaN": np.array(named(np.nan), dtype=object),
    "objects, -1": np.array(named(-1), dtype=object),
    "objects, '-1'": np.array(named("-1"), dtype=object),
    "str_": np.array([np.str_(name) for name in named("-1")], dtype=object),
    "string": pd.Series(named(None), dtype="string"),
    "pandas.NA": pd.Series(named(pd.NA), dtype=object),
    "category": pd.Series(named(None), dtype="category"),
}
if hasattr(np.dtypes, "StringDType"):  # NumPy 2
    OF_NAMES["StringDType"] = np.array(named("-1"), dtype=np.dtypes.StringDType())


@pytest.mark.parametrize("kind", OF_NUMBERS)
def test_numbers_of_any_kind_are_the_same_labels(kind):
    classes, target = read(OF_NUMBERS[kind])
    assert_array_equal(classes, [0, 1, 2])
    assert classes.dtype.kind in "if"
    assert_array_equal(target, read(NUMBERS)[1])
    assert_array_equal(np.isnan(target).all(axis=1), MISSING)
    assert_array_equal(target[~np.array(MISSING)].argmax(axis=1), [1, 0, 2, 0])


@pytest.mark.parametrize("kind", OF_NAMES)
def test_names_of_any_kind_are_the_same_labels(kind):
    classes, target = read(OF_NAMES[kind])
    assert_array_equal(classes, NAMES)
    assert_array_equal(target, read(NUMBERS)[1])


@pytest.mark.parametrize(
    "y",
    [
        np.array([True, False]),
        np.array([True, False, None]),
        pd.array([True, False, None], dtype="boolean"),
    ],
)
def test_booleans(y):
    classes, target = read(y)
    assert classes.dtype == bool
    assert_array_equal(classes, [False, True])
    assert_array_equal(target[:2], [[0, 1], [1, 0]])
    assert np.isnan(target[2:]).all()


def test_one_label_a_class_is_no_regression():
    classes, target = read(np.r_[np.arange(50), -np.ones(9, dtype=int)])
    assert_array_equal(target[:50], np.eye(50))
    assert len(classes) == 50


@pytest.mark.parametrize(
    ("y", "names"),
    [
        ([3, 7], [3, 7, 8, 9]),
        ([-3, -2], [-3, -2, 0, 1]),
        ([0.0, np.nan, 1.0], [0, 1, 2, 3]),
        (np.array([0, 255], dtype=np.uint8), [0, 255, 256, 257]),
        (np.array([0, 127], dtype=np.int8), [0, 127, 128, 129]),
        ([True, False], [0, 1, 2, 3]),
        (["b", "a"], ["a", "b", "extra_0", "extra_1"]),
        (["b", "extra_0"], ["b", "extra_0", "extra_1", "extra_2"]),
        (["extra_1", "extra_3"], ["extra_1", "extra_3", "extra_0", "extra_2"]),
        (np.array(["b", None]), ["b", "extra_0", "extra_1"]),
        ([[0.5, 0.5], [1, 0]], [0, 1, 2, 3]),
    ],
)
def test_names_of_extra_classes(y, names):
    classes, target = read(y, n_extra=2)
    assert_array_equal(classes, names)
    assert target.shape == (len(y), len(names))
    known = ~np.isnan(target[:, 0])
    assert_array_equal(target[known, -2:], 0)
    assert_array_equal(np.isnan(target[~known]), True)
    assert_array_equal(target[:, :-2], read(y, n_extra=1)[1][:, :-1])


def test_soft_labels():
    y = np.array([[0.2, 0.3, 0.5], [np.nan] * 3, [1, 0, 0]])
    classes, target = read(y)
    assert_array_equal(classes, [0, 1, 2])
    assert_allclose(target, y, rtol=1e-15)
    for other in (y.tolist(), pd.DataFrame(y), y.astype(object), np.asfortranarray(y)):
        assert_array_equal(read(other)[1], target)
    assert_allclose(read(y * 1.0005)[1], target, rtol=1e-12)


@pytest.mark.parametrize("dtype", [int, bool, np.float32])
def test_a_one_hot_matrix_is_hard_labels(dtype):
    y = np.array([2, 0, 1, 1])
    assert_array_equal(read(np.eye(3, dtype=dtype)[y])[1], read(y)[1])


def test_a_share_of_random_labels():
    y = np.array([2, 0, -1, 1])
    hard, soft = read(y)[1], read(y, transition=0.3)[1]
    assert_allclose(soft, 0.7 * hard + 0.3 / 3, rtol=1e-15)
    assert_array_equal(read(y, transition=0)[1], hard)
    matrix = 0.7 * np.eye(3) + 0.3 / 3
    assert_allclose(read(y, transition=matrix)[1], soft, rtol=1e-14)


def test_a_transition_says_what_a_label_means(rng):
    transition = rng.dirichlet(np.ones(3), size=3).T
    _, target = read(np.array([2, 0, -1, 1]), transition=transition)
    for row, label in ((0, 2), (1, 0), (3, 1)):
        assert_allclose(target[row], transition[label] / transition[label].sum())


BAD_LABELS = [
    (None, "y to be passed, but the target y is None"),
    ([-1, -1], "y has no label: all are -1, NaN or None"),
    ([None, None], "y has no label"),
    ([np.nan, np.nan], "y has no label.*Input y contains NaN"),
    ([1, 1], "y has one class, 1; a classifier needs at least 2"),
    (["a", None], "y has one class, 'a'"),
    (["a", 1], "all numbers or all strings, got \\['int', 'str'\\]"),
    (np.array(["a", 1], dtype=object), "all numbers or all strings"),
    (np.array([b"a", b"b"]), "all numbers or all strings, got \\['bytes_'\\]"),
    (np.array(["2020", "2021"], dtype="M8[Y]"), "all numbers or all strings"),
    ([0.25, 1.0], "continuous. y has 0.25, .*soft labels are a matrix"),
    ([0, np.inf], "y contains infinity"),
    (np.zeros((2, 2, 2)), "dim 3"),
    ([[1, 1, 0], [0, 1, 1]], "matrix y holds soft labels.*row 0 sums to 2"),
    ([[1, 0], [0.5, 0.4]], "sum to 1, row 1 sums to 0.9"),
    ([[1, 0], [1.5, -0.5]], "negative, row 1 has -0.5 for class 1"),
    ([[1, 0], [-1, -1]], "negative, row 1 .*A row of NaN is one without a label"),
    ([[np.nan, 1], [1, 0]], "Row 0 of y has some NaN"),
    ([[np.nan, np.nan]] * 2, "y has no label: all rows are NaN"),
    ([[1, 0], [np.inf, 0]], "y contains infinity"),
    ([[1, 0, 0], [0.5, 0.5, 0]], "Class 2 has no row: column 2"),
    ([["a", "b"], ["a", "b"]], "Soft labels in y must be numbers"),
]


@pytest.mark.parametrize(("y", "message"), BAD_LABELS)
def test_bad_labels(y, message):
    with pytest.raises(ValueError, match=message):
        read_labels(y, 2)


def test_number_of_labels():
    with pytest.raises(ValueError, match="one label per sample: 3 samples, got 2"):
        read_labels([0, 1], 3)


@pytest.mark.parametrize(
    ("transition", "message"),
    [
        (1, "transition=1 must be a share of random labels in \\[0, 1\\)"),
        (-0.1, "transition=-0.1 must be a share"),
        (np.nan, "transition=nan must be a share"),
        (np.eye(2), "must have shape \\(3, 3\\), as y has 3 classes, got .*\\(2, 2\\)"),
        (np.ones(3) / 3, "must have shape \\(3, 3\\)"),
        (np.eye(3) + 0.1, "Every column of transition must sum to 1, column 0 sums"),
        (np.diag([1, 1, 2]) - np.eye(3)[2], "transition must not be negative, got -1"),
        (np.eye(3) * np.nan, "transition contains NaN"),
        ([[np.inf, 0, 0], [0, 1, 0], [0, 0, 1]], "transition contains infinity"),
        ([[1, 1, 0], [0, 0, 1], [0, 0, 0]], "label 2, which transition never lets"),
    ],
)
def test_bad_transitions(transition, message):
    with pytest.raises(ValueError, match=message):
        read([0, 1, 2], transition=transition)


def test_a_transition_is_of_hard_labels():
    with pytest.raises(ValueError, match="transition needs hard labels"):
        read([[1, 0], [0, 1]], transition=0.1)
