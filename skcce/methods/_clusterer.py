"""Estimators of one objective each."""

from inspect import Parameter, Signature, signature
from typing import Any, ClassVar

from sklearn.utils._param_validation import StrOptions

from skcce._base import SoftmaxClusterer
from skcce._model import SoftmaxModel
from skcce._objective import Objective

_PRIOR = [StrOptions({"auto", "learn"}), "array-like", None]


class ObjectiveClusterer(SoftmaxClusterer):
    """A SoftmaxClusterer whose objective is known, so that its parameters are its own.

    ``class SomeClusterer(ObjectiveClusterer, objective=Some)`` is the estimator of
    ``Some``. Its ``__init__`` takes the number of clusters, the parameters of ``Some``,
    and those that all estimators share; scikit-learn reads them from its signature.
    """

    _objective: ClassVar[type[Objective]]

    def __init_subclass__(
        cls, *, objective: type[Objective] | None = None, **kwargs: Any
    ):
        super().__init_subclass__(**kwargs)
        if objective is None:  # that of the class above
            return
        cls._objective = objective
        cls.__init__ = _init(cls, objective)
        cls._parameter_constraints = {
            **SoftmaxClusterer._parameter_constraints,
            **objective._parameter_constraints,
        }
        del cls._parameter_constraints["objective"]
        if "prior" in signature(objective).parameters:
            cls._parameter_constraints["prior"] = _PRIOR

    def _new_objective(self, model: SoftmaxModel) -> Objective:
        own = {
            name: getattr(self, name) for name in signature(self._objective).parameters
        }
        if isinstance(own.get("prior"), str):
            own["prior"] = None  # that of the tree
        return self._objective(**own)


def _init(cls: type, objective: type[Objective]) -> Any:
    """Return an `__init__` that stores its arguments, as scikit-learn wants it."""
    itself, number, *shared = signature(SoftmaxClusterer.__init__).parameters.values()
    own = signature(objective).parameters.values()
    known = Signature(
        [itself, number, *own, *(p for p in shared if p.name != "objective")]
    )

    def __init__(self, *args: Any, **kwargs: Any):  # noqa: N807
        try:
            arguments = known.bind(self, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{__init__.__qualname__}() {error}") from None
        arguments.apply_defaults()
        for name in list(known.parameters)[1:]:
            setattr(self, name, arguments.arguments[name])

    __init__.__module__ = cls.__module__
    __init__.__qualname__ = f"{cls.__qualname__}.__init__"
    __init__.__signature__ = known
    __init__.__annotations__ = {
        p.name: p.annotation
        for p in known.parameters.values()
        if p.annotation is not Parameter.empty
    }
    return __init__
