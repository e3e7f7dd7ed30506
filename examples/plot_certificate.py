"""
How far from the optimum?
=========================

``solve_pseudo_labels`` says how far its result is from the optimum at most: the duality
gap, which it computes without knowing the optimum. The gap of EM, the paper's solver,
falls about as one over the square of the iterations, unless it is accelerated; the
exact solver is at a gap of 1e-10 before that of plain EM is at 0.01.

An iteration of the exact solver takes longer than one of EM, see :doc:`/experiments`
for times. And clusters do not need this accuracy: a fit uses ten iterations of EM.
"""  # noqa: D205, D400

# %%
# The predictions here are the softmax of random logits, for 1,000 samples and 10
# clusters. With ``tol=0`` EM does not stop before ``max_iter``.

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import softmax

from skcce import solve_pseudo_labels

logits = 3 * np.random.default_rng(0).standard_normal((1000, 10))
proba = softmax(logits, axis=1)

n_iter = np.unique(np.geomspace(1, 3000, 25).astype(int))
plain = {"lam": 4, "solver": "em", "accelerate": False}
em = [solve_pseudo_labels(proba, max_iter=n, tol=0, **plain) for n in n_iter]
exact = [solve_pseudo_labels(proba, lam=4, tol=tol) for tol in np.geomspace(1, 1e-12)]
optimum = exact[-1].loss

for name, results in [("EM", em), ("exact", exact)]:
    for goal in [1e-2, 1e-4, 1e-6, 1e-10]:
        first = next((r.n_iter for r in results if r.gap <= goal), None)
        print(f"{name:5}: gap {goal:g} after {first or 'more than 3000'} iterations")

# %%
# The optimum is known here, because the exact solver went to a gap of 1e-12. So the
# true distance can be drawn as well, below the gap that bounds it.

figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
ax.loglog(n_iter, [r.gap for r in em], "o-", markersize=4, label="EM: duality gap")
ax.loglog(n_iter, [r.loss - optimum for r in em], ":", label="EM: true distance")
ax.loglog(
    [r.n_iter for r in exact if r.n_iter],
    [r.gap for r in exact if r.n_iter],
    "s-",
    color="tab:red",
    markersize=5,
    label="exact: duality gap",
)
ax.set(xlabel="Iterations", ylabel="Above the optimum, in nats", ylim=(1e-13, 1))
ax.grid(alpha=0.3)
legend = ax.legend()
