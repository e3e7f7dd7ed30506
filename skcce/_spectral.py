"""Features that follow the shape of the data."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh
from scipy.sparse import csr_array, diags_array, issparse
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.preprocessing import normalize
from sklearn.utils import Tags, check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from skcce._autologging import inner_fits
from skcce._data import TrainingData
from skcce._linear import native
from skcce._nearest import cells_around
from skcce._neighbors import (
    N_STEPS,
    SHORTEST,
    Index,
    Neighbors,
    Projection,
    find_neighbors,
    neighbors_among,
    search,
)
from skcce._scaling import canonical, row_scale
from skcce._threads import single_blas_thread

__all__ = ["SpectralFeatures"]

# Relative errors of the eigenvalues. Clusters that lie apart have nearly equal ones: to
# tell these from one another exactly would take forever, and is of no use. Of hundreds
# of islands, such as UMAP makes, the first one is too much to ask for.
_TOLERANCES, _N_RESTARTS = (1e-8, 1e-3), 100
# Eigenvectors of so few samples are noise.
_SAMPLES_PER_COMPONENT = 3


class SpectralFeatures(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    r"""Rows, and beside them their place on the graph of nearest neighbors.

    With :math:`W` one step of a random walk from neighbor to neighbor, and
    :math:`\mu_c, \psi_c` its leading eigenvalues and eigenvectors, the diffusion
    coordinates of a sample are :math:`\mu_c^t \psi_c`, scaled to norm 1: two samples
    are near to each other if walks of :math:`t = 4` steps from both end at the same
    places [1]_. A boundary that is linear in them may have any shape in the given
    features. A new row takes the mean over its nearest neighbors among the training
    rows, and so does each training row, which is its own nearest neighbor.

    Parameters
    ----------
    n_components : int, default=20
        Number of eigenvectors beside the constant one; at most a third of the samples.
    n_neighbors : int, default=10
        Number of nearest neighbors.
    neighbors : {"exact", "approximate"}, sparse matrix or transformer, default="exact"
        How they are found: "exact" takes a time that grows with the square of the
        number of rows; "approximate" looks among the rows around the nearest centers of
        k-means. Or a graph of distances, shape (n_samples, n_samples), or a transformer
        that makes one, such as scikit-learn's ``KNeighborsTransformer``; new rows are
        then looked up exactly.
    random_state : int, RandomState instance or None, default=None
        Seed of the principal components of rows with more than 128 features, between
        which the distances are taken.

    Attributes
    ----------
    eigenvalues_ : ndarray of shape (n_components + 1,)
        Eigenvalues, from 1 down.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `X` has names that are all strings.

    See Also
    --------
    sklearn.manifold.SpectralEmbedding : The same eigenvectors, for one set of rows.

    Notes
    -----
    The transformer keeps the training rows, in at most 128 features each, to find the
    neighbors of new ones.

    References
    ----------
    .. [1] Coifman, Lafon. "Diffusion maps". Applied and Computational Harmonic Analysis
       21 (2006).

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from skcce import SpectralFeatures
    >>> X, _ = make_moons(200, noise=0.05, random_state=0)
    >>> SpectralFeatures(n_components=5, random_state=0).fit_transform(X).shape
    (200, 8)
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "neighbors": [
            StrOptions({"exact", "approximate"}),
            "sparse matrix",
            HasMethods("fit_transform"),
        ],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_components: int = 20,
        *,
        n_neighbors: int = 10,
        neighbors: Any = "exact",
        random_state: int | np.random.RandomState | None = None,
    ):
        self.n_components = n_components
        self.n_neighbors = n_neighbors
        self.neighbors = neighbors
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Find neighbors and eigenvectors.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data.
        y : Ignored
            Present for API consistency.

        Returns
        -------
        self : SpectralFeatures
            The fitted transformer.

        Raises
        ------
        ValueError
            If there are no more samples than `n_neighbors`.
        """
        self._validate_params()
        X = self._validate_rows(X, ensure_min_samples=2)
        if self.n_neighbors >= X.shape[0]:
            raise ValueError(
                f"n_neighbors={self.n_neighbors} must be smaller than "
                f"n_samples={X.shape[0]}."
            )
        random_state = check_random_state(self.random_state)
        with single_blas_thread():
            neighbors = find_neighbors(
                TrainingData(X, given=X),
                self.n_neighbors,
                random_state,
                how=self.neighbors,
            )
            self.fit_neighbors(neighbors)
        return self

    def fit_neighbors(self, neighbors: Neighbors) -> NDArray:
        """Fit to neighbors that are known, and return the features of these rows."""
        n_samples = len(neighbors.around)
        n_vectors = min(self.n_components + 1, n_samples // _SAMPLES_PER_COMPONENT)
        self.eigenvalues_, vectors = leading_eigenvectors(
            neighbors.walk, neighbors.strength, max(n_vectors, 1)
        )
        # The mean over the neighbors is the last of the steps.
        vectors = vectors * self.eigenvalues_ ** (N_STEPS - 1)
        self._projection, self._index = neighbors.projection, neighbors.index
        dtype = self._rows.dtype
        self._attraction = neighbors.attraction.astype(dtype)
        self._vectors = vectors.astype(dtype)
        self._n_features_out = self._rows.shape[1] + self._vectors.shape[1]
        self.n_features_in_ = len(neighbors.projection.mean)
        coordinates = self._directions(neighbors.around)
        self._center, self._unit = row_scale(coordinates)
        return np.hstack([self._rows, (coordinates - self._center) / self._unit])

    def neighbors_of(
        self, data: TrainingData, how: Any, verbose: int = 0
    ) -> tuple[Neighbors, NDArray]:
        """Return neighbors and features of the training data, found anew."""
        neighbors = find_neighbors(
            data, self._index.n_neighbors, None, self._projection, how, verbose
        )
        coordinates = self._directions(neighbors.around)
        features = (coordinates - self._center) / self._unit
        return neighbors, np.hstack([neighbors.index.rows, features])

    def transform(self, X: ArrayLike) -> NDArray:
        """Return the features of rows, of the training data or new.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data.

        Returns
        -------
        ndarray of shape (n_samples, n_rows + n_components + 1)
            The centered and scaled rows, or their 128 principal components, and the
            diffusion coordinates; both parts have mean square norm 1 on the training
            data, or nearly so. The dtype is that of `X`.
        """
        check_is_fitted(self, "eigenvalues_")
        X = self._validate_rows(X, reset=False)
        with single_blas_thread(), inner_fits():
            return self.transform_rows(X)

    def transform_rows(self, X: NDArray) -> NDArray:
        """Return the features of rows that were checked."""
        return self.look_up(X)[0]

    def look_up(self, X: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Return the features of rows that were checked, and what is near to them.

        The last two are distances and numbers of the nearest training rows but a row
        itself, as many as for the training rows; a row without any distance is itself.
        """
        rows = self._projection(X.astype(self._rows.dtype, copy=False))
        distances, around = search(self._index, rows)
        columns = (distances[:, :1] < SHORTEST) + np.arange(self._index.n_neighbors)
        return (
            self._features_of(rows, around).astype(X.dtype, copy=False),
            np.take_along_axis(distances, columns, axis=1),
            np.take_along_axis(around, columns, axis=1),
        )

    def training_features(self) -> NDArray:
        """Return the features of the training rows."""
        return self._features_of(self._rows, search(self._index, self._rows)[1])

    def joined_with(self, X: NDArray) -> tuple[Self, Neighbors, NDArray]:
        """Return features of the training rows and, behind them, new ones.

        A transformer that is fitted to all of them, their neighbors, and their
        features.
        """
        rows = self._projection(X.astype(self._rows.dtype, copy=False))
        rows = np.vstack([self._rows, rows])
        how = "exact" if self._index.cells is None else "approximate"
        n_neighbors = self._index.n_neighbors
        neighbors = neighbors_among(rows, n_neighbors, self._projection, how=how)
        joint = SpectralFeatures(
            max(1, len(self.eigenvalues_) - 1), n_neighbors=n_neighbors
        )
        return joint, neighbors, joint.fit_neighbors(neighbors)

    def get_state(self) -> dict[str, Any]:
        """Return what `fit` has found, as numbers and arrays."""
        mean, scale, components, columns, of_one_length = self._projection
        state = {
            "mean": mean,
            "scale": float(scale),
            "rows": self._rows,
            "attraction": self._attraction,
            "vectors": self._vectors,
            "eigenvalues": self.eigenvalues_,
            "center": self._center,
            "unit": float(self._unit),
            "n_neighbors": self._index.n_neighbors,
        }
        cells = None if self._index.cells is None else self._index.cells.centers
        parts = {"components": components, "columns": columns, "cells": cells}
        state |= {name: part for name, part in parts.items() if part is not None}
        return state | {"of_one_length": True} if of_one_length else state

    def set_state(self, state: Mapping[str, Any]) -> Self:
        """Go back to what `get_state` returned; raise ValueError if it is no state."""
        names = ("rows", "vectors", "mean", "attraction", "center")
        rows, vectors, mean, attraction, center = (native(state[n]) for n in names)
        eigenvalues, n_neighbors = native(state["eigenvalues"]), state["n_neighbors"]
        components = state.get("components")
        components = None if components is None else native(components)
        cells = state.get("cells")
        cells = None if cells is None else native(cells)
        columns, of_one_length = state.get("columns"), state.get("of_one_length", False)
        columns = None if columns is None else native(columns)
        n_columns = len(mean) if columns is None else len(columns)
        arrays = [rows, vectors, mean, attraction, center]
        arrays += [array for array in (components, cells) if array is not None]
        dtype, n_samples, n_vectors = rows.dtype, len(rows), len(eigenvalues)
        scale, unit = dtype.type(state["scale"]), dtype.type(state["unit"])
        width = n_columns if components is None else len(components)
        if (
            dtype not in (np.float32, np.float64)
            or {array.dtype for array in arrays} != {dtype}
            or eigenvalues.dtype != np.float64
            or not all(np.isfinite(array).all() for array in [*arrays, eigenvalues])
            or mean.ndim != 1
            or (components is not None and components.shape != (width, n_columns))
            or (columns is not None and not _are_columns(columns, len(mean)))
            or type(of_one_length) is not bool
            or rows.shape != (n_samples, width)
            or (cells is not None and cells.shape != (len(cells), width))
            or eigenvalues.shape != (n_vectors,)
            or n_vectors == 0
            or vectors.shape != (n_samples, n_vectors)
            or center.shape != (n_vectors,)
            or attraction.shape != (n_samples,)
            or not (attraction > 0).all()
            or {type(state[name]) for name in ("scale", "unit")} != {float}
            or not (0 < scale < np.inf and 0 < unit < np.inf)
            or type(n_neighbors) is not int
            or not 0 < n_neighbors < n_samples
        ):
            raise ValueError("the parts of the features do not fit together")
        self._projection = Projection(mean, scale, components, columns, of_one_length)
        if cells is not None:
            cells = cells_around(cells, rows)
        self._index = Index(rows, n_neighbors, cells)
        self._vectors, self._attraction = vectors, attraction
        self._center, self._unit = center, unit
        self.eigenvalues_ = eigenvalues
        self.n_features_in_, self._n_features_out = len(mean), width + n_vectors
        return self

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.sparse = True
        return tags

    @property
    def _rows(self) -> NDArray:
        return self._index.rows

    def _validate_rows(self, X: ArrayLike, **checks: Any) -> NDArray | csr_array:
        X = validate_data(
            self, X, accept_sparse="csr", dtype=[np.float64, np.float32], **checks
        )
        return canonical(X) if issparse(X) else X

    def _features_of(self, rows: NDArray, around: NDArray) -> NDArray:
        """Return the features of rows that were projected, and looked up."""
        coordinates = self._directions(around[:, : self._index.n_neighbors])
        return np.hstack([rows, (coordinates - self._center) / self._unit])

    def _directions(self, nearest: NDArray) -> NDArray:
        """Return the mean eigenvectors over neighbors (n, n_neighbors), of norm 1.

        Shape (n, n_components + 1).
        """
        n, n_neighbors = nearest.shape
        indptr = np.arange(0, nearest.size + 1, n_neighbors)
        mean = csr_array(
            (self._attraction[nearest.ravel()], nearest.ravel(), indptr),
            shape=(n, len(self._rows)),
        )
        return normalize(mean @ self._vectors)


