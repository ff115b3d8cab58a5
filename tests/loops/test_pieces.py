"""Saved times of ensembles: what many lanes read off the record as they go is what each lane reads alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok

LANES, TIMES, T1 = 150, 100, 2.0  # more lanes than a block, more times than are stored together
SPEEDS = jnp.linspace(1.0, 60.0, LANES)  # 20 to 700 steps: some lanes end in their first piece
FAILS = jnp.where(jnp.arange(LANES) % 7 == 3, jnp.linspace(0.2, 1.5, LANES), jnp.inf)
GRID = jnp.linspace(0.0, T1, TIMES - 4)
SHARED = jnp.sort(jnp.concatenate([GRID, jnp.array([0.0, T1, T1 / 3, T1 / 3])]))


def turning(t, y, args):
    """A rotation that grows in time, in a nested state; undefined from some time on."""
    speed, fails = args
    x, z = y["plane"]["x"], y["height"]
    dx = speed * (1 + 0.1 * z) * jnp.stack([-x[1], x[0]])
    poison = jnp.where(jnp.abs(t) > fails, jnp.nan, 0)
    return {"plane": {"x": dx + poison}, "height": jnp.sin(t) - 0.1 * z}


def start(speed):
    return {"plane": {"x": jnp.stack([jnp.ones_like(speed), 0.01 * speed])}, "height": 0.1 * speed}


def solve(speed, fails, ts, sign, method):
    return ok.solve(
        turning, start(speed), 0.0, sign * T1, method, (speed, fails), rtol=1e-6, atol=1e-6, saveat=ts, throw=False
    )


def times(kind):
    """Save times and their vmap axis."""
    if kind == "backward":
        return -SHARED, None
    if kind == "own":  # lanes with fewer observations are filled up with NaN
        own = jnp.sort(jax.random.uniform(jax.random.key(0), (LANES, TIMES), maxval=T1), axis=1)
        few = jnp.arange(LANES)[:, None] % TIMES
        return jnp.where(jnp.arange(TIMES)[None] < few, own, jnp.nan), 0
    if kind == "unsorted":
        return jax.random.permutation(jax.random.key(1), SHARED), None
    return SHARED, None


CASES = [(kind, ok.Dopri5) for kind in ("shared", "own")]
CASES += [pytest.param(kind, ok.Dopri5, marks=pytest.mark.slow) for kind in ("backward", "unsorted")]
SLOW = (ok.DOP853, ok.Rodas5P, ok.AutoSwitch)
CASES += [pytest.param("shared", method, marks=pytest.mark.slow) for method in SLOW]


@pytest.mark.parametrize(("kind", "method"), CASES, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_saves_of_many_lanes_are_those_of_each(kind, method):
    ts, axis = times(kind)
    sign = -1.0 if kind == "backward" else 1.0

    def one(speed, fails, ts):
        return solve(speed, fails, ts, sign, method())

    many = jax.device_get(jax.jit(jax.vmap(one, (0, 0, axis)))(SPEEDS, FAILS, ts))
    alone = jax.jit(one)
    some = range(0, LANES, 1 if method is ok.Dopri5 else 15)
    for i in some:
        own = alone(SPEEDS[i], FAILS[i], ts if axis is None else ts[i])
        lane = jax.tree.map(lambda x, i=i: x[i], many)
        assert lane.result == own.result
        for a, b in zip(jax.tree.leaves(lane.ys), jax.tree.leaves(own.ys), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)

    seen = np.abs(np.broadcast_to(ts, (LANES, TIMES))) <= np.abs(many.t1)[:, None]
    np.testing.assert_array_equal(np.isfinite(many.ys["height"]), seen)
    assert (many.result == 0).sum() == np.isinf(FAILS).sum()


def test_saves_of_a_field_that_is_no_part_of_one_kernel():
    turn = jnp.array([[0.0, -1.0], [1.0, 0.0]])

    def one(speed):
        y0 = jnp.array([1.0, 0.0])
        return ok.solve(lambda t, y, args: args * (turn @ y), y0, 0.0, T1, args=speed, saveat=SHARED).ys

    many, alone = jax.jit(jax.vmap(one))(SPEEDS), jax.jit(one)
    for i in range(0, LANES, 37):
        np.testing.assert_allclose(many[i], alone(SPEEDS[i]), rtol=1e-9, atol=1e-11)


def test_saves_take_no_memory_for_the_steps():
    lanes, max_steps = 1024, 100_000

    def one(speed):
        return ok.solve(
            turning, start(speed), 0.0, T1, args=(speed, jnp.inf), saveat=SHARED, max_steps=max_steps, throw=False
        ).ys

    speeds = jnp.linspace(1.0, 60.0, lanes)
    memory = jax.jit(jax.vmap(one)).lower(speeds).compile().memory_analysis()
    assert memory is not None
    bytes_of_a_lane = 3 * 8
    assert memory.temp_size_in_bytes < 5 * lanes * TIMES * bytes_of_a_lane < max_steps * lanes * bytes_of_a_lane / 100
