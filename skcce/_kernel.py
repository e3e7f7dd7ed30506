"""How the compiled functions of the solvers are compiled."""

from collections.abc import Callable

from numba import njit


def kernel(function: Callable) -> Callable:
    """Compile `function`, and cache the result where a cache can be written.

    Kernels take float32 or float64 arrays. EM computes rows in this type and adds them
    up in float64; the others compute in float64. Division by zero gives inf, not an
    exception. Sums may be reordered, so that they use the vector units: twice as fast;
    inf and nan keep their IEEE meaning. A loop that both stores and adds may add in
    another order when its arrays lie elsewhere in memory: use two loops. A kernel calls
    kernels of its own file only, as the cache does not notice an edit in another file.
    """
    options = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "contract"},
    }
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        # Neither the package nor the user's home is writable: compile in every process.
        return njit(**options)(function)
