"""CollisionClassifier: a few labels, soft and noisy ones."""

import pytest
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skcce import CollisionClassifier

EXPECTED = {
    "check_classifiers_classes": "-1 is no label, as in sklearn.semi_supervised",
}


@parametrize_with_checks(
    [CollisionClassifier()], expected_failed_checks=lambda estimator: EXPECTED
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore")
def test_classes_check_of_scikit_learns_own_semi_supervised_classifiers():
    # They are excepted from labels of -1, by name.
    estimator_checks.check_classifiers_classes("LabelSpreading", CollisionClassifier())
