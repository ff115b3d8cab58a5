"""Exponential methods: orders on three kinds of spectra, precision of the weights, Kuramoto-Sivashinsky."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok
from odekit.solvers import ETDRK2, ETDRK4, Krogstad4
from odekit.solvers.exponential import ExponentialRK

METHODS = (ETDRK2, ETDRK4, Krogstad4)
SPECTRA = {
    "real": np.array([0.0, -1.0, -4.0, -9.0]),
    "imaginary": 1j * np.array([0.0, 1.0, -2.0, 3.0]),
    "mixed": np.array([-0.5 + 2j, -3.0, 1j, -6.0 - 1j]),
}


class Bound:
    """A semilinear problem as a method sees it."""

    def __init__(self, linear, nonlinear):
        self.linear, self.nonlinear = linear, nonlinear

    def __call__(self, t, y):
        return jax.tree.map(lambda rate, y, n: rate * y + n, self.linear, y, self.nonlinear(t, y))


def coupled(t, y):
    """Smooth, nonlinear, non-autonomous, mixes the modes and their conjugates."""
    push, pull = (jnp.asarray(x).astype(y.dtype) for x in (0.4 * jnp.sin(2 * t), 0.3 * jnp.cos(t)))
    return push * jnp.roll(y, 1) ** 2 + pull * y * jnp.roll(jnp.conj(y), -1) + 0.2 * jnp.cos(y)


def integrate(method, problem, y0, t1, n_steps):
    dt = t1 / jnp.asarray(n_steps, float)
    prepared = method.prepare(problem, dt)

    def body(i, y):
        t = i * dt
        return prepared.step(problem, t, dt, y, prepared.init(problem, t, y)).y

    return jax.lax.fori_loop(0, n_steps, body, y0)


def starts(spectrum):
    rng = np.random.default_rng(1)
    real = rng.uniform(0.2, 1.0, (16, 4))
    return jnp.asarray(real if spectrum == "real" else real * np.exp(1j * rng.uniform(0, 6, (16, 4))))


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("make", METHODS)
def test_order(make, spectrum):
    problem, y0 = Bound(jnp.asarray(SPECTRA[spectrum]), coupled), starts(spectrum)
    counts, fine = np.array([16, 24, 32, 48, 64]), integrate_finely(spectrum)
    run = jax.jit(jax.vmap(lambda y, n: integrate(make(), problem, y, 1.0, n), in_axes=(0, None)))
    errors = [np.sqrt(np.mean(np.abs(run(y0, n) - fine) ** 2)) for n in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope > make().order - 0.15, f"slope {slope:.3f}, errors {errors}"


@functools.cache
def integrate_finely(spectrum):
    """Classical Runge-Kutta on the whole right-hand side: shares nothing with the methods under test."""
    problem, n, dt = Bound(jnp.asarray(SPECTRA[spectrum]), coupled), 2000, 1 / 2000

    def body(y, i):
        t = i * dt
        k1 = problem(t, y)
        k2 = problem(t + dt / 2, y + dt / 2 * k1)
        k3 = problem(t + dt / 2, y + dt / 2 * k2)
        k4 = problem(t + dt, y + dt * k3)
        return y + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    one = lambda y: jax.lax.scan(body, y, jnp.arange(n, dtype=float))[0]  # noqa: E731
    return np.asarray(jax.jit(jax.vmap(one))(starts(spectrum)))


@pytest.mark.parametrize("make", METHODS)
def test_linear_part_is_exact_however_stiff(make):
    linear = jnp.asarray([-1e6, -3.0, 0.0, 2.0])
    y1 = integrate(make(), Bound(linear, lambda t, y: jnp.zeros_like(y)), jnp.ones(4), 1.0, 2)
    np.testing.assert_allclose(y1, np.exp(linear), rtol=1e-14)


@pytest.mark.parametrize("make", METHODS)
def test_constant_forcing_is_exact(make):
    """y' = L y + g: the weights of every stage and of the step sum to c phi_1(c z)."""
    linear = jnp.asarray([-50.0, -1.0, -1e-7, 1e-7])
    forcing = jnp.asarray([3.0, -2.0, 1.0, 0.5])
    method, dt = make(), jnp.asarray(0.7)
    problem = Bound(linear, lambda t, y: forcing)
    y1 = method.step(problem, jnp.asarray(0.0), dt, jnp.zeros(4), None).y
    np.testing.assert_allclose(y1, forcing * np.expm1(linear * 0.7) / linear, rtol=1e-13)
    weights = method.prepare(problem, dt).weights
    for c, row in zip((*method.c[1:], 1.0), weights.rows, strict=True):
        total = sum(np.asarray(w) for w in row if w is not None)
        np.testing.assert_allclose(total, np.expm1(c * linear * 0.7) / linear, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("make", METHODS)
def test_without_a_linear_part_it_is_a_runge_kutta_method(make):
    """At L = 0 the weights are the underlying tableau: order conditions for b, in both precisions."""
    for dtype in (jnp.float32, jnp.float64):
        method = make()
        rows = method.prepare(Bound(jnp.zeros(1, dtype), None), jnp.asarray(1.0, dtype)).weights.rows
        b = np.array([float(w[0]) for w in rows[-1]])
        assert rows[-1][0].dtype == dtype
        for p in range(method.order):
            assert abs(b @ np.array(method.c) ** p - 1 / (p + 1)) < 4 * jnp.finfo(dtype).eps


def test_concrete_weights_are_computed_in_double_precision():
    """A float32 spectrum gives float32 weights that are the rounded float64 ones, on the host and traced."""
    rates = np.array([-1e-3, -0.02, -0.5, -4.0, -300.0], np.float32)
    dt = np.float32(0.25)
    exact = ETDRK4().prepare(Bound(rates.astype(float), None), np.float64(dt)).weights
    on_host = ETDRK4().prepare(Bound(rates, None), dt).weights
    traced = jax.jit(lambda r, h: ETDRK4().prepare(Bound(r, None), h).weights)(rates, dt)
    for weights in (on_host, traced):
        for found, fine in zip(jax.tree.leaves(weights), jax.tree.leaves(exact), strict=True):
            assert found.dtype == jnp.float32
            np.testing.assert_allclose(found, fine, rtol=6e-8)


def test_single_precision_alone_loses_little():
    """With 64-bit types off, traced weights are computed in float32."""
    rates, dt = np.linspace(-20, 0, 101, dtype=np.float32), np.float32(0.25)
    exact = Krogstad4().prepare(Bound(rates.astype(float), None), np.float64(dt)).weights
    with jax.enable_x64(False):
        found = jax.jit(lambda r, h: Krogstad4().prepare(Bound(r, None), h).weights)(rates, dt)
        for x, fine in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
            assert x.dtype == jnp.float32
            np.testing.assert_allclose(x, fine, rtol=0, atol=2e-6 * 0.25)


@pytest.mark.parametrize("make", METHODS)
def test_dense_is_a_shorter_step(make):
    problem, t, dt = Bound(jnp.asarray(SPECTRA["real"]), coupled), jnp.asarray(0.3), jnp.asarray(0.1)
    y = jnp.asarray([0.3, 0.5, -0.2, 0.9])
    prepared = make().prepare(problem, dt)
    inside = prepared.dense(problem, t, dt, y, jnp.asarray(0.25))
    np.testing.assert_allclose(inside, make().step(problem, t, 0.25 * dt, y, None).y, rtol=1e-14)
    np.testing.assert_allclose(
        prepared.dense(problem, t, dt, y, jnp.asarray(1.0)), prepared.step(problem, t, dt, y, None).y, rtol=1e-14
    )


@pytest.mark.parametrize("make", METHODS)
def test_nested_states_and_lanes(make):
    """A pytree with lanes last and one step size a lane equals the lanes one by one."""
    y = {"a": jnp.asarray([[0.3, 0.4], [0.1, 0.2]]), "b": (jnp.asarray([1.0 + 1j, 0.5]),)}
    linear = {"a": jnp.asarray([[-1.0, -2.0], [-30.0, -3.0]]), "b": (jnp.asarray([1j, -2.0 + 1j]),)}
    nonlinear = lambda t, y: {"a": jnp.sin(y["a"]) * t, "b": (y["b"][0] ** 2,)}  # noqa: E731
    lane = lambda tree, i: jax.tree.map(lambda x: x[..., i], tree)  # noqa: E731
    dts = jnp.asarray([0.1, 0.3])
    problem = Bound(linear, lambda t, y: {**nonlinear(1.0, y)})
    both = make().step(problem, jnp.zeros(2), dts, y, None).y
    for i in range(2):
        alone = make().step(Bound(lane(linear, i), problem.nonlinear), jnp.asarray(0.0), dts[i], lane(y, i), None).y
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[..., i], b, rtol=1e-14), both, alone)


