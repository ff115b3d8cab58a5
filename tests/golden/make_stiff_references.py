"""Make stiff_references.json: ends by SciPy at tight tolerances, and the steps and evaluations of CVODE beside them.

Run as `python tests/golden/make_stiff_references.py` from the root of the repository (a minute); needs scikit-sundae.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from scipy.integrate import solve_ivp
from sksundae.cvode import CVODE

HERE = Path(__file__).parent
RTOLS = (1e-4, 1e-6, 1e-8)


def compiled(case):
    f = jax.jit(case.f)
    jac = jax.jit(jax.jacfwd(case.f, 1))
    return lambda t, y, args: np.asarray(f(t, y, args)), lambda t, y, args: np.asarray(jac(t, y, args))


def bands(matrix, width=2):
    """Rows of diagonals, as LSODA wants them."""
    n = len(matrix)
    packed = np.zeros((2 * width + 1, n))
    for k in range(-width, width + 1):
        packed[width - k, max(0, k) : n + min(0, k)] = np.diagonal(matrix, k)
    return packed


def tight(case, rtol, banded=False):
    f, jac = compiled(case)
    y, t = case.y0, 0.0
    for end, args in case.pieces:
        options = {"method": "Radau", "jac": lambda t, y, args=args: jac(t, y, args)}
        if banded:
            options = {"method": "LSODA", "jac": lambda t, y, args=args: bands(jac(t, y, args)), "lband": 2, "uband": 2}
        call = lambda t, y, args=args: f(t, y, args)  # noqa: E731
        y = solve_ivp(call, (t, end), y, rtol=rtol, atol=1e-2 * case.size * rtol, **options).y[:, -1]
        t = end
    return y


def cvode(case, rtol, banded=False):
    """Return the end, the steps and the evaluations of a solve by CVODE's BDF."""
    f, jac = compiled(case)
    y, t, steps, evaluations = case.y0, 0.0, 0, 0
    for end, args in case.pieces:

        def rhs(t, y, dy):
            dy[:] = f(t, y, args)  # noqa: B023  # called in this turn of the loop alone

        def jacobian(t, y, fy, out):
            out[:, :] = jac(t, y, args)  # noqa: B023

        linear = {"linsolver": "band", "lband": 2, "uband": 2} if banded else {"jacfn": jacobian}
        solver = CVODE(rhs, rtol=rtol, atol=case.size * rtol, max_num_steps=10**6, **linear)
        run = solver.solve([t, end], y)  # every internal step is returned
        y, t, steps, evaluations = run.y[-1], end, steps + len(run.t) - 1, evaluations + int(run.nfev)
    return y, steps, evaluations


def main():
    jax.config.update("jax_enable_x64", True)
    sys.path.insert(0, str(HERE.parent))
    import cases_stiff

    ends, counts = {}, {}
    makers = {
        "Pollution": lambda case: [tight(case, rtol) for rtol in (1e-13, 1e-12)],
        "E5": lambda case: [tight(case, rtol) for rtol in (1e-11, 1e-10)],
        "Medical Akzo": lambda case: [tight(case, rtol, banded=True) for rtol in (1e-11, 1e-10)],
    }
    for case in cases_stiff.STIFF:
        banded = case.name == "Medical Akzo"
        if case.name in makers:
            first, second = makers[case.name](case)
            ends[case.name] = first.tolist()
            case = case._replace(y1=first)
            print(f"{case.name:20s} two tolerances agree to {case.error(second):.1e}", flush=True)
        counts[case.name] = {}
        for rtol in RTOLS:
            y, steps, evaluations = cvode(case, rtol, banded)
            counts[case.name][f"{rtol:g}"] = {"steps": steps, "evaluations": evaluations}
            print(f"{case.name:20s} CVODE {rtol:g}: error {case.error(y):.1e}, {steps} steps", flush=True)
    document = {"ends": ends, "steps": counts}
    cases_stiff.GOLDEN.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
