"""The reference problems: right-hand sides against another package's, end values against what is published."""

import warnings

import cases
import jax
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm

PUBLISHED = {
    "A1": [np.exp(-20.0)],
    "A2": [0.218217890235993],
    "A3": [np.exp(np.sin(20.0))],
    "A4": [17.7301664813148],
    "A5": [-0.788782668896254],
    "B1": [0.676187600858, 0.186081609964],
    "B2": [1.00000000103058, 1, 0.999999998969422],
    "B3": [np.exp(-20.0), 0.0525722802204851, 0.947427717718361],
    "B4": [0.98269509280, 2.19844708169, 0.91294525073],
    "B5": [-0.93965707987, -0.34211777540, 0.74141265962],
    "C1": [2.061e-9, 4.12230724e-8, 4.12230725e-7, 2.74820483e-6],
    "C4": [0.0031241114537, 0.0060154168422, 0.0084700218348, 0.0103368293173],
    "C5": [-4.79273022432, -2.42055072545, -0.92125093060, -4.21731040404],
    "D1": [0.21988353520, 0.94270768463, -0.97876598411, 0.32879779910],
    "D2": [-0.17770273571, 0.94677847199, -1.03029416319, 0.12110748901],
    "D3": [-0.57804329530, 0.86338400092, -0.95950837304, -0.06504915127],
    "D4": [-0.95389902934, 0.69074090242, -0.82126742709, -0.15395742591],
    "D5": [-1.29526625099, 0.40039389638, -0.67753909247, -0.12708381543],
    "E1": [0.14567236007283, -0.0988350019557429],
    "E2": [2.008149762175, -0.042508875273],
    "E3": [-0.100417885864638, 0.241140013209575],
    "E4": [33.9509144464656, 0.276782265967288],
    "E5": [14.1179739054262, 2.4],
    "Pleiades": [0.3706139143970502, 3.237284092057233, -3.222559032418324, 0.6597091455775310],
}
BY_NAME = {case.name: case for case in cases.CASES}


def field(case):
    compiled = jax.jit(lambda t, y: case.f(t, y, None))
    return lambda t, y: np.asarray(compiled(t, y))


@pytest.mark.parametrize("name", PUBLISHED)
def test_end_values_agree_with_published_ones(name):
    expected = np.array(PUBLISHED[name])
    np.testing.assert_allclose(BY_NAME[name].y1[: len(expected)], expected, rtol=1e-10, atol=5e-13)


def test_pleiades_agrees_in_its_last_published_position():
    np.testing.assert_allclose(cases.PLEIADES.y1[13], 1.091449240428980, rtol=2e-11)


def test_linear_systems_by_the_matrix_exponential():
    chain = np.diag([-1.0, -2, -3, -4, -5, -6, -7, -8, -9, 0]) + np.diag(np.arange(1.0, 10), -1)
    heat = -2 * np.eye(10) + np.eye(10, k=1) + np.eye(10, k=-1)
    for name, matrix in {"C2": chain, "C3": heat}.items():
        np.testing.assert_allclose(BY_NAME[name].y1, expm(20 * matrix)[:, 0], atol=1e-14)


@pytest.mark.parametrize("case", cases.DETEST, ids=lambda case: case.name)
def test_right_hand_sides_against_nodepy(case):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the reference package's docstrings, not ours
        from nodepy.ivp import detest
    other = detest(case.name)
    np.testing.assert_allclose(np.atleast_1d(other.u0), case.y0, rtol=1e-15)
    rng = np.random.default_rng(0)
    for t in (0.3, 1.7):
        y = case.y0 + 0.1 * rng.uniform(size=case.y0.shape)
        theirs = np.atleast_1d(other.rhs(t, y if y.size > 1 else y[0]))
        np.testing.assert_allclose(field(case)(t, y), theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "case", [case for case in cases.CASES if case.name not in PUBLISHED], ids=lambda case: case.name
)
def test_end_values_are_reached(case):
    """The closed forms and 45-digit ends, by an independent integrator; Lorenz amplifies rounding by 1e8."""
    atol = 1e-6 if case.name == "Lorenz" else 2e-10
    run = solve_ivp(field(case), (case.t0, case.t1), case.y0, method="DOP853", rtol=2.3e-14, atol=1e-16)
    np.testing.assert_allclose(run.y[:, -1], case.y1, rtol=0, atol=atol)
