"""The estimators of one objective each."""

import inspect
import pickle
import pydoc
import re
from typing import Literal

import numpy as np
import pytest
import torch
from conftest import SPARSE_CHECKS, tiny_images
from numpy.testing import assert_allclose, assert_array_equal
from persistence import SHORT_FITS, assert_same_fit, interrupt, linear_steps
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from skcce import CollisionClusterer, LinearSoftmax
from skcce._data import TrainingData
from skcce._settings import resolve
from skcce.deep import DeepSoftmax
from skcce.methods import (
    FairCrossEntropy,
    IICClusterer,
    IMSATClusterer,
    InvariantInformation,
    MIADMClusterer,
    MIGDClusterer,
    MutualInformation,
    NeighborConsistency,
    OptimalTransport,
    SCANClusterer,
    SeLaClusterer,
    SelfAugmentation,
    SoftmaxClusterer,
)
from skcce.metrics import clustering_accuracy

try:
    from sklearn.callback import FitCallback
except ImportError:  # scikit-learn < 1.9
    FitCallback = None

SHARES = [1, 2, 1, 1]
# The objective of each, and values of its parameters that are not the defaults.
OF = {
    MIGDClusterer: (
        MutualInformation,
        {"lam": 2.0, "prior": SHARES, "view_weight": 0.5},
    ),
    SeLaClusterer: (
        OptimalTransport,
        {"epsilon": 0.1, "prior": SHARES, "queue_size": 20, "view_weight": 0.5},
    ),
    MIADMClusterer: (
        FairCrossEntropy,
        {"lam": 2.0, "penalty": 0.5, "prior": SHARES, "view_weight": 0.5},
    ),
    IMSATClusterer: (
        SelfAugmentation,
        {"lam": 0.2, "mu": 3.0, "prior": SHARES, "view_distance": 0.1},
    ),
    IICClusterer: (InvariantInformation, {"gamma": 2.0}),
    SCANClusterer: (
        NeighborConsistency,
        {"entropy_weight": 2.0, "self_label": 0.5, "threshold": 0.9},
    ),
}
WITH_PRIOR = [MIGDClusterer, SeLaClusterer, MIADMClusterer, IMSATClusterer]
WITH_VIEWS = [IMSATClusterer, IICClusterer, SCANClusterer]

every_one = pytest.mark.parametrize("kind", OF, ids=lambda kind: kind.__name__)
pytestmark = SHORT_FITS


def make(kind, **parameters):
    return kind(4, random_state=0, **parameters)


def short(kind, **parameters):
    """Return an estimator of a few epochs of 3 steps each."""
    settings = {"n_init": 1, "max_iter": 5, "tol": 0, "batch_size": 100}
    return make(kind, **settings | parameters)


# --- scikit-learn's checks ---------------------------------------------------


def light(kind):
    if kind in WITH_VIEWS:
        return kind(n_init=1, max_iter=3)
    return kind(init="random", n_init=1, max_iter=2)


def why_it_must_fail(estimator):
    if type(estimator) not in WITH_VIEWS:
        return SPARSE_CHECKS
    return SPARSE_CHECKS | {
        f"check_sample_weight_equivalence_on_{kind}_data": "a copy is a neighbor, too"
        for kind in ("dense", "sparse")
    }


@parametrize_with_checks(
    [light(IMSATClusterer)], expected_failed_checks=why_it_must_fail
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [light(kind) for kind in OF if kind is not IMSATClusterer],
    expected_failed_checks=why_it_must_fail,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learn_checks_of_the_others(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "check_param_validation",
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_global_output_transform_pandas",
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
        "check_get_feature_names_out_error",
        "check_dataframe_column_names_consistency",
        "check_inplace_ensure_writeable",
    ],
)
@every_one
@pytest.mark.filterwarnings("ignore")
def test_checks_that_scikit_learn_does_not_generate(kind, name):
    getattr(estimator_checks, name)(kind.__name__, light(kind))


# --- Parameters ---------------------------------------------------------------


