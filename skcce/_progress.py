"""What is shown of work while it runs."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

if TYPE_CHECKING:
    from tqdm import tqdm


def progress_bar(verbose: int, **options: Any) -> "tqdm":
    """Return a bar, which is not shown if not `verbose`."""
    if verbose:
        from tqdm.auto import tqdm
    else:
        # In a notebook, the other one warns of what a hidden bar does not need.
        from tqdm import tqdm
    return tqdm(disable=not verbose, dynamic_ncols=True, **options)


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