def _are_columns(columns: NDArray, n_features: int) -> bool:
    """Whether they are numbers of features, ascending."""
    return (
        columns.dtype.kind == "i"
        and columns.ndim == 1
        and columns.size > 0
        and columns[0] >= 0
        and columns[-1] < n_features
        and bool((np.diff(columns) > 0).all())
    )


def leading_eigenvectors(
    walk: csr_array, strength: NDArray, n_vectors: int
) -> tuple[NDArray, NDArray]:
    """Return the largest eigenvalues of a walk, and its right eigenvectors.

    `strength`, shape (n_samples,), is proportional to the distribution in which the
    walk stays; the eigenvectors, shape (n_samples, n_vectors), are orthonormal with
    respect to it, and the first one is constant. Both are float64.
    """
    n_samples = len(strength)
    root = np.sqrt(strength.astype(np.float64) / strength.sum())
    # As likely in both directions: similar to a symmetric matrix.
    symmetric = diags_array(root) @ walk.astype(np.float64) @ diags_array(1 / root)
    symmetric = csr_array(symmetric + symmetric.T) / 2
    if n_samples <= 4 * n_vectors:
        values, vectors = eigh(
            symmetric.toarray(), subset_by_index=(n_samples - n_vectors, n_samples - 1)
        )
    else:
        for tolerance in _TOLERANCES:
            how = {"which": "LA", "v0": root, "tol": tolerance, "maxiter": _N_RESTARTS}
            try:
                values, vectors = eigsh(symmetric, n_vectors, **how)
                break
            except ArpackNoConvergence as error:
                values, vectors = error.eigenvalues, error.eigenvectors
    order = np.argsort(-values, kind="stable")
    return values[order].clip(0, 1), vectors[:, order] / root[:, np.newaxis]
