"""Stiff problems to their published ends, in no more steps than CVODE takes, and in float32."""

import functools

import cases_stiff as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok

DENSE = tuple(case for case in cases.STIFF if case.name != "Medical Akzo")
PUBLISHED = {
    "Pollution": {
        **{0: 0.5646255480022769e-1, 1: 0.1342484130422339, 2: 0.4139734331099427e-8, 3: 0.5523140207484359e-2},
        **{4: 0.2018977262302196e-6, 19: 0.5682943292316392e-4},
    },
    "Medical Akzo": {0: 0.5113983840919909e-5, 198: 0.1173741304462833e-3, 199: 0.6190822732534586e-5},
}
ACCURACY = {1e-4: 1e-2, 1e-6: 1e-4, 1e-8: 1e-5}


BY_NAME = {case.name: case for case in cases.STIFF}


@functools.cache
def solver(name):
    case = BY_NAME[name]
    method = ok.Rodas5P(jacobian=(2, 2)) if name == "Medical Akzo" else ok.Rodas5P()

    @jax.jit
    def run(y0, t0, t1, args, rtol):
        atol = case.size * rtol
        return ok.solve(case.f, y0, t0, t1, method, args, rtol=rtol, atol=atol, max_steps=10_000, throw=False)

    return run


def end_and_steps(case, rtol):
    y, t, steps = jnp.asarray(case.y0), 0.0, 0
    for end, args in case.pieces:
        sol = solver(case.name)(y, t, end, None if args is None else jnp.asarray(args), rtol)
        assert sol.result == ok.Result.SUCCESS
        y, t, steps = sol.y1, end, steps + int(sol.stats["accepted"] + sol.stats["rejected"])
    return y, steps


@pytest.mark.parametrize("name", PUBLISHED)
def test_references_agree_with_what_is_published(name):
    known = PUBLISHED[name]  # v100 of Medical Akzo is 1.1e-7 off what LSODA and Rodas5P agree on to 2e-9
    np.testing.assert_allclose(BY_NAME[name].y1[list(known)], list(known.values()), rtol=2e-7)


def test_e5_disagrees_with_its_published_end_as_much_as_that_does_with_itself():
    """The published second and third amounts differ by 1e-3 though their difference, the fourth, has vanished."""
    published = np.array([0.8867655517642120e-22, 0.8854814626268838e-22])
    np.testing.assert_allclose(cases.E5.y1[1], published, rtol=8e-4)
    np.testing.assert_allclose(cases.E5.y1[1], 8.86123352e-23, rtol=1e-8)


@pytest.mark.parametrize("rtol", ACCURACY)
@pytest.mark.parametrize("case", DENSE, ids=lambda case: case.name)
def test_ends_are_reached_in_no_more_steps_than_cvode_takes(case, rtol):
    end, steps = end_and_steps(case, rtol)
    assert case.error(end) < ACCURACY[rtol]
    assert steps <= cases.REFERENCES["steps"][case.name][f"{rtol:g}"]["steps"]


def test_a_banded_jacobian_of_400_unknowns():
    """Medical Akzo Nobel: a jump at t = 5, and a Jacobian whose first solves end in numbers too small to hold."""
    end, steps = end_and_steps(cases.MEDICAL_AKZO, 1e-8)
    assert cases.MEDICAL_AKZO.error(end) < 1e-7
    assert steps <= cases.REFERENCES["steps"]["Medical Akzo"]["1e-08"]["steps"]


@pytest.mark.parametrize(("rtol", "atol"), [(1e-3, 1e-8), (1e-4, 1e-10), (1e-5, 1e-12)])
def test_robertson_reaches_its_end_in_float32(rtol, atol):
    """Amounts of 1e-10 beside 1: what float32 can tell apart is reached at every tolerance it can serve."""
    start = jnp.array([1.0, 0.0, 0.0], jnp.float32)
    sol = ok.solve(cases.robertson, start, 0.0, 1e8, ok.Rodas5P(), rtol=rtol, atol=atol)
    assert sol.y1.dtype == jnp.float32
    np.testing.assert_allclose(sol.y1, [2.08241751e-5, 8.32984143e-11, 0.999979176], rtol=3e-3)