@pytest.mark.parametrize("make", METHODS)
def test_real_rates_act_on_complex_states(make):
    rates = jnp.asarray([-2.0, -0.5])
    y = jnp.asarray([1.0 + 2j, 0.5j])
    n = lambda t, y: 1j * y * jnp.abs(y).astype(y.dtype)  # noqa: E731
    one = make().step(Bound(rates, n), jnp.asarray(0.0), jnp.asarray(0.1), y, None).y
    other = make().step(Bound(rates.astype(complex), n), jnp.asarray(0.0), jnp.asarray(0.1), y, None).y
    assert one.dtype == y.dtype
    np.testing.assert_allclose(one, other, rtol=1e-14)


def test_complex_rates_need_a_complex_state():
    problem = Bound(jnp.asarray([1j]), lambda t, y: y)
    with pytest.raises(TypeError, match="complex `y0`"):
        ETDRK2().step(problem, jnp.asarray(0.0), jnp.asarray(0.1), jnp.ones(1), None)


@pytest.mark.parametrize("make", METHODS)
def test_gradients_with_respect_to_rates_step_and_coefficients(make):
    method, y = make(), jnp.asarray([0.4, 0.7, -0.3, 0.2])

    def loss(rates, dt, b):
        method = ExponentialRK(
            **{name: getattr(make(), name) for name in ("a", "c", "basis", "order")},
            b=tuple(b),
        )
        return jnp.sum(method.step(Bound(rates, coupled), jnp.asarray(0.2), dt, y, None).y ** 2)

    inputs = jnp.asarray([0.0, -0.3, -2.0, -40.0]), jnp.asarray(0.2), jnp.asarray(method.b)
    grads = jax.grad(loss, argnums=(0, 1, 2))(*inputs)
    rng = np.random.default_rng(0)
    for i, (x, grad) in enumerate(zip(inputs, grads, strict=True)):
        move = 1e-5 * jnp.asarray(rng.normal(size=x.shape))
        ahead, behind = (loss(*inputs[:i], x + shift, *inputs[i + 1 :]) for shift in (move, -move))
        np.testing.assert_allclose(jnp.sum(grad * move), (ahead - behind) / 2, rtol=1e-7)


