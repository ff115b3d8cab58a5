"""Names for the shapes that the package passes around."""

from collections.abc import Callable
from typing import Any, TypeAlias

from jax import Array

PyTree: TypeAlias = Any
Scalar: TypeAlias = float | Array
"""A Python float or a scalar array."""
Row: TypeAlias = tuple[float, ...] | tuple[Array, ...] | tuple[float | Array, ...] | Array
"""One row of coefficients: concrete Python floats fold into the program, an array can be trained."""
Rows: TypeAlias = tuple[Row, ...]
VectorField: TypeAlias = Callable[..., Any]
"""`f(t, y, args) -> dy`, where `dy` has the structure, shapes and dtypes of `y`."""
