"""`init`, `step`, `finish` take the steps of one `solve`, to the bit, however they are cut and wherever they pause."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok

START = jnp.array([1.0, 1.0])
TIGHT = {"rtol": 1e-7, "atol": 1e-7}


def proceed(state, n):
    while int(state.result) == ok.Result.UNFINISHED:
        state = ok.step(cases.lotka_volterra, state, n=n)
    return state


def assert_same(got, want):
    for name in ("t1", "y1", "result"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    for name in ("accepted", "rejected"):
        np.testing.assert_array_equal(got.stats[name], want.stats[name])


@pytest.mark.parametrize("n", [1, 7, 1000])
@pytest.mark.parametrize("ends", [(0.0, 3.0), (3.0, -1.0)], ids=["forward", "backward"])
def test_pieces_are_one_solve_to_the_bit(n, ends):
    state = ok.init(cases.lotka_volterra, START, *ends, **TIGHT)
    assert_same(ok.finish(proceed(state, n)), ok.solve(cases.lotka_volterra, START, *ends, **TIGHT))


def test_pieces_under_vmap():
    y0 = jnp.stack([jnp.linspace(0.5, 1.5, 4), jnp.linspace(2.0, 1.0, 4)], axis=1)
    t1 = jnp.array([0.5, 1.0, 2.0, 3.0])
    whole = jax.vmap(lambda y, t: ok.solve(cases.lotka_volterra, y, 0.0, t, **TIGHT))(y0, t1)
    state = jax.vmap(lambda y, t: ok.init(cases.lotka_volterra, y, 0.0, t, **TIGHT))(y0, t1)
    ahead = jax.jit(jax.vmap(lambda s: ok.step(cases.lotka_volterra, s, n=5)))
    for _ in range(100):
        state = ahead(state)
    assert np.all(state.done)
    assert_same(ok.finish(state), whole)


def test_a_saved_state_resumes_to_the_bit():
    state = ok.step(cases.lotka_volterra, ok.init(cases.lotka_volterra, START, 0.0, 3.0, **TIGHT), n=9)
    leaves, tree = jax.tree.flatten(state)
    saved = [np.asarray(leaf).tobytes() for leaf in leaves]
    loaded = [
        jnp.asarray(np.frombuffer(b, leaf.dtype).reshape(leaf.shape)) for b, leaf in zip(saved, leaves, strict=True)
    ]
    resumed = proceed(jax.tree.unflatten(tree, loaded), 64)
    assert 0 < float(state.t) < 3
    assert_same(ok.finish(resumed), ok.solve(cases.lotka_volterra, START, 0.0, 3.0, **TIGHT))


def test_a_state_at_its_end_stays():
    state = proceed(ok.init(cases.lotka_volterra, START, 0.0, 1.0), 64)
    again = ok.step(cases.lotka_volterra, state)
    for a, b in zip(jax.tree.leaves(state.lanes[:-1]), jax.tree.leaves(again.lanes[:-1]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (float(again.t), bool(again.done)) == (1.0, True)


def test_progress_is_told_in_thousandths_and_changes_nothing():
    told = []
    options = {"rtol": 1e-10, "atol": 1e-10}
    sol = ok.solve(cases.lorenz, jnp.ones(3), 0.0, 8.0, progress=lambda *told_now: told.append(told_now), **options)
    shares = [done for done, _, _ in told]
    assert len(told) > 2
    assert shares == sorted(shares)
    assert (told[-1][:2], told[-1][2].split(",")[0]) == ((1000, 1000), "t=8")
    assert_same(sol, ok.solve(cases.lorenz, jnp.ones(3), 0.0, 8.0, **options))


def test_progress_refuses_what_it_cannot_watch():
    with pytest.raises(ValueError, match="progress"):
        ok.solve(cases.lotka_volterra, START, 0.0, 1.0, n_steps=4, progress=print)


def test_a_solve_under_way_is_no_failure():
    sol = ok.finish(ok.step(cases.lotka_volterra, ok.init(cases.lotka_volterra, START, 0.0, 3.0), n=2))
    assert (int(sol.result), int(sol.stats["accepted"])) == (ok.Result.UNFINISHED, 2)
    assert 0 < float(sol.t1) < 3


def test_a_failing_solve_is_reported():
    def pole(t, y, args):
        return y**2

    state = ok.step(pole, ok.init(pole, jnp.array(1.0), 0.0, 2.0), n=100_000)
    np.testing.assert_allclose(state.t, 1.0, rtol=1e-3)
    with pytest.raises(ok.SolveError, match="stopped at t="):
        ok.finish(state)
    assert int(ok.finish(state, throw=False).result) == int(state.result) > 0
    short = ok.step(cases.lotka_volterra, ok.init(cases.lotka_volterra, START, 0.0, 3.0, max_steps=3))
    with pytest.raises(ok.SolveError, match="max_steps"):
        ok.finish(short)
