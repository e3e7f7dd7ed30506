"""What is told apart, and what is not, in networks and functions."""

import copy
import dataclasses
import enum
import functools
import os
import pickle
import re
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.transforms import v2

from skcce.deep import digits
from skcce.deep._description import describe


class Holder(nn.Module):
    def __init__(self, held=None):
        super().__init__()
        self.held = held


@dataclasses.dataclass
class Setting:
    value: int


def local_setting(value):
    return dataclasses.make_dataclass("Local", [("value", int)])(value)


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Plain:
    def __init__(self, held=None):
        self.held = held


def linear(**changes):
    torch.manual_seed(0)
    layer = nn.Linear(3, 2, bias=False)
    for name, value in changes.items():
        setattr(layer, name, value)
    return layer


def with_hook(hook):
    layer = linear()
    layer.register_forward_hook(hook)
    return layer


def scaled_by(factor):
    return lambda x: x * factor


def in_main(text, **names):
    """Define a function f in a notebook."""
    scope = {"__name__": "__main__", **names}
    exec(text, scope)
    return scope["f"]


def patched(function):
    layer = linear()
    layer.forward = types.MethodType(function, layer)
    return layer


def local_class(activation, scale=1):
    class Local(nn.Module):
        factor = scale

        def forward(self, batch):
            return activation(batch)

        @property
        def doubled(self):
            return 2 * self.factor

    return Local


def of_a_factory(function):
    class Local(torch.autograd.Function):
        forward = staticmethod(function)

    return Local.apply


def with_attributes(thing, **attributes):
    vars(thing).update(attributes)
    return thing


def shared(depth):
    """A chain of functions of a notebook, each of which calls the last one twice."""
    function = in_main("def f(x): return x")
    for _ in range(depth):
        function = in_main("def f(x): return g(x) + g(h(x))", g=function, h=function)
    return function


def itself():
    holder = Holder([1])
    holder.held.append(holder)
    return holder


def cut(layer):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Tanh())
    return create_feature_extractor(network, {layer: "features"})


# Each row holds things that differ from one another.
DIFFERENT = {
    "plain": lambda: [0, False, 0.0, "0", b"0", None, 0j, (0,), [0], {0}, {0: 0}],
    "nesting": lambda: [[[1], 2], [[1, 2]], [[1], [2]], [1, 2], [1, [2]]],
    "tensors": lambda: [
        torch.zeros(2),
        torch.ones(2),
        torch.zeros(2, 1),
        torch.zeros(2, dtype=torch.float64),
        torch.tensor(0.0),
        torch.zeros(2).to_sparse(),
        torch.eye(2).to_sparse(),
        with_attributes(torch.zeros(2), tag=1),
        with_attributes(torch.zeros(2), tag=2),
    ],
    "arrays": lambda: [
        np.zeros(2),
        np.ones(2),
        np.zeros((2, 1)),
        np.ma.array([0.0, 0.0], mask=[0, 1]),
        np.ma.array([0.0, 0.0], mask=[1, 0]),
        np.zeros(2, np.float32),
        np.array([None, 1]),
        np.array([None, 2]),
    ],
    "lists of tensors": lambda: [[torch.zeros(2)], [torch.ones(2)]],
    "attributes": lambda: [
        Holder(held)
        for held in (
            *(torch.zeros(2), torch.ones(2), [torch.ones(2)], {"a": np.ones(2)}),
            *({"a": np.zeros(2)}, torch.relu, torch.tanh, nn.functional.relu),
            *(nn.ReLU(), nn.Tanh(), [nn.ReLU()], [nn.Tanh()], Plain(1), Plain(2)),
            *(torch.float32, torch.float64, Plain, Holder, np.random.default_rng(0)),
            np.random.default_rng(1),
            *(re.compile("a"), re.compile("b"), np.sin, np.cos),
            *(Setting(1), Setting(2), Color.RED, Color.BLUE),
            *(with_attributes(Plain(), a=1), with_attributes(Plain(), b=1)),
        )
    ],
    "attributes of a torch's name": lambda: [
        *(linear(meta=1), linear(meta=2), linear(hooks=[]), linear(hooks={1: 2})),
        *(linear(hooks={2: 2}), linear(use_hooks=True)),
    ],
    "classes": lambda: [
        *(local_class(torch.relu), local_class(torch.tanh), local_class(torch.relu, 2)),
        *(local_class(torch.relu)(), local_class(torch.tanh)()),
        *(local_setting(1), local_setting(2)),
        *(in_main("class f: x = 1"), in_main("class f: x = 2")),
        in_main("class f:\n def g(self): return 1"),
        in_main("class f:\n def g(self): return 2"),
    ],
    "methods": lambda: [
        *(patched(lambda self, x: x), patched(lambda self, x: -x)),
        *(of_a_factory(lambda ctx, x: x), of_a_factory(lambda ctx, x: -x)),
        *(functools.lru_cache(scaled_by(1)), functools.lru_cache(scaled_by(2))),
    ],
    "layers": lambda: [
        *(nn.Dropout(0.1), nn.Dropout(0.9), nn.ReLU(), nn.Tanh()),
        *(nn.Sequential(nn.ReLU(), nn.Tanh()), nn.Sequential(nn.Tanh(), nn.ReLU())),
        *(nn.LazyLinear(2), nn.LazyLinear(3)),
    ],
    "weights": lambda: [
        linear(),
        nn.Linear(3, 2, bias=False),
        linear(weight=nn.Parameter(torch.zeros(2, 3))),
        *(linear(extra=1), linear(other=1)),
        linear().double(),
    ],
    "hooks": lambda: [linear(), with_hook(pickle.dumps), with_hook(pickle.loads)],
    "graphs": lambda: [cut("0"), cut("1"), cut("2")],
    "functions": lambda: [
        *(torch.relu, torch.tanh, nn.functional.relu, digits),
        *(lambda x: x, lambda x: x + 1, lambda x: x + 2, lambda x, y=1: x),
        *(lambda x, y=2: x, scaled_by(1), scaled_by(2)),
        *(lambda x, y: x, lambda x, *y: x, lambda x, **y: x),
        *(with_attributes(scaled_by(1), flag=i) for i in range(2)),
        functools.partial(nn.functional.pad, pad=(1, 1)),
        functools.partial(nn.functional.pad, pad=(2, 1)),
        *("a".join, "b".join, Plain(1).__init__, Plain(2).__init__),
    ],
    "functions of a notebook": lambda: [
        in_main("def f(x): return x"),
        in_main("def f(x): return -x"),
        in_main("def f(x): return x * scale", scale=1),
        in_main("def f(x): return x * scale", scale=2),
        in_main("class f: a = 1"),
        in_main("class f: b = 1"),
        in_main("def f(x): return [i * scale for i in x]", scale=1),
        in_main("def f(x): return [i * scale for i in x]", scale=2),
    ],
    "transforms": lambda: [
        v2.RandomErasing(0.2),
        v2.RandomErasing(0.3),
        v2.Compose([v2.RandomCrop(8), v2.RandomErasing(0.3)]),
        v2.Compose([v2.RandomErasing(0.3), v2.RandomCrop(8)]),
        v2.Lambda(lambda x: x),
        v2.Lambda(lambda x: -x),
    ],
}