@every_one
def test_parameters_are_those_of_the_objective_and_the_shared_ones(kind):
    objective, values = OF[kind]
    own = inspect.signature(objective).parameters
    assert set(own) == set(values)
    own = {
        name: p.replace(default="auto", annotation=p.annotation | Literal["auto"])
        if name in kind.auto
        else p
        for name, p in own.items()
    }
    number, *shared = inspect.signature(SoftmaxClusterer).parameters.values()
    shared = [parameter for parameter in shared if parameter.name != "objective"]
    expected = [number, *own.values(), *shared]
    assert list(inspect.signature(kind).parameters.values()) == expected
    assert kind().get_params() == {p.name: p.default for p in expected}
    of_collision = set(inspect.signature(CollisionClusterer).parameters)
    assert {p.name for p in shared} <= of_collision


@every_one
def test_init_looks_as_if_written_by_hand(kind):
    assert kind.__init__.__qualname__ == f"{kind.__name__}.__init__"
    assert kind.__init__.__module__ == kind.__module__
    names = set(inspect.signature(kind).parameters)
    assert set(inspect.get_annotations(kind.__init__)) == names
    first, *rest = inspect.getfullargspec(kind.__init__).args
    assert (first, rest) == ("self", ["n_clusters"])
    text = pydoc.render_doc(kind, renderer=pydoc.plaintext)
    assert f"class {kind.__name__}(" in text
    for name in OF[kind][1]:
        assert f"{name}: " in text


@every_one
def test_docstring_has_all_parameters(kind):
    text = inspect.getdoc(kind)
    section = text[text.index("\nParameters\n") : text.index("\nAttributes\n")]
    objective = inspect.getdoc(OF[kind][0])
    for name, parameter in inspect.signature(kind).parameters.items():
        if name not in OF[kind][1]:
            assert name in section
            continue
        (line,) = (x for x in section.splitlines() if x.startswith(f"{name} : "))
        default = eval(line.rpartition("default=")[2])
        assert default == parameter.default
        (line,) = (x for x in objective.splitlines() if x.startswith(f"{name} : "))
        default = inspect.signature(OF[kind][0]).parameters[name].default
        assert eval(line.rpartition("default=")[2]) == default


@every_one
def test_auto_values_are_valid_and_those_of_the_objective_without_a_network(kind):
    own = inspect.signature(OF[kind][0]).parameters
    for name in kind.auto.keys() & own:
        given, learned = kind.auto[name]
        assert given == own[name].default
        network = DeepSoftmax(torch.nn.Flatten, augment="digits")
        for value, model in ((given, LinearSoftmax()), (learned, network)):
            objective = kind()._new_objective(model)
            objective.check(3)
            assert getattr(objective, name) == value


@every_one
def test_parameters_are_set_cloned_pickled_and_shown(kind):
    values = OF[kind][1]
    clusterer = kind(4).set_params(**values)
    for same in (
        kind(4, **values),
        clone(clusterer),
        pickle.loads(pickle.dumps(clusterer)),
    ):
        assert type(same) is kind
        assert same.get_params() == clusterer.get_params()
        assert repr(same) == repr(clusterer)
    for name, value in values.items():
        assert getattr(clusterer, name) == value
        assert f"{name}={value!r}" in repr(clusterer)
        assert name in clusterer._repr_html_()
    assert repr(kind()) == f"{kind.__name__}()"


