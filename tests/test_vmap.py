"""`vmap` of a solve is the loop over lanes: any nesting, any batched argument, the same numbers as single solves."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok
from odekit import SaveAt

RATES = jnp.linspace(0.5, 2.0, 5)
STARTS = jnp.stack([jnp.linspace(0.5, 1.5, 5), jnp.linspace(2.0, 1.0, 5)], axis=1)


def solve(y0, rate, **options):
    args = (rate, jnp.array(1.0), jnp.array(3.0), jnp.array(1.0))
    return ok.solve(cases.lotka_volterra, y0, 0.0, 3.0, args=args, **({"rtol": 1e-6, "atol": 1e-6} | options))


def loop(fn, *batches):
    return jax.tree.map(lambda *xs: jnp.stack(xs), *[fn(*lane) for lane in zip(*batches, strict=True)])


def assert_close(got, want):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "options",
    [{}, {"saveat": [0.0, 1.0, 3.0]}, {"saveat": SaveAt(steps=True), "max_steps": 60}, {"n_steps": 20}],
    ids=["end", "times", "steps", "fixed"],
)
def test_vmap_is_a_loop_of_single_solves(options):
    assert_close(
        jax.vmap(lambda y, r: solve(y, r, **options))(STARTS, RATES),
        loop(lambda y, r: solve(y, r, **options), STARTS, RATES),
    )


def test_nested_vmap():
    single = jax.jit(lambda y, r: solve(y, r).y1)
    both = jax.vmap(lambda r: jax.vmap(lambda y: solve(y, r).y1)(STARTS))(RATES[:3])
    assert both.shape == (3, 5, 2)
    assert_close(both, jnp.stack([loop(lambda y, r=r: single(y, r), STARTS) for r in RATES[:3]]))


def test_three_axes_one_of_them_last():
    single = jax.jit(lambda y, r: solve(y, r).y1)
    y0 = jnp.broadcast_to(STARTS.T[:, None, :], (2, 3, 5))
    out = jax.vmap(jax.vmap(solve, in_axes=(-1, 0), out_axes=0), in_axes=(1, None))(y0, RATES).y1
    assert out.shape == (3, 5, 2)
    assert_close(out[1], loop(single, STARTS, RATES))


@pytest.mark.parametrize("name", ["t0", "t1", "dt0", "rtol", "atol"])
def test_any_number_can_be_batched(name):
    values = {
        "t0": jnp.array([0.0, 0.2, -0.3]),
        "t1": jnp.array([3.0, 0.0, -1.0]),
        "dt0": jnp.array([0.1, 0.01, 1.0]),
        "rtol": jnp.array([1e-3, 1e-6, 1e-9]),
        "atol": jnp.array([1e-3, 1e-6, 1e-9]),
    }[name]

    def one(value):
        numbers = {"t0": 0.0, "t1": 3.0} | {name: value}
        t0, t1 = numbers.pop("t0"), numbers.pop("t1")
        return ok.solve(cases.lotka_volterra, STARTS[0], t0, t1, **numbers)

    assert_close(jax.vmap(one)(values), loop(one, values))


def test_tolerances_of_each_entry_can_be_batched():
    atol = jnp.array([[1e-3, 1e-6], [1e-6, 1e-3], [1e-8, 1e-8]])

    def one(atol):
        return ok.solve(cases.lotka_volterra, STARTS[0], 0.0, 3.0, rtol=0.0, atol=atol)

    assert_close(jax.vmap(one)(atol), loop(one, atol))


def test_save_times_can_be_batched():
    ts = jnp.array([[0.0, 1.0], [0.5, 3.0], [2.0, 2.0]])

    def one(ts):
        return ok.solve(cases.lotka_volterra, STARTS[0], 0.0, 3.0, saveat=ts)

    assert_close(jax.vmap(one)(ts), loop(one, ts))


def test_coefficients_can_be_batched():
    def one(c):
        method = ok.RungeKutta(
            a=((c,),), b=(1 - 0.5 / c, 0.5 / c), c=(jnp.zeros(()), c), b_err=(-0.5 / c, 0.5 / c), order=2
        )
        return ok.solve(cases.smooth, jnp.array([0.5, 3.0]), 0.0, 1.5, method, rtol=1e-4, atol=1e-4)

    c = jnp.array([0.5, 2 / 3, 1.0])
    assert_close(jax.vmap(one)(c), loop(one, c))


def test_more_lanes_than_a_block_holds():
    y0 = jnp.stack([jnp.linspace(0.5, 1.5, 300), jnp.linspace(2.0, 1.0, 300)], axis=1)
    many = jax.vmap(lambda y: solve(y, RATES[0]))(y0)
    few = jax.vmap(lambda y: solve(y, RATES[0]))(y0[::50])
    assert_close(jax.tree.map(lambda x: x[::50], many), few)


def test_closed_over_batches():
    out = jax.vmap(lambda r: ok.solve(lambda t, y, args: -r * y, 1.0, 0.0, 1.0, rtol=1e-9, atol=1e-9).y1)(RATES)
    np.testing.assert_allclose(out, np.exp(-RATES), rtol=1e-7)