@pytest.mark.parametrize("row", DIFFERENT)
def test_what_differs_is_told_apart(row):
    values = DIFFERENT[row]()
    assert len({describe(value) for value in values}) == len(values)


@pytest.mark.parametrize("row", DIFFERENT)
def test_what_is_made_again_is_the_same(row):
    values, again = DIFFERENT[row](), DIFFERENT[row]()
    if row == "weights":
        values[1] = again[1] = None  # of random weights
    assert [*map(describe, values)] == [*map(describe, again)]


@pytest.mark.parametrize("row", DIFFERENT)
def test_a_copy_is_the_same(row):
    for value in DIFFERENT[row]():
        assert describe(copy.deepcopy(value)) == describe(value)


def test_a_view_of_a_dict_is_its_items():
    one, other = (types.MappingProxyType({"a": i}) for i in range(2))
    assert describe(one) == describe(types.MappingProxyType({"a": 0}))
    assert describe(one) != describe(other)


def test_the_order_of_sets_and_attributes_does_not_matter():
    one, other = linear(a=1, b=2), linear(b=2, a=1)
    assert describe(one) == describe(other)
    assert describe({1, "a", (2,)}) == describe({(2,), "a", 1})


def test_mode_freezing_and_hooks_of_the_past_do_not_matter():
    expected = describe(linear())
    assert describe(linear().eval()) == expected
    assert describe(linear().requires_grad_(False)) == expected
    assert describe(torch.ones(6)[::2]) == describe(torch.ones(3))
    layer = linear()
    layer.register_forward_hook(print).remove()
    assert describe(layer) == expected


def test_a_global_counts_that_is_used_and_not_an_attribute_of_its_name():
    text = "def f(x): return x.mean()"
    assert describe(in_main(text, mean=1)) == describe(in_main(text, mean=2))
    assert describe(in_main(text)) == describe(in_main(text, mean=threading.Lock()))


def test_what_is_used_and_after_it_is_the_same():
    for layer in (nn.LSTM(3, 2), nn.MultiheadAttention(2, 1), nn.BatchNorm1d(3).eval()):
        before = describe(layer)
        assert describe(copy.deepcopy(layer)) == before
        assert describe(pickle.loads(pickle.dumps(layer))) == before
        if not isinstance(layer, nn.MultiheadAttention):
            layer(torch.zeros(2, 3))
        assert describe(layer) == before
    assert describe(torch.compile(linear(), backend="eager")) == describe(
        torch.compile(linear(), backend="eager")
    )


def test_what_is_shared_is_looked_at_once():
    """Or this would take longer than the world exists."""
    assert describe(shared(100)) == describe(shared(100)) != describe(shared(99))


def test_what_holds_itself():
    assert describe(itself()) == describe(itself())
    endless = []
    for _ in range(5000):
        endless = [endless]
    with pytest.raises(TypeError, match="nested too deeply"):
        describe(endless)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Holder({"a": [(i for i in ())]}), r"held\.a\.0, a builtins\.generator"),
        (Holder(threading.Lock()), "held, a _thread.lock"),
        (torch.zeros(2, device="meta"), "torch.Tensor: .*meta"),
        (in_main("def f(): return lock", lock=threading.Lock()), "lock"),
    ],
)
def test_what_cannot_be_described_is_named(value, named):
    with pytest.raises(TypeError, match=named):
        describe(value)


def describe_all():
    rows = DIFFERENT.keys() - {"weights"}  # random ones
    return {row: [*map(describe, DIFFERENT[row]())] for row in sorted(rows)}


@pytest.mark.slow
def test_another_process_sees_the_same():
    folder = str(Path(__file__).parent)
    script = (
        f"import sys; sys.path.insert(0, {folder!r}); import test_deep_description; "
        "print(test_deep_description.describe_all())"
    )
    process = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONHASHSEED": "17"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.strip() == str(describe_all())