@every_one
def test_arguments_that_are_none(kind):
    with pytest.raises(TypeError, match=f"{kind.__name__}.*positional"):
        kind(4, 1.0)
    with pytest.raises(TypeError, match=f"{kind.__name__}.*'objective'"):
        kind(4, objective=OF[kind][0]())
    with pytest.raises(TypeError, match=f"{kind.__name__}.*'n_clusters'"):
        kind(4, n_clusters=4)
    with pytest.raises(ValueError, match="Invalid parameter 'alpha'"):
        kind().set_params(alpha=1.0)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (MIGDClusterer, "lam", -1.0),
        (MIGDClusterer, "lam", np.nan),
        (MIGDClusterer, "lam", (100.0, 1.0)),
        (MIGDClusterer, "view_weight", -1),
        (MIGDClusterer, "prior", "equal"),
        (MIGDClusterer, "prior", [1, 1, 1]),
        (MIGDClusterer, "prior", [1, 1, 1, -1]),
        (MIGDClusterer, "model", "linear"),
        (SeLaClusterer, "epsilon", 0),
        (SeLaClusterer, "epsilon", "small"),
        (SeLaClusterer, "queue_size", -1),
        (SeLaClusterer, "queue_size", 2.5),
        (SeLaClusterer, "view_weight", None),
        (SeLaClusterer, "prior", [0, 0, 0, 0]),
        (MIADMClusterer, "lam", 0),
        (MIADMClusterer, "penalty", 0),
        (MIADMClusterer, "view_weight", -1),
        (MIADMClusterer, "prior", [1, 1, np.nan, 1]),
        (IMSATClusterer, "lam", -0.1),
        (IMSATClusterer, "mu", -1),
        (IMSATClusterer, "view_distance", 0),
        (IMSATClusterer, "prior", 3),
        (IMSATClusterer, "n_neighbors", 0),
        (IICClusterer, "gamma", 0),
        (IICClusterer, "n_neighbors", 0),
        (IICClusterer, "n_neighbors", 300),
        (SCANClusterer, "entropy_weight", -1),
        (SCANClusterer, "self_label", 1.0),
        (SCANClusterer, "self_label", -0.1),
        (SCANClusterer, "threshold", 1.0),
        (SCANClusterer, "n_neighbors", 0),
        (SCANClusterer, "n_clusters", 0),
    ],
)
def test_bad_parameters_are_named(blobs, kind, name, value):
    with pytest.raises(ValueError, match=name):
        make(kind).set_params(**{name: value}).fit(blobs[0])


@pytest.mark.parametrize("kind", WITH_VIEWS)
def test_a_single_sample_has_no_view(kind):
    with pytest.raises(ValueError, match=r"\(n_samples=1\)\. Use more samples"):
        kind(1).fit([[1.0, 2.0]])


# --- Subclasses ----------------------------------------------------------------


class Plain(MIGDClusterer):
    """No parameter of its own."""


class OneParameter(SeLaClusterer):
    """Fewer parameters, and another default."""

    def __init__(self, n_clusters=8, *, epsilon=0.2, random_state=None):
        super().__init__(n_clusters, epsilon=epsilon, random_state=random_state)


class Other(IICClusterer, objective=MutualInformation):
    """Another objective."""


@pytest.mark.parametrize(
    ("kind", "parameters", "same"),
    [
        (Plain, {"lam": 3.0}, MIGDClusterer),
        (OneParameter, {"epsilon": 0.3}, SeLaClusterer),
        (Other, {"lam": 3.0}, MIGDClusterer),
    ],
)
def test_subclasses(blobs, kind, parameters, same):
    X, _ = blobs
    clusterer = clone(make(kind, **parameters)).fit(X)
    again = pickle.loads(pickle.dumps(clusterer))
    expected = make(same, **parameters).fit(X)
    assert_array_equal(again.predict_proba(X), expected.predict_proba(X))
    assert repr(clusterer).startswith(kind.__name__)
    (name,) = parameters
    with pytest.raises(ValueError, match=rf"'{name}' parameter of {kind.__name__}"):
        make(kind, **{name: -1.0}).fit(X)


# --- Fits -----------------------------------------------------------------------


@every_one
def test_is_the_softmax_clusterer_of_its_objective(blobs, kind):
    X, _ = blobs
    objective, values = OF[kind]
    special = short(kind, **values).fit(X)
    general = short(SoftmaxClusterer, objective=objective(**values)).fit(X)
    assert_same_fit(special, general)


@every_one
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_finds_clusters(blobs, kind, dtype):
    X, y = blobs
    clusterer = make(kind).fit(X.astype(dtype))
    assert adjusted_rand_score(y, clusterer.labels_) > 0.9
    assert clusterer.probabilities_.dtype == clusterer.coef_.dtype == dtype
    assert_array_equal(clusterer.predict(X.astype(dtype)), clusterer.labels_)
    assert clusterer.converged_
    assert_same_fit(clone(clusterer).fit(X.astype(dtype)), clusterer)


@every_one
def test_the_number_of_clusters_is_found(blobs, kind):
    X, y = blobs
    clusterer = kind("auto", random_state=0).fit(X)
    assert clusterer.n_clusters_ == 4
    assert adjusted_rand_score(y, clusterer.labels_) > 0.9
    assert clusterer.cut(3).predict_proba(X).shape == (300, 3)


