"""Estimators of one objective each."""

from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sklearn.utils._param_validation import StrOptions

from skcce._base import SoftmaxClusterer
from skcce._model import SoftmaxModel
from skcce._objective import Objective
from skcce._settings import auto_value

_PRIOR = [StrOptions({"auto", "learn"}), "array-like", None]


class ObjectiveClusterer(SoftmaxClusterer):
    """A SoftmaxClusterer whose objective is known, so that its parameters are its own.

    ``class SomeClusterer(ObjectiveClusterer, objective=Some)`` is the estimator of
    ``Some``. Its ``__init__`` takes the number of clusters, the parameters of ``Some``,
    and those that all estimators share; scikit-learn reads them from its signature. The
    default of a parameter that `auto` has a row for is "auto".
    """

    _objective: ClassVar[type[Objective]]

    if TYPE_CHECKING:  # which sees no __init__ that is made for an objective

        def __init__(
            self,
            n_clusters: int | Literal["auto"] | tuple[int, int] = 8,
            **parameters: Any,
        ): ...

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
        own = signature(objective).parameters
        if "prior" in own:
            cls._parameter_constraints["prior"] = _PRIOR
        for name in cls.auto.keys() & own:
            cls._parameter_constraints[name] = [
                *objective._parameter_constraints[name],
                StrOptions({"auto"}),
            ]

    def _new_objective(self, model: SoftmaxModel) -> Objective:
        names = signature(self._objective).parameters
        own = {name: getattr(self, name) for name in names}
        if isinstance(own.get("prior"), str):
            own["prior"] = None  # that of the tree
        auto = {name: auto_value(self, name, model) for name in self.auto.keys() & own}
        return self._objective(**own | auto)


def _init(cls: type, objective: type[Objective]) -> Any:
    """Return an `__init__` that stores its arguments, as scikit-learn wants it."""
    itself, number, *shared = signature(SoftmaxClusterer.__init__).parameters.values()
    own = [
        p.replace(default="auto", annotation=p.annotation | Literal["auto"])
        if p.name in cls.auto
        else p
        for p in signature(objective).parameters.values()
    ]
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