def test_misfit_coefficients_are_refused():
    with pytest.raises(ValueError, match="rows of lengths"):
        ExponentialRK(a=(), b=((1.0,), (0.0,)), c=(0.0,), basis=((1, 1.0),))
    with pytest.raises(ValueError, match="`basis` has 1"):
        ExponentialRK(a=(), b=((1.0, 0.0),), c=(0.0,), basis=((1, 1.0),))


def kuramoto_sivashinsky(n, dtype):
    """Half spectra of `u_t = -u u_x - u_xx - u_xxxx` on [0, 32 pi]: rates, nonlinear part, start."""
    k = np.arange(n // 2 + 1) / 16
    slope = k * (np.arange(n // 2 + 1) < n // 2)  # no derivative of the Nyquist mode
    factor = jnp.asarray(-0.5j * slope, dtype)
    x = 32 * np.pi * np.arange(n) / n
    start = np.fft.rfft(np.cos(x / 16) * (1 + np.sin(x / 16)))
    rates = jnp.asarray(k**2 - k**4, jnp.finfo(dtype).dtype)
    return rates, lambda t, v: factor * jnp.fft.rfft(jnp.fft.irfft(v, n) ** 2), jnp.asarray(start, dtype)


def kuramoto_sivashinsky_error(v, n):
    reference = json.loads((Path(__file__).parents[1] / "golden" / "kuramoto_sivashinsky.json").read_text())
    fine = np.array(reference["u"])
    return np.max(np.abs(np.fft.irfft(v, n) - fine[:: len(fine) // n])) / np.max(np.abs(fine))


def kuramoto_sivashinsky_solve(dtype):
    rates, nonlinear, start = kuramoto_sivashinsky(128, dtype)
    problem = ok.SemiLinear(rates, lambda t, v, args: nonlinear(t, v))
    return ok.solve(problem, start, 0.0, 30.0, ETDRK4(), n_steps=120)


@pytest.mark.parametrize(("dtype", "published"), [(jnp.complex128, 4.8e-5), (jnp.complex64, 5.5e-5)])
def test_kuramoto_sivashinsky(dtype, published):
    sol = kuramoto_sivashinsky_solve(dtype)
    assert sol.y1.dtype == dtype
    error = kuramoto_sivashinsky_error(sol.y1, 128)
    assert abs(error / published - 1) < 0.2, f"relative error {error:.3e}"


def test_kuramoto_sivashinsky_without_64_bits():
    with jax.enable_x64(False):
        error = kuramoto_sivashinsky_error(kuramoto_sivashinsky_solve(jnp.complex64).y1, 128)
    assert abs(error / 5.5e-5 - 1) < 0.2, f"relative error {error:.3e}"


@pytest.mark.parametrize("make", [ETDRK2, ETDRK4, pytest.param(Krogstad4, marks=pytest.mark.slow)])
def test_solve_takes_the_same_steps(make):
    """Through the front door: mixed spectrum, a save time inside a step, backward in time."""
    linear, y0 = jnp.asarray(SPECTRA["mixed"]), starts("mixed")[0]
    run = lambda rates, t1, ts=None: ok.solve(  # noqa: E731
        ok.SemiLinear(rates, lambda t, y, args: coupled(t, y)), y0, 0.0, t1, make(), n_steps=20, saveat=ts
    )
    problem = Bound(linear, coupled)
    by_hand = integrate(make(), problem, y0, 0.8, 20)
    np.testing.assert_allclose(run(linear, 0.8).y1, by_hand, rtol=1e-12)
    inside = make().step(problem, jnp.asarray(0.4), jnp.asarray(0.01), integrate(make(), problem, y0, 0.4, 10), None).y
    np.testing.assert_allclose(run(linear, 0.8, jnp.asarray([0.41])).ys[0], inside, rtol=1e-12)
    back = integrate(make(), problem, y0, -0.2, 20)
    np.testing.assert_allclose(run(linear, -0.2).y1, back, rtol=1e-12)


@pytest.mark.parametrize("make", [ETDRK2, ETDRK4, pytest.param(Krogstad4, marks=pytest.mark.slow)])
def test_gradient_through_solve(make):
    y0 = jnp.asarray([0.4, 0.7, -0.3, 0.2])

    def loss(rates):
        problem = ok.SemiLinear(rates, lambda t, y, args: coupled(t, y))
        return jnp.sum(ok.solve(problem, y0, 0.0, 1.0, make(), n_steps=8, throw=False).y1 ** 2)

    rates, eps = jnp.asarray([0.0, -0.3, -2.0, -9.0]), 1e-5
    steps = eps * jnp.eye(4)
    expected = [(loss(rates + step) - loss(rates - step)) / (2 * eps) for step in steps]
    np.testing.assert_allclose(jax.grad(loss)(rates), expected, rtol=1e-7, atol=1e-10)