@pytest.mark.parametrize("kind", WITH_PRIOR)
@pytest.mark.parametrize("number", [3, "auto"])
def test_shares_are_learned(kind, number):
    sizes = [150, 90, 60]
    X, y = make_blobs(sizes, n_features=5, center_box=(-30, 30), random_state=1)
    clusterer = kind(number, prior="learn", random_state=0).fit(X)
    assert adjusted_rand_score(y, clusterer.labels_) > 0.9
    assert_allclose(np.sort(clusterer.prior_), np.sort(sizes) / len(y), atol=0.05)


@every_one
@pytest.mark.parametrize("parameters", [{}, {"init": "random"}])
def test_samples_of_weight_zero_are_as_if_they_were_not_there(blobs, kind, parameters):
    X, _ = blobs
    weight = (np.random.RandomState(0).uniform(size=300) < 0.5).astype(float)
    few = weight > 0
    X[~few] *= 1e3
    weighted = short(kind, **parameters).fit(X, sample_weight=3 * weight)
    alone = short(kind, **parameters).fit(X[few])
    assert_array_equal(weighted.coef_, alone.coef_)
    assert weighted.loss_ == alone.loss_


@every_one
def test_weights_count(blobs, kind):
    X, _ = blobs
    weight = np.random.RandomState(0).uniform(0.5, 2, size=300)
    parameters = {"features": None, "init": "random", "batch_size": 300}
    weighted = short(kind, **parameters).fit(X, sample_weight=weight)
    scaled = short(kind, **parameters).fit(X, sample_weight=4 * weight)
    equal = short(kind, **parameters).fit(X)
    assert_allclose(weighted.coef_, scaled.coef_, rtol=1e-9)
    assert np.abs(weighted.coef_ - equal.coef_).max() > 1e-6


@pytest.mark.parametrize(
    ("kind", "parameters", "n_epochs"),
    [
        *(pytest.param(kind, {}, 1, id=kind.__name__) for kind in OF),
        pytest.param(SeLaClusterer, {"queue_size": 50}, 2, id="queue"),
        pytest.param(SCANClusterer, {}, 4, id="self-labeling"),
    ],
)
def test_a_checkpoint_goes_on_to_the_same_end(blobs, path, kind, parameters, n_epochs):
    X, _ = blobs
    expected = short(kind, **parameters).fit(X)
    clusterer = short(kind, checkpoint=path, **parameters)
    with (
        linear_steps(3 * n_epochs + 2, interrupt),
        pytest.warns(UserWarning, match=f"interrupted after {n_epochs} epochs"),
    ):
        clusterer.fit(X)
    assert_same_fit(clone(clusterer).fit(X), expected)
    with pytest.raises(ValueError, match="random_state: 0 there, 1 here"):
        clone(clusterer).set_params(random_state=1).fit(X)
    name, value = next(iter(OF[kind][1].items()))
    with pytest.raises(ValueError, match=f"{name}: "):
        clone(clusterer).set_params(**{name: value}).fit(X)


@every_one
def test_save_and_load(blobs, path, kind):
    X, _ = blobs
    clusterer = short(kind).fit(X)
    clusterer.save(path)
    assert_array_equal(
        make(kind).load(path).predict_proba(X), clusterer.predict_proba(X)
    )


@pytest.mark.skipif(FitCallback is None, reason="scikit-learn < 1.9 has no callbacks")
@every_one
def test_a_callback_sees_every_epoch_and_stops(blobs, kind):
    scores = []

    class Stop:
        def setup(self, estimator, context):
            pass

        teardown = on_fit_task_begin = setup

        def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
            if context.task_name == "epoch":
                assert type(fitted_estimator) is kind
                scores.append(fitted_estimator.score(X))
                return context.task_id == 2
            return None

    X, _ = blobs
    clusterer = short(kind).set_callbacks(Stop()).fit(X)
    assert clusterer.n_iter_ == len(scores) == 3
    assert clusterer.loss_curve_ == short(kind).fit(X).loss_curve_[:3]


