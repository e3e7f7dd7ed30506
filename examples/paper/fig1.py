"""Figure 1 of the paper: the two cross-entropies of a prediction and a soft label.

    python examples/paper/reproduce.py fig1 --picture fig1.png

Of two classes; solid is collision cross-entropy, eq. (9), dashed is Shannon's, eq. (8).
"""

from pathlib import Path

import numpy as np

from skcce import collision_cross_entropy
from skcce.losses import shannon_cross_entropy

LABELS = {0.95: "red", 0.75: "green", 0.5: "blue"}  # probability of the first class


def add_arguments(add):
    """Add the arguments of the command line."""
    add("--picture", type=Path, default=Path("fig1.png"), help="file to draw")


def main(args):
    """Draw."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    x = np.linspace(0.001, 0.999, 999)
    proba = np.stack([x, 1 - x], axis=1)
    figure, ax = plt.subplots(figsize=(6, 4.2), layout="constrained")
    for share, color in LABELS.items():
        labels = np.full_like(proba, (share, 1 - share))
        text = f"y = ({share:g}, {1 - share:.2g})"
        ax.plot(x, collision_cross_entropy(proba, labels), color=color, label=text)
        ax.plot(x, shannon_cross_entropy(proba, labels), "--", color=color, lw=0.8)
    ax.set(xlabel="prediction (x, 1 - x)", ylabel="cross-entropy, nats", ylim=(0, 4))
    ax.legend(title="solid: collision, dashed: Shannon")
    figure.savefig(args.picture, dpi=130)
    print(f"The picture is in {args.picture}")
