"""MLflow itself: what it records of a fit, and what it keeps of an estimator.

It is in no extra, as it brings some 40 packages: ``pip install mlflow-skinny sqlalchemy
alembic`` for these tests.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import skops.io
from numpy.testing import assert_array_equal
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skcce import CollisionClassifier, CollisionClusterer, SpectralFeatures
from skcce.model_selection import rows_to_label

mlflow = pytest.importorskip("mlflow", minversion="3")
pytest.importorskip("mlflow.sklearn")
pytest.importorskip("sqlalchemy")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # those of MLflow itself
]
EXPORT = Path(__file__).parent.parent / "docs" / "export.rst"


@pytest.fixture(scope="module")
def autolog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'runs.db'}")
        mlflow.sklearn.autolog(log_models=False, log_datasets=False, silent=True)
        yield
        mlflow.sklearn.autolog(disable=True, silent=True)


@pytest.fixture
def recorded(autolog, request):
    """Return a function that lists the runs of the test."""
    experiment = mlflow.set_experiment(request.node.name)
    ids = [experiment.experiment_id]
    return lambda: mlflow.search_runs(ids, output_format="list")


@pytest.fixture(scope="module")
def data():
    X, y = make_blobs(300, centers=4, n_features=5, random_state=0)
    return X, y, np.where(np.arange(len(y)) % 10, -1, y)


def clusterer():
    return CollisionClusterer(4, n_init=1, random_state=0)


def test_fits_alone_leave_no_run(recorded, data):
    X, _, few = data
    fitted = clusterer().fit(X)
    fitted.predict(X)
    fitted.extend(X[:50])
    rows_to_label(fitted, X, 10)
    clusterer().fit_predict(X)
    clusterer().partial_fit(X[:150]).partial_fit(X[150:])
    CollisionClassifier(n_init=1, random_state=0).fit(X, few).predict(X)
    SpectralFeatures().fit(X).transform(X)
    assert recorded() == []


@pytest.mark.parametrize(
    "last", [clusterer(), CollisionClassifier(n_init=1, random_state=0)]
)
def test_a_pipeline_is_one_run(recorded, data, last):
    X, _, few = data
    pipeline = make_pipeline(StandardScaler(), last).fit(X, few)
    (run,) = recorded()
    for name in ("random_state", "max_iter", "lam"):
        recorded_value = run.data.params[f"{pipeline.steps[-1][0]}__{name}"]
        assert recorded_value == str(last.get_params()[name])


def test_a_search_is_one_run_and_one_for_each_candidate(recorded, data):
    X, y, _ = data
    search = GridSearchCV(clusterer(), {"lam": [0.1, 1]}, scoring="adjusted_rand_score")
    search.set_params(cv=2).fit(X, y)
    runs = recorded()
    assert len(runs) == 3
    (parent,) = [run for run in runs if "best_cv_score" in run.data.metrics]
    assert parent.data.metrics["best_cv_score"] == pytest.approx(search.best_score_)


@pytest.mark.parametrize("serialization_format", ["cloudpickle", "skops"])
def test_what_is_logged_predicts_the_same(recorded, data, serialization_format):
    X = data[0]
    fitted = clusterer().fit(X)
    how = {"serialization_format": serialization_format}
    if serialization_format == "skops":
        if not hasattr(mlflow.sklearn, "SERIALIZATION_FORMAT_SKOPS"):
            pytest.skip("this MLflow has no format of skops")
        file = skops.io.dumps(fitted)
        how["skops_trusted_types"] = skops.io.get_untrusted_types(data=file)
    with mlflow.start_run():
        uri = mlflow.sklearn.log_model(fitted, name="clusterer", **how).model_uri
    loaded = mlflow.sklearn.load_model(uri)
    assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    assert_array_equal(mlflow.pyfunc.load_model(uri).predict(X), fitted.predict(X))
    how["pyfunc_predict_fn"] = "predict_proba"
    with mlflow.start_run():
        uri = mlflow.sklearn.log_model(fitted, name="clusterer", **how).model_uri
    served = mlflow.pyfunc.load_model(uri).predict(X)
    assert_array_equal(served, fitted.predict_proba(X))


def test_recipe_of_the_docs(recorded, data):
    block = re.search(r":name: mlflow\n\n((?: {4}.*\n|\n)+)", EXPORT.read_text())[1]
    fitted = clusterer().fit(data[0])
    names = {"clusterer": fitted, "X": data[0]}
    exec(compile(re.sub("^    ", "", block, flags=re.MULTILINE), EXPORT, "exec"), names)
    (run,) = recorded()
    assert run.data.params["n_clusters"] == "4"
    assert run.data.metrics["loss"] == pytest.approx(fitted.loss_curve_[-1])
    assert_array_equal(names["loaded"].predict(data[0]), fitted.predict(data[0]))