@every_one
def test_grid_search_over_own_parameters(blobs, kind):
    X, y = blobs
    name, value = next(iter(OF[kind][1].items()))
    default = getattr(kind(), name)
    clusterer = short(kind, features=None, init="random")
    grid = {name: [default, value], "model": [None]}
    search = GridSearchCV(clusterer, grid, scoring=clustering_accuracy, cv=2)
    search.fit(X, y)
    assert search.best_score_ > 0.9
    assert type(search.best_estimator_) is kind


def test_file_of_another_method_is_refused(blobs, path):
    X, _ = blobs
    SeLaClusterer(4, checkpoint=path, random_state=0).fit(X)
    message = "was written by SeLaClusterer, this is a SCANClusterer"
    with pytest.raises(ValueError, match=message):
        SCANClusterer(4).load(path)
    with pytest.raises(ValueError, match=message):
        SCANClusterer(4, checkpoint=path, random_state=0).fit(X)


@every_one
def test_advice_names_parameters_that_there_are(kind):
    clusterer = kind(4)
    with pytest.warns(ConvergenceWarning, match="in use: 1 of 4") as caught:
        clusterer.fit(np.ones((50, 3)))
    text = " ".join(str(warning.message) for warning in caught)
    for name in ("lam", "mu", "gamma", "entropy_weight", "weight_decay"):
        advised = re.search(rf"\b{name}\b", text) is not None
        assert advised == (name in clusterer.get_params())


# --- Networks --------------------------------------------------------------------


def deep(network, **parameters):
    return DeepSoftmax(network, lr=3e-3, n_threads=1, **parameters)


@every_one
def test_a_network_of_rows(blobs, kind):
    """Who compares views finds neighbors, or makes adversarial rows."""
    X, y = blobs
    X = X.astype(np.float32)
    model = deep(lambda: nn.Linear(5, 16))
    settings = {"init": "k-means", "n_init": 1, "batch_size": 100}
    clusterer = make(kind, model=model, **settings).fit(X)
    assert adjusted_rand_score(y, clusterer.labels_) > 0.9
    again = clone(clusterer).fit(X)
    assert_array_equal(again.predict_proba(X), clusterer.predict_proba(X))


@pytest.mark.parametrize("kind", WITH_VIEWS)
def test_views_of_rows_come_from_as_many_neighbors_as_a_linear_model_has(blobs, kind):
    data = TrainingData(blobs[0], given=blobs[0])
    numbers = {
        resolve(kind(4), model, OF[kind][0](), data).n_neighbors
        for model in (LinearSoftmax(), deep(nn.Identity))
    }
    assert len(numbers) == 1
    assert numbers.pop() > 1


def image_network():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.ReLU())


@every_one
@pytest.mark.filterwarnings(
    "ignore:Clusters in use. . of 3:sklearn.exceptions.ConvergenceWarning"
)
def test_a_network_of_augmented_images(kind, path):
    images = tiny_images(60)
    model = deep(image_network, augment="digits", n_views=2)
    clusterer = kind(
        3, model=model, n_init=2, max_iter=3, tol=0, batch_size=20, random_state=0
    )
    expected = clone(clusterer).fit(images)
    assert expected.features_ is None
    assert np.isfinite(expected.loss_)
    assert_array_equal(expected.predict(images), expected.labels_)
    clusterer.set_params(checkpoint=path)
    assert_same_fit(clone(clusterer).fit(images), expected)
    assert_same_fit(clone(clusterer).fit(images), expected)


@pytest.mark.parametrize("kind", WITH_VIEWS)
def test_images_without_views_are_an_error(kind):
    clusterer = kind(3, model=deep(image_network))
    with pytest.raises(ValueError, match="a model that makes views, such as DeepSoftm"):
        clusterer.fit(tiny_images(60))


def test_images_need_no_gradient_where_a_network_augments(monkeypatch):
    def refuse(*args):
        raise AssertionError("adversarial images")

    monkeypatch.setattr(DeepSoftmax, "input_gradient", refuse)
    model = deep(image_network, augment=lambda batch: torch.roll(batch, 1, -1))
    clusterer = IMSATClusterer(2, model=model, n_init=1, max_iter=1, tol=1)
    clusterer.fit(tiny_images(30))
