"""Gradients of solves against central differences in float64, and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok

TARGETS = ("y0", "args", "t0", "t1", "ts", "coefficients")


def field(t, y, p):
    return {"q": y["p"] * p[0], "p": -p[1] * jnp.sin(y["q"]) + p[2] * jnp.cos(t) * jnp.ones_like(y["p"])}


def trainable(method):
    return jax.tree.map(jnp.asarray, method)


POINT = {
    "y0": {"q": jnp.array([0.3, -0.2]), "p": jnp.array([1.0, 0.5])},
    "args": jnp.array([1.0, 2.0, 0.3]),
    "t0": jnp.array(0.2),
    "t1": jnp.array(2.1),
    "ts": jnp.array([0.7, 1.3, 1.31]),
    "coefficients": trainable(ok.Bosh3()),
}


def loss(point, adjoint=None, **grid):
    grid = grid or {"rtol": 1e-6, "atol": 1e-8, "max_steps": 256}
    saveat = ok.SaveAt(ts=point["ts"], t1=True)
    sol = ok.solve(
        field, point["y0"], point["t0"], point["t1"], point["coefficients"], point["args"],
        saveat=saveat, adjoint=adjoint, throw=False, **grid,
    )  # fmt: skip
    return sum(jnp.sum(jnp.sin(leaf * (1 + jnp.arange(4.0).reshape(4, 1)))) for leaf in jax.tree.leaves(sol.ys))


def frozen(point):
    """The same loss on the grid of the base point: its steps as fixed fractions of the interval."""
    state = ok.solve(
        field, POINT["y0"], POINT["t0"], POINT["t1"], POINT["coefficients"], POINT["args"],
        saveat=ok.SaveAt(steps=True), rtol=1e-6, atol=1e-8, max_steps=256,
    )  # fmt: skip
    ts = np.asarray(state.ts)[: int(state.stats["accepted"])]
    shares = np.diff(np.r_[float(POINT["t0"]), ts]) / float(POINT["t1"] - POINT["t0"])
    return jax.jit(lambda point: loss(point, dt=jnp.asarray(shares) * (point["t1"] - point["t0"]))), shares


@pytest.fixture(scope="module")
def gradient():
    return jax.jit(jax.grad(loss))(POINT)


@pytest.mark.parametrize("name", TARGETS)
def test_gradients_agree_with_central_differences_on_the_frozen_grid(gradient, name):
    fixed, _ = frozen(POINT)
    leaves, tree = jax.tree.flatten(POINT[name])
    got = jax.tree.leaves(gradient[name])
    key = jax.random.key(3)
    direction = [jax.random.normal(jax.random.fold_in(key, i), x.shape) for i, x in enumerate(leaves)]
    if name == "coefficients":
        # The embedded weights and nodes decide no state: only what moves it can be compared.
        direction = [jnp.where(g == 0, 0, d) for g, d in zip(got, direction, strict=True)]

    def at(h):
        moved = jax.tree.unflatten(tree, [x + h * d for x, d in zip(leaves, direction, strict=True)])
        return float(fixed(POINT | {name: moved}))

    h = 1e-5
    difference = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    inner = sum(float(jnp.sum(g * d)) for g, d in zip(got, direction, strict=True))
    assert abs(inner - difference) <= 1e-7 * (1 + abs(difference))


def test_fixed_grids_have_the_same_gradient(gradient):
    fixed, _ = frozen(POINT)
    other = jax.grad(fixed)(POINT)
    for name in ("y0", "args", "coefficients"):
        for a, b in zip(jax.tree.leaves(gradient[name]), jax.tree.leaves(other[name]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "every", [pytest.param(1, marks=pytest.mark.slow), 7, pytest.param(256, marks=pytest.mark.slow)]
)
def test_states_kept_at_every_kth_step_give_the_same_gradient(every):
    def end(y0, p, t1, adjoint):
        sol = ok.solve(field, y0, 0.0, t1, ok.Tsit5(), p, adjoint=adjoint, rtol=1e-7, atol=1e-9, max_steps=256)
        return jnp.sum(sol.y1["q"] ** 2)

    grad = jax.grad(end, (0, 1, 2))
    want = grad(POINT["y0"], POINT["args"], 2.0, ok.adjoint.Recorded())
    got = grad(POINT["y0"], POINT["args"], 2.0, ok.adjoint.Recorded(every=every))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def test_forward_mode_agrees_with_reverse_mode():
    def end(p, t0, t1, adjoint):
        y0 = POINT["y0"]
        sol = ok.solve(field, y0, t0, t1, ok.Dopri5(), p, adjoint=adjoint, rtol=1e-7, atol=1e-9, max_steps=256)
        return jnp.sum(sol.y1["q"] ** 2)

    at = (POINT["args"], jnp.array(0.1), jnp.array(2.0))
    reverse = jax.grad(lambda *x: end(*x, ok.adjoint.Recorded()), (0, 1, 2))(*at)
    forward = jax.jacfwd(lambda *x: end(*x, ok.adjoint.Forward()), (0, 1, 2))(*at)
    for a, b in zip(forward, reverse, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def ensemble(p, y0s, **options):
    def one(y0):
        return ok.solve(lambda t, y, p: -p * y**3 + jnp.sin(5 * t), y0, 0.0, 3.0, args=p, max_steps=128, **options).y1

    return jax.vmap(one)(y0s)


def test_gradients_under_vmap_equal_those_of_single_solves():
    y0s = jnp.linspace(0.1, 3.0, 70)
    lane = jax.jit(jax.grad(lambda p, y: ensemble(p, y[None])[0] ** 2, (0, 1)))
    summed = jax.jit(jax.grad(lambda p, ys: jnp.sum(ensemble(p, ys) ** 2), (0, 1)))(1.3, y0s)
    apart = jax.jit(jax.vmap(jax.grad(lambda p, y: ensemble(p, y[None])[0] ** 2, (0, 1)), (None, 0)))(1.3, y0s)
    for i in (0, 31, 69):
        want = lane(1.3, y0s[i])
        np.testing.assert_allclose(apart[0][i], want[0], rtol=1e-10)
        np.testing.assert_allclose(apart[1][i], want[1], rtol=1e-10)
        np.testing.assert_allclose(summed[1][i], want[1], rtol=1e-10)
    np.testing.assert_allclose(summed[0], jnp.sum(apart[0]), rtol=1e-10)


def test_a_failed_lane_leaves_the_gradients_of_the_others():
    def end(y0):
        sol = ok.solve(lambda t, y, args: jnp.where(y > 5, jnp.nan, y), y0, 0.0, 1.0, throw=False, max_steps=64)
        return sol.y1

    y0s = jnp.array([1.0, 4.0, 0.5])
    gradients = jax.vmap(jax.grad(end))(y0s)
    np.testing.assert_allclose(gradients[jnp.array([0, 2])], np.e, rtol=1e-4)
    assert np.isfinite(gradients[1])


def test_closed_over_values_are_differentiated():
    def end(p):
        return ok.solve(lambda t, y, args: -p * y, 1.0, 0.0, 1.0, rtol=1e-9, atol=1e-9).y1

    np.testing.assert_allclose(jax.grad(end)(0.7), -np.exp(-0.7), rtol=1e-8)
    np.testing.assert_allclose(jax.jit(jax.grad(end))(0.7), -np.exp(-0.7), rtol=1e-8)


def test_every_must_be_positive():
    with pytest.raises(ValueError, match=r"`every` was 0; give a positive number of steps, or None\."):
        ok.adjoint.Recorded(every=0)
