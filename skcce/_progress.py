"""What a training shows while it runs."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

if TYPE_CHECKING:
    from tqdm import tqdm


def progress_bar(verbose: int, n_samples: int, max_iter: int, n_done: int) -> "tqdm":
    """Return a bar over all samples of all epochs; none is shown if not `verbose`."""
    from tqdm.auto import tqdm

    return tqdm(
        total=n_samples * max_iter,
        initial=n_samples * n_done,
        unit=" samples",
        unit_scale=True,
        disable=not verbose,
        dynamic_ncols=True,
    )


def show_epoch(
    bar: "tqdm", verbose: int, epoch: int, loss: float, changed: float, shares: NDArray
) -> None:
    """Put the figures of a finished epoch on the bar, and if wanted on a line."""
    n_used, balance = np.count_nonzero(shares), balance_of(shares)
    bar.set_postfix_str(
        f"loss {loss:.4f}, {n_used} of {len(shares)} clusters, balance {balance:.2f}"
    )
    if verbose > 1:
        bar.write(
            f"epoch {epoch:3d}: loss {loss:.4f}, {100 * changed:.2f} % of the samples "
            f"changed cluster, {n_used} of {len(shares)} clusters used, balance "
            f"{balance:.3f}"
        )


def balance_of(shares: NDArray) -> float:
    """Return the entropy of cluster shares relative to that of equal ones, 0 to 1."""
    if len(shares) == 1:
        return 1.0
    return float(entr(shares).sum() / np.log(len(shares)))
