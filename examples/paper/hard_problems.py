"""Random hard problems: whether the exact solver solves them, and its gaps are true.

    OMP_NUM_THREADS=1 python examples/paper/hard_problems.py

Skewed predictions, fewer samples than clusters, ties, exact zeros, duplicated rows,
priors with zeros, weights with zeros and huge ratios, known labels, logits of any
scale, lam from 1e-6 to 1e6; both divergences. Of every result that says "converged",
the duality gap is computed again from its prices, with numpy alone. A larger gap is a
silent miss.
"""

import argparse
import time

import numpy as np
from scipy.special import logsumexp, rel_entr, softmax

from skcce import solve_pseudo_labels
from skcce._pseudo_labels.objective import check_prior, pose
from skcce._pseudo_labels.solve import interior_point, lift_rows
from skcce._weights import check_weights

TOL = 1e-6


def hard_problem(seed):
    """Return proba, lam, prior, weight and fixed (NaN in the rows to be solved for)."""
    rng = np.random.default_rng(seed)
    n_clusters = rng.integers(2, 51)
    n = rng.integers(1, n_clusters if rng.random() < 0.3 else 301)
    logits = 10 ** rng.uniform(-1, 2) * rng.standard_normal((n, n_clusters))
    if rng.random() < 1 / 3:  # skewed
        logits += rng.uniform(0, 5) * rng.standard_normal(n_clusters)
    proba = softmax(logits, axis=1)
    if rng.random() < 0.3:  # duplicated rows
        proba = proba[rng.integers(0, max(n // 10, 1), n)]
    if rng.random() < 0.3:  # exact zeros
        zero = (rng.random(proba.shape) < 0.5) & (proba < proba.max(1, keepdims=True))
        proba = np.where(zero, 0, proba)
        proba /= proba.sum(axis=1, keepdims=True)
    prior = rng.dirichlet(np.full(n_clusters, rng.choice([0.1, 1.0, 10.0])))
    if rng.random() < 0.3:
        prior[rng.random(n_clusters) < 0.3] = 0
    prior = check_prior(prior if prior.sum() > 0 else None, n_clusters)
    weight, fixed = np.ones(n), np.full((n, n_clusters), np.nan)
    if rng.random() < 0.3:
        weight = 10 ** rng.uniform(0, rng.choice([1, 12]), n)
        weight[rng.random(n) < rng.choice([0, 0.3])] = 0
        weight[rng.integers(n)] = 1
    if rng.random() < 0.2:  # known labels: one-hot, or nearly
        known = rng.exponential(size=(n, n_clusters)) ** 8
        if rng.random() < 0.7:  # possible in the forward divergence, too
            known[:, prior == 0] = 0
        if rng.random() < 0.5:
            known = (known == known.max(axis=1, keepdims=True)).astype(float)
        held = rng.random(n) < rng.random()
        fixed[held] = (known / known.sum(axis=1, keepdims=True))[held]
    return proba, 10 ** rng.uniform(-6, 6), prior, weight, fixed


def forbids_all(proba, prior, fixed):
    """Tell whether the forward divergence, which forbids clusters, has no solution."""
    held = np.isfinite(fixed[:, 0])
    possible = proba[:, prior > 0].max(axis=1) > 0
    return not possible[~held].all() or fixed[held][:, prior == 0].any()


def recompute(proba, labels, price, lam, prior, weight, fixed, forward):
    """Return the loss of labels, and the duality gap as the difference loss - D(price).

    The best response is min over z > 0 of max_k (price_k + proba_k z) - 1 - ln z: the
    function is convex, and for any z an upper bound. Bisection of ln z finds its least.
    A known label is its own best response, so that its loss is on both sides, and is
    left out of the gap.
    """
    weight = weight / weight.sum()
    free, wanted = np.isnan(fixed[:, 0]), prior > 0
    usage = weight @ labels
    divergence = rel_entr(usage, prior) if forward else rel_entr(prior, usage)
    with np.errstate(divide="ignore"):  # a known label may be impossible
        losses = -np.log((proba * labels).sum(axis=1))
    losses[weight == 0] = 0
    fairness = lam * divergence.sum()
    loss = weight @ losses + fairness
    if not weight[free].any():
        return loss, 0.0  # no label makes a difference
    known = weight[~free] @ labels[~free]
    proba, losses, weight = proba[free], losses[free], weight[free]
    if forward:
        proba, price, prior, known = (
            a[..., wanted] for a in (proba, price, prior, known)
        )
        dual = -lam * logsumexp(-price / lam, b=prior)
    else:
        # A price near -lam has lost its digits; it is not below lam * prior - lam.
        ratio = np.maximum(1 + price / lam, prior)
        dual = lam * prior[wanted] @ np.log(ratio[wanted])
    dual -= price @ known
    rows = np.arange(len(proba))
    low = -np.log(proba.max(axis=1))
    high = np.maximum(low, 700.0)  # in float64, the least slope is about exp(-700)
    for _ in range(80):
        middle = (low + high) / 2
        slope = proba[rows, (price + proba * np.exp(middle)[:, None]).argmax(axis=1)]
        rising = slope * np.exp(middle) > 1
        low, high = np.where(rising, low, middle), np.where(rising, middle, high)
    top = (price + proba * np.exp(high)[:, None]).max(axis=1)
    return loss, fairness - dual + weight @ (losses + top - 1 - high)


def scale_of(loss):
    """Return what a gap is compared with: max(1, loss), or 1 if the loss is inf."""
    return max(1.0, loss) if np.isfinite(loss) else 1.0


def is_miss(result, proba, lam, prior, weight, fixed, forward):
    """Tell whether a result that says "converged" is wrong."""
    labels = result.pseudo_labels
    problem = pose(proba, lam, prior, forward, check_weights(weight, len(proba)), fixed)
    price = interior_point(lift_rows(problem, fixed), 1000, TOL)[1]
    loss, gap = recompute(proba, labels, price, lam, prior, weight, fixed, forward)
    held = np.isfinite(fixed[:, 0])
    scale = scale_of(loss)
    rounding = 1e-13 * max(scale, lam, np.abs(price[prior > 0]).max())
    return (
        labels.min() < 0
        or abs(labels.sum(axis=1) - 1).max() > 1e-9
        or abs(labels - fixed)[held].max(initial=0) > 1e-9
        or not np.isclose(loss, result.loss, rtol=0, atol=1e-9 * scale + rounding)
        or not gap <= TOL * scale + rounding
    )


def solve_many(n_problems, divergence, first_seed, max_seconds):
    """Solve; print how it went, and the seeds of what went wrong."""
    forward = divergence == "forward"
    gaps, misses, times = {}, [], []
    for seed in range(first_seed, first_seed + n_problems):
        if sum(times) > max_seconds:
            break
        proba, lam, prior, weight, fixed = hard_problem(seed)
        if forward and forbids_all(proba, prior, fixed):
            continue
        start = time.perf_counter()
        result = solve_pseudo_labels(
            proba,
            lam=lam,
            prior=prior,
            divergence=divergence,
            tol=TOL,
            sample_weight=weight,
            fixed=fixed,
        )
        times.append(time.perf_counter() - start)
        gaps[seed] = result.gap / scale_of(result.loss)
        problem = proba, lam, prior, weight, fixed, forward
        if result.converged and is_miss(result, *problem):
            misses.append(seed)
    failed = {seed: gap for seed, gap in gaps.items() if not gap <= TOL}
    worst = max((gap for gap in gaps.values() if gap <= TOL), default=0)
    total, (median, late) = sum(times), np.quantile(times, [0.5, 0.99])
    print(f"{divergence}: {len(gaps)} problems in {total:.1f} s; ", end="")
    print(f"median {1e3 * median:.2f} ms, 99 % within {1e3 * late:.1f} ms; ", end="")
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
    parser.add_argument(
        "--max-seconds", type=float, default=np.inf, help="of solving, per divergence"
    )
    args = parser.parse_args()
    for divergence in ("reverse", "forward"):
        solve_many(args.problems, divergence, args.seed, args.max_seconds)


if __name__ == "__main__":
    main()
