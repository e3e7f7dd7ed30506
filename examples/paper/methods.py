"""The methods of the tables, and the hyper-parameters that are their own.

What the paper says is taken: lam 100 for its own method, and 1.3 for the weight of the
fairness term in eq. (1), MIGD's, which the arXiv version has. The NeurIPS version has
all but its own "separately tuned". Here those that are not given are tuned by one rule,
which never sees the data of the tables::

    OMP_NUM_THREADS=1 python examples/paper/reproduce.py tune

takes for each method the value of its small grid that has the best mean accuracy of
three seeds on the digits of scikit-learn. TUNED holds what it printed.
"""

from skcce import CollisionClusterer
from skcce.methods import (
    IICClusterer,
    IMSATClusterer,
    MIADMClusterer,
    MIGDClusterer,
    SCANClusterer,
    SeLaClusterer,
)

RIVALS = {
    "MIGD": MIGDClusterer,
    "SeLa": SeLaClusterer,
    "MIADM": MIADMClusterer,
    "IMSAT": IMSATClusterer,
    "IIC": IICClusterer,
    "SCAN": SCANClusterer,
}
LAM = 100.0  # of the paper's own method
FAIRNESS = 1.3  # of MIGD

# {model: {method: values}}; "linear" is Table 2, "deep" are the networks.
GRIDS = {
    "linear": {
        "SeLa": [
            {"epsilon": epsilon, "queue_size": size}
            for epsilon in (0.05, 0.5)
            for size in (None, 1000)
        ],
        "MIADM": [{"lam": lam} for lam in (0.5, 1.0, 2.0, 5.0, 10.0)],
    },
    "deep": {
        "SeLa": [{"epsilon": value} for value in (0.05, 0.1, 0.2)],
        "MIADM": [{"lam": lam} for lam in (1.0, 2.0, 5.0, 10.0)],
        "IMSAT": [
            {"lam": lam, "mu": mu} for lam in (0.1, 1.0) for mu in (FAIRNESS, 4.0)
        ],
        "IIC": [{"gamma": gamma} for gamma in (1.0, 1.5, 2.0)],
        "SCAN": [{"entropy_weight": value} for value in (2.0, 5.0, 10.0)],
    },
}
TUNED = {
    "linear": {
        "SeLa": {"epsilon": 0.05, "queue_size": 1000},
        "MIADM": {"lam": 10.0},
    },
    "deep": {},  # the defaults of the library, which this made for networks
}


def make_estimator(method, n_clusters, **settings):
    """Return the estimator of a method: "Our", a rival, or "(a)" or "(b)" of Table 6.

    The latter are ours with the forward and with the reverse divergence.
    """
    if method in RIVALS:
        return RIVALS[method](n_clusters, **settings)
    if method == "(a)":
        settings["divergence"] = "forward"
    return CollisionClusterer(n_clusters, **settings)


def own_parameters(method, kind, lam, view_weight=None):
    """Return the parameters of a method that others do not have.

    Parameters
    ----------
    method : str
        Row of a table.
    kind : {"linear", "deep"}
        What it trains.
    lam : float
        Weight of the fairness term of the paper's own method.
    view_weight : float, default=None
        Weight of the augmented view, for methods that have one.
    """
    if method == "MIGD":
        own = {"lam": FAIRNESS}
    elif method in RIVALS:
        own = TUNED[kind].get(method, {})
    else:
        own = {"lam": lam}
    if view_weight is not None and method not in ("IMSAT", "IIC", "SCAN"):
        own = own | {"view_weight": view_weight}
    return own
