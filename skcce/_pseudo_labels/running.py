"""How much of the data each cluster has, where they are seen part by part.

The pseudo-labels of a sample depend on the others through the usages alone: the mean
label before each iteration of EM. Those of a batch are as noisy as the batch is small.
Running ones are those of the latest samples, so that it does not matter how these are
cut into batches.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skcce._pseudo_labels.em import em_at_usages, prepare_em
from skcce._pseudo_labels.objective import pose, positive_rows, sum_labels


class RunningUsage(NamedTuple):
    """Usages of the latest samples.

    mean : (n_iter + 1, n_clusters), the mean label before each iteration of EM, that of
        the predictions first, and after the last one.
    memory : number of samples after which what was known counts 1 / e.
    """

    mean: NDArray
    memory: float


def usage_of(
    proba: NDArray,
    lam: float,
    prior: NDArray,
    n_iter: int,
    memory: float,
    weight: NDArray | None = None,
) -> RunningUsage:
    """Return the usages of samples that are all known, to begin with."""
    problem = pose(proba, lam, prior, weight=weight)
    labels = positive_rows(proba)
    run = prepare_em(problem, labels)
    sums = [sum_labels(labels, problem.weight)]
    for _ in range(n_iter):
        run(1)
        sums.append(sum_labels(labels, problem.weight))
    return RunningUsage(np.array(sums) / problem.total_weight, memory)


def updated(usage: RunningUsage, sums: NDArray, total: float) -> RunningUsage:
    """Return the usages with those of more samples.

    sums : (n_iter + 1, n_clusters), sums of weight * label, as `labels_at` returns them
    total : sum of the samples' weights, of mean 1
    """
    if total == 0:
        return usage
    share = -np.expm1(-total / usage.memory)
    return usage._replace(mean=usage.mean + share * (sums / total - usage.mean))


def labels_at(
    usage: RunningUsage,
    proba: NDArray,
    lam: float,
    prior: NDArray,
    weight: NDArray | None = None,
) -> tuple[NDArray, NDArray]:
    """Return pseudo-labels for the running usages, and what `updated` adds to them."""
    return em_at_usages(proba, lam, prior, usage.mean[:-1], weight)
