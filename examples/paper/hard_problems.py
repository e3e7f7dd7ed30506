"""Random hard problems: whether the exact solver solves them, and its gaps are true.

    OMP_NUM_THREADS=1 python examples/paper/hard_problems.py

Ties, exact zeros, duplicated rows, priors with zeros, logits of any scale, lam from
1e-6 to 1e6; both divergences. Of every result that says "converged", the duality gap is
computed again from its prices, with numpy alone. A larger gap is a silent miss.
"""

import argparse
import time

import numpy as np
from scipy.special import logsumexp, rel_entr, softmax

from skcce import solve_pseudo_labels
from skcce._pseudo_labels.objective import check_prior, pose
from skcce._pseudo_labels.working_set import interior_point

TOL = 1e-6


def hard_problem(seed):
    """Return proba, lam and prior."""
    rng = np.random.default_rng(seed)
    n, n_clusters = rng.integers(1, 301), rng.integers(2, 51)
    scale = 10 ** rng.uniform(-1, 2)
    proba = softmax(scale * rng.standard_normal((n, n_clusters)), axis=1)
    if rng.random() < 0.3:  # duplicated rows
        proba = proba[rng.integers(0, max(n // 10, 1), n)]
    if rng.random() < 0.3:  # exact zeros
        zero = (rng.random(proba.shape) < 0.5) & (proba < proba.max(1, keepdims=True))
        proba = np.where(zero, 0, proba)
        proba /= proba.sum(axis=1, keepdims=True)
    prior = rng.dirichlet(np.full(n_clusters, rng.choice([0.1, 1.0, 10.0])))
    if rng.random() < 0.3:
        prior[rng.random(n_clusters) < 0.3] = 0
    prior = prior if prior.sum() > 0 else np.ones(n_clusters)
    return proba, 10 ** rng.uniform(-6, 6), check_prior(prior, n_clusters)


def recompute(proba, labels, price, lam, prior, forward):
    """Return the loss of labels, and the duality gap as the difference loss - D(price).

    The best response is min over z > 0 of max_k (price_k + proba_k z) - 1 - ln z: the
    function is convex, and for any z an upper bound. Bisection of ln z finds its least.
    """
    usage, wanted = labels.mean(axis=0), prior > 0
    divergence = rel_entr(usage, prior) if forward else rel_entr(prior, usage)
    loss = -np.log((proba * labels).sum(axis=1)).mean() + lam * divergence.sum()
    if forward:
        proba, price, prior = proba[:, wanted], price[wanted], prior[wanted]
        dual = -lam * logsumexp(-price / lam, b=prior)
    else:
        # A price near -lam has lost its digits; it is not below lam * prior - lam.
        ratio = np.maximum(1 + price / lam, prior)
        dual = lam * prior[wanted] @ np.log(ratio[wanted])
    rows = np.arange(len(proba))
    low = -np.log(proba.max(axis=1))
    high = np.maximum(low, 700.0)  # in float64, the least slope is about exp(-700)
    for _ in range(80):
        middle = (low + high) / 2
        slope = proba[rows, (price + proba * np.exp(middle)[:, None]).argmax(axis=1)]
        rising = slope * np.exp(middle) > 1
        low, high = np.where(rising, low, middle), np.where(rising, middle, high)
    top = (price + proba * np.exp(high)[:, None]).max(axis=1)
    return loss, loss - dual + (top - 1 - high).mean()


def is_miss(result, proba, lam, prior, forward):
    """Tell whether a result that says "converged" is wrong."""
    labels = result.pseudo_labels
    price = interior_point(pose(proba, lam, prior, forward), 1000, TOL)[1]
    loss, gap = recompute(proba, labels, price, lam, prior, forward)
    scale = max(1.0, result.loss)
    rounding = 1e-13 * max(scale, lam, np.abs(price[prior > 0]).max())
    return (
        labels.min() < 0
        or abs(labels.sum(axis=1) - 1).max() > 1e-9
        or abs(loss - result.loss) > 1e-9 * scale + rounding
        or not gap <= TOL * scale + rounding
    )


def solve_many(n_problems, divergence, first_seed):
    """Solve; print how it went, and the seeds of what went wrong."""
    forward = divergence == "forward"
    gaps, misses, seconds = {}, [], 0.0
    for seed in range(first_seed, first_seed + n_problems):
        proba, lam, prior = hard_problem(seed)
        if forward and not proba[:, prior > 0].max(axis=1).all():
            continue  # the forward divergence forbids all that a sample can have
        start = time.perf_counter()
        result = solve_pseudo_labels(
            proba, lam=lam, prior=prior, divergence=divergence, tol=TOL
        )
        seconds += time.perf_counter() - start
        gaps[seed] = result.gap / max(1.0, result.loss)
        if result.converged and is_miss(result, proba, lam, prior, forward):
            misses.append(seed)
    failed = {seed: gap for seed, gap in gaps.items() if not gap <= TOL}
    worst = max((gap for gap in gaps.values() if gap <= TOL), default=0)
    print(f"{divergence}: {len(gaps)} problems in {seconds:.1f} s; ", end="")
    print(
        f"{len(gaps) - len(failed)} converged, to relative gaps <= {worst:.1e}; ",
        end="",
    )
    print(
        f"{len(failed)} say that they did not; {len(misses)} silent misses", flush=True
    )
    for seed, gap in failed.items():
        print(f"   seed {seed}: not converged, relative gap {gap:.1e}")
    for seed in misses:
        print(f"   seed {seed}: silent miss")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first problem")
    args = parser.parse_args()
    for divergence in ("reverse", "forward"):
        solve_many(args.problems, divergence, args.seed)


if __name__ == "__main__":
    main()
