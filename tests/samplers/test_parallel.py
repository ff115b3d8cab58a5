"""A table in wide calls: the same sample as row by row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import FM, VP, mixture, starts, toy

from odekit.samplers import ddim, heun, sa, sample, sample_parallel, time_grid

X, KEY = jnp.asarray(starts()), jax.random.key(3)
GRID = time_grid(VP, 50)


def test_fifty_rows_of_ddim_in_fourteen_rounds():
    model, table = mixture(VP), ddim(VP, GRID)
    want = sample(model, table, X)
    seen = [sample_parallel(model, table, X, tol=tol) for tol in (1e-1, 1e-3, 1e-6)]
    assert [int(s.rounds) for s in seen] == [12, 14, 17]
    off = [float(jnp.max(jnp.abs(s.x - want))) for s in seen]
    assert off[0] < 2e-2
    assert off[1] < 3e-4
    assert off[2] < 1e-6
    assert all(50 < int(s.evaluations) < 50 * int(s.rounds) for s in seen)


@pytest.mark.parametrize("window", [1, 7])
def test_windows(window):
    model, table = mixture(VP), ddim(VP, GRID)
    got = sample_parallel(model, table, X, window=window, tol=1e-8)
    np.testing.assert_allclose(got.x, sample(model, table, X), atol=1e-8)
    assert int(got.rounds) == 50 if window == 1 else int(got.rounds) < 40


TABLES = {
    "noise, history and a corrector": (sa(VP, time_grid(VP, 12), 3, corrector=4), None),
    "two rows a step, projected": (heun(VP, time_grid(VP, 12)), lambda x, t: jnp.clip(x, -1.5, 1.5)),
}


@pytest.mark.parametrize("name", TABLES)
def test_any_table_with_the_noise_of_its_rows(name):
    table, project = TABLES[name]
    model, key = toy(VP, table.view), KEY if table.stochastic else None
    got = sample_parallel(model, table, X, window=8, tol=1e-9, key=key, project=project)
    np.testing.assert_allclose(got.x, sample(model, table, X, key=key, project=project), atol=1e-8)


def test_it_ends_where_rounding_is_all_that_changes():
    table = ddim(FM, time_grid(FM, 20))
    x = jnp.asarray(starts(), jnp.float32)
    got = sample_parallel(mixture(FM), table, x, tol=1e-12)
    np.testing.assert_allclose(got.x, sample(mixture(FM), table, x), atol=2e-6)
    assert int(got.rounds) < 20


def test_mistakes_are_named():
    for given, name in (({"window": 0}, "`window` is 0"), ({"tol": 0.0}, "`tol` is 0.0")):
        with pytest.raises(ValueError, match=name):
            sample_parallel(mixture(VP), ddim(VP, GRID), X, **given)
