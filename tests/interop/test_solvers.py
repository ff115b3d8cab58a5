"""diffrax's solvers as methods of `solve`."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest

import odekit as ok


def decay(t, y, args):
    return -1.3 * y


def test_an_implicit_solver_in_float32_gets_newton():
    """The root finder that diffrax gives it by default rejects every step of this problem in float32."""
    sol = ok.solve(decay, jnp.float32(1.0), 0.0, 1.0, diffrax.Kvaerno5(), rtol=1e-5, atol=1e-6, saveat=[0.0, 0.4, 1.0])
    np.testing.assert_allclose(sol.ys, np.exp(-1.3 * sol.ts), atol=3e-5)
    assert sol.ys.dtype == jnp.float32
    assert sol.method == "Kvaerno5"
    assert int(sol.stats["accepted"]) < 30
    assert int(sol.stats["rejected"]) < 5


def test_a_root_finder_of_ones_own_is_kept():
    """A chord that is content with 10 % leaves its mark on the error."""
    chord = diffrax.Kvaerno3(root_finder=diffrax.VeryChord(rtol=0.1, atol=0.1, norm=optimistix.rms_norm))

    def run(method):
        return ok.solve(lambda t, y, args: -5 * y**3, 1.0, 0.0, 1.0, method, n_steps=8)

    np.testing.assert_allclose(run(diffrax.Kvaerno3()).y1, 11**-0.5, rtol=1e-2)
    with pytest.raises(ok.SolveError, match=r"^`method` Kvaerno3 stopped at t=0.125: Nonlinear solve diverged."):
        run(chord)


def test_a_split_solver_takes_a_semilinear_problem():
    problem = ok.SemiLinear(jnp.array([-40.0, -1.0]), lambda t, y, args: args * jnp.sin(y[::-1]))
    y0 = jnp.array([1.0, 0.5])
    sol = ok.solve(problem, y0, 0.0, 1.0, diffrax.KenCarp4(), 0.7, rtol=1e-7, atol=1e-9)
    want = ok.solve(problem, y0, 0.0, 1.0, ok.Tsit5(), 0.7, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(sol.y1, want.y1, rtol=1e-5)
    with pytest.raises(
        TypeError, match=r"^`method` KenCarp4 needs `problem` to be a SemiLinear\(linear, nonlinear\).$"
    ):
        ok.solve(decay, 1.0, 0.0, 1.0, diffrax.KenCarp4())


def test_saved_values_and_dense_output_are_laid_out_as_ours():
    saveat = ok.SaveAt([0.2, 0.9], t0=True, t1=True, steps=True, dense=True, fn=lambda t, y, args: 2 * y)

    def run(method):
        return ok.solve(decay, 1.0, 0.0, 1.0, method, rtol=1e-8, atol=1e-10, dt0=0.1, saveat=saveat, max_steps=40)

    ours, theirs = run(ok.Dopri5()), run(diffrax.Dopri5())
    assert ours.ts.shape == theirs.ts.shape == (44,)
    np.testing.assert_allclose(theirs.ys[:3], 2 * np.exp(-1.3 * theirs.ts[:3]), rtol=1e-5)
    assert np.array_equal(np.isnan(theirs.ys), np.isinf(theirs.ts))
    np.testing.assert_allclose(theirs([0.3, 0.5]), ours([0.3, 0.5]), rtol=1e-6)
    assert float(theirs.t1) == 1.0


@pytest.mark.parametrize("grid", [{"n_steps": 8}, {"dt": 0.125}, {"dt": np.full(8, 0.125)}], ids=str)
def test_fixed_grids(grid):
    sol = ok.solve(decay, jnp.ones(2), 1.0, 0.0, diffrax.Heun(), **grid)
    want = ok.solve(decay, jnp.ones(2), 1.0, 0.0, ok.Heun(), **grid)
    np.testing.assert_allclose(sol.y1, want.y1, rtol=1e-13)
    assert int(sol.stats["accepted"]) == 8


def test_an_implicit_solver_on_a_fixed_grid_and_its_gradient():
    def run(rate):
        problem = ok.ODE(lambda t, y, args: -args * y)
        return ok.solve(problem, 1.0, 0.0, 1.0, diffrax.Kvaerno3(), rate, n_steps=16, rtol=1e-10, atol=1e-12).y1

    value, slope = jax.value_and_grad(run)(jnp.array(1.3))
    np.testing.assert_allclose((value, slope), (np.exp(-1.3), -np.exp(-1.3)), rtol=1e-4)


def test_lanes_and_failures():
    def run(rate, **options):
        return ok.solve(lambda t, y, args: -args * y, 1.0, 0.0, 1.0, diffrax.Dopri5(), rate, max_steps=12, **options)

    rates = jnp.array([1.0, 2000.0])
    assert jax.vmap(run)(rates).result.tolist() == [ok.Result.SUCCESS, ok.Result.MAX_STEPS]
    with pytest.raises(ok.SolveError, match="used up max_steps"):
        run(2000.0)
    with pytest.raises(RuntimeError, match="maximum number of solver steps"):
        run(2000.0, throw="traced")


def test_what_is_not_handed_over():
    noisy = ok.SDE(decay, decay)
    with pytest.raises(
        ValueError, match=r"^`method` Euler has no error estimate; give n_steps or dt, or a method that"
    ):
        ok.solve(decay, 1.0, 0.0, 1.0, diffrax.Euler())
    for method, problem in ((diffrax.SemiImplicitEuler(), decay), (diffrax.Heun(), noisy)):
        with pytest.raises(TypeError, match=r"is not handed to diffrax; call diffeqsolve.$"):
            ok.solve(problem, 1.0, 0.0, 1.0, method, n_steps=4)
    for name, value in (("event", ok.Event(lambda t, y, args: y - 0.5)), ("key", jax.random.key(0))):
        with pytest.raises(ValueError, match=rf"^`{name}` was given with a method of another library; drop it, or"):
            ok.solve(decay, 1.0, 0.0, 1.0, diffrax.Tsit5(), **{name: value})
    with pytest.raises(TypeError, match=r"^`method` was str; give a method of odekit such as Tsit5\(\).$"):
        ok.solve(decay, 1.0, 0.0, 1.0, "tsit5")
