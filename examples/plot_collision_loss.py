"""
Two cross-entropies of a soft label
===================================

Shannon's cross-entropy is least where the prediction is as undecided as the label;
collision cross-entropy, where it names the label's first class for sure. And the less
a label is decided, the less it trains: one of equal shares does not train at all. This
is Figure 1 of the `paper <https://arxiv.org/abs/2303.07321>`_.
"""  # noqa: D205, D400

# %%
# Two classes; the label is fixed, and the prediction goes from one to the other. Solid
# lines are collision cross-entropy, -ln(σ·y), dashed ones are Shannon's, -Σ y ln σ. For
# a label that is one-hot, the two are the same.

import matplotlib.pyplot as plt
import numpy as np

from skcce.losses import (
    collision_cross_entropy_with_logits,
    shannon_cross_entropy_with_logits,
)

logit = np.linspace(-7, 7, 999)  # of the first class; the other one has 0
logits = np.stack([logit, np.zeros_like(logit)], axis=1)
x = 1 / (1 + np.exp(-logit))
losses = {
    "-": collision_cross_entropy_with_logits,
    "--": shannon_cross_entropy_with_logits,
}

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for share, color in {0.95: "red", 0.75: "green", 0.5: "blue"}.items():
    labels = np.full_like(logits, (share, 1 - share))
    for style, loss_and_gradient in losses.items():
        loss, gradient = loss_and_gradient(logits, labels)
        for ax, values in zip(axes, (loss, -gradient[:, 0]), strict=True):
            (line,) = ax.plot(x, values, style, color=color, lw=1.5)
        if style == "-":
            line.set_label(f"y = ({share:g}, {1 - share:.2g})")
axes[0].set(ylim=(0, 4), ylabel="loss, nats")
axes[1].axhline(0, color="gray", lw=0.5)
axes[1].set(ylabel="pull on the logit of the first class")
axes[1].legend(title="solid: collision\ndashed: Shannon")
for ax in axes:
    ax.set(xlabel="prediction σ = (x, 1 - x)")
