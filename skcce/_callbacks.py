"""scikit-learn's callbacks, from version 1.9 on; nothing happens before."""

from collections.abc import Callable, Mapping
from typing import Any

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks

    N_WRAPPERS = 1  # functions that with_callbacks puts around a method
except ImportError:  # scikit-learn < 1.9
    N_WRAPPERS = 0

    class CallbackSupportMixin:
        """No callbacks."""

    def with_callbacks(method: Callable) -> Callable:
        """Return `method`."""
        return method


__all__ = ["N_WRAPPERS", "CallbackSupportMixin", "EpochCallbacks", "with_callbacks"]


class EpochCallbacks:
    """Calls the callbacks of an estimator around its fit and around every epoch."""

    def __init__(self, estimator: Any, X: Any, y: Any, max_iter: int):
        self._context = None
        self._of_fit = {"estimator": estimator, "X": X, "y": y}
        if hasattr(estimator, "_init_callback_context"):
            self._context = estimator._init_callback_context(max_subtasks=max_iter)
            self._context.call_on_fit_task_begin(**self._of_fit)

    def begin_epoch(self) -> None:
        if self._context is not None:
            self._epoch = self._context.subcontext(task_name="epoch")
            self._epoch.call_on_fit_task_begin(**self._of_fit)

    def end_epoch(self, attributes: Callable[[], Mapping[str, Any]]) -> bool:
        """Return whether a callback asks to stop.

        `attributes` gives the attributes that make the estimator a fitted one.
        """
        if self._context is None:
            return False
        return self._epoch.call_on_fit_task_end(
            **self._of_fit, reconstruction_attributes=attributes
        )

    def end_fit(self) -> None:
        if self._context is not None:
            self._context.call_on_fit_task_end(
                **self._of_fit, reconstruction_attributes={}
            )
