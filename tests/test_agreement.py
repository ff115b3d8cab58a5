"""End values of the reference problems: the scaled error, and what each problem makes of the tolerance.

The scaled error is SciPy's: `norm((y - exact) / (atol + rtol |exact|)) / sqrt(n)`. A tolerance bounds the error of a
step; a problem that enlarges errors by a factor G until its end (`golden/ode_growth.json`, by a script beside it) turns
one tolerance into G. So a solve at 1e-8 has to end within 5 G scaled units, and one that asks for 1e-8 / G within 5.
"""

import json
from pathlib import Path

import cases
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok

TOL = 1e-8
GROWTH = json.loads((Path(__file__).parent / "golden" / "ode_growth.json").read_text())
PROBLEMS = (*cases.DETEST, cases.ARENSTORF, cases.PLEIADES)
ROUNDING = 1e-13
"""The tightest tolerance asked for: Arenstorf's orbit enlarges errors 4e6 times, and 1e-8 / 4e6 is near rounding."""


def scaled_error(case, method, tol):
    y0 = jnp.asarray(case.y0)
    sol = ok.solve(case.f, y0, case.t0, case.t1, method, rtol=tol, atol=tol, max_steps=10_000)
    return np.linalg.norm((sol.y1 - case.y1) / (TOL + TOL * np.abs(case.y1))) / np.sqrt(case.y1.size)


@pytest.mark.parametrize("case", PROBLEMS, ids=lambda case: case.name)
def test_an_accuracy_asked_for_is_reached(case):
    growth = GROWTH[case.name]
    assert scaled_error(case, ok.Dopri8(), max(TOL / growth, ROUNDING)) < 5
    assert scaled_error(case, ok.Dopri8(), TOL) < 5 * growth


@pytest.mark.parametrize("make", [ok.Tsit5, ok.Dopri5], ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "case", [case for case in PROBLEMS if case.name in ("A2", "B1", "C3", "D3", "E2", "Arenstorf", "Pleiades")],
    ids=lambda case: case.name,
)  # fmt: skip
def test_lower_orders_reach_it_too(case, make):
    growth = GROWTH[case.name]
    assert scaled_error(case, make(), max(TOL / growth, ROUNDING)) < 5
    assert scaled_error(case, make(), TOL) < 5 * growth
