"""Every method and table names its publication, as BibTeX too."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odekit as ok
from odekit.samplers import TABLES
from odekit.solvers import METHODS

PLAIN = ok.samplers.V3Statistics(np.linspace(-12.0, 12.0, 5), np.ones(5), np.zeros(5), np.zeros(5))
FIELD = re.compile(r"  (\w+) = \{(.+)\},")


def parsed(entry):
    lines = entry.split("\n")
    kind, key = re.fullmatch(r"@(\w+)\{(\w+),", lines[0]).groups()
    assert lines[-1] == "}"
    return kind, key, dict(FIELD.fullmatch(line).groups() for line in lines[1:-1])


@pytest.mark.parametrize("make", METHODS, ids=lambda make: make.__name__)
def test_methods(make):
    method = make()
    for part, entry in zip(method.source.split("; "), ok.cite(method).split("\n\n"), strict=True):
        _, key, fields = parsed(entry)
        assert fields["note"] == method.name
        assert part.startswith(fields["author"].split(" and ")[0])
        assert fields["year"] in part
        assert key.endswith(fields["year"])


@pytest.mark.parametrize("make", TABLES, ids=lambda make: make.__name__)
def test_tables(make):
    schedule = ok.schedules.VPLinear()
    given = {ok.samplers.dpm_v3: {"statistics": PLAIN}}
    table = make(schedule, ok.time_grid(schedule, 4), **given.get(make, {}))
    _, _, fields = parsed(ok.cite(table))
    assert 1760 < int(fields["year"]) < 2030
    assert table.source.startswith(fields["author"].split(" and ")[0])


def test_an_article_in_full():
    assert ok.cite(ok.Dopri5()) == (
        "@article{dormand1980,\n  author = {Dormand and Prince},\n  journal = {J. Comput. Appl. Math.},\n"
        "  volume = {6},\n  year = {1980},\n  pages = {19--26},\n  note = {Dopri5},\n}"
    )


def test_a_solution_is_cited_by_its_method():
    sol = ok.solve(lambda t, y, args: -y, 1.0, 0.0, 1.0)
    assert ok.cite(sol) == ok.cite(ok.Tsit5())


def test_numbers_of_your_own():
    mine = ok.RungeKutta(a=((1.0,),), b=(0.5, 0.5), c=(0.0, 1.0))
    assert ok.cite(mine) == "% RungeKutta: coefficients of your own, nothing to cite"
    with pytest.raises(TypeError, match=r"`what` was float; give a solution, a method or a table\."):
        ok.cite(1.0)


def ends(rates):
    """Lanes of y' = rate y^2 from 1: those of a rate above 1 have a pole before t = 1."""

    def one(rate):
        sol = ok.solve(lambda t, y, args: {"y": args * y["y"] ** 2}, {"y": jnp.ones(2)}, 0.0, 1.0, args=rate)
        return ok.finite_or(sol, {"y": -1.0})["y"]

    return jax.vmap(one)(rates)


def test_failed_lanes_are_filled_and_leave_no_gradient():
    rates = jnp.array([0.5, 2.0, -1.0])
    value, slopes = jax.value_and_grad(lambda rates: jnp.sum(ends(rates)))(rates)
    np.testing.assert_allclose(ends(rates), np.array([[2.0] * 2, [-1.0] * 2, [0.5] * 2]), rtol=1e-4)
    assert np.isfinite(value)
    np.testing.assert_allclose(slopes, [8.0, 0.0, 0.5], rtol=1e-3)


def test_the_fill_of_a_batch_and_of_one_solve():
    sol = jax.vmap(lambda y: ok.solve(lambda t, y, args: y**2, y, 0.0, 1.0, throw=False))(jnp.array([0.5, 2.0]))
    np.testing.assert_allclose(ok.finite_or(sol, jnp.inf), [1.0, np.inf], rtol=1e-4)
    assert "It had taken" in sol.message(1)
    assert sol.message(0) == "The solve reached t1."
