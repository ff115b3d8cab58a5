"""Forward mode through the loop itself."""

from odekit.adjoint.base import Adjoint, Solve
from odekit.loops.engine import Free, Last, Program
from odekit.loops.lanes import single
from odekit.loops.record import Raw, Rows


class Forward(Adjoint):
    """Forward-mode derivatives: `jax.jvp`, `jax.jacfwd`; reverse mode is refused by JAX.

    The tangent runs beside the solve, so memory doesn't grow with the number of steps: right for a few parameters and
    many outputs. Costs about 2.5 solves a direction.

    Example:
        >>> Forward()
        Forward()

    Source: Griewank & Walther, Evaluating Derivatives, 2008, section 3.1.
    """

    def __call__(self, program: Program, keep_rows: bool) -> Solve:
        """Return the solve with forward-mode derivatives."""
        program = program._replace(attached=True)
        engine = program.record() if keep_rows else program.run()

        def solve(last: Last, free: Free) -> tuple[Raw, Rows | None]:
            out, _ = single(engine, last, free)
            return out if keep_rows else (out, None)

        return solve
