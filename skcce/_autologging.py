"""Fits that are part of another one, and not to be logged on their own."""

import sys
from contextlib import AbstractContextManager, nullcontext


def inner_fits() -> AbstractContextManager:
    """Keep mlflow's autologging from recording the fits inside as runs of their own.

    It leaves out what an outer fit calls, but only knows scikit-learn's own classes.
    """
    # What mlflow itself opens around a fit, since 2020. The name is private, but its
    # disable_autologging does not nest: at its end, logging is on even where the user
    # had turned it off.
    session = getattr(
        sys.modules.get("mlflow.sklearn"), "_SklearnTrainingSession", None
    )
    try:
        return nullcontext() if session is None else session(None, False)
    except TypeError:  # it takes other arguments by now
        return nullcontext()
