import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_sampling import FM, VE, VP, flow_error, mixture, numpy_view, run_by_hand

from odekit.learn import iia
from odekit.samplers import ddim, deis, dpmpp, sample, time_grid

X = jnp.asarray(np.random.default_rng(1).standard_normal((512, 2)))
BASES = {"ddim": ddim, "dpm": dpmpp, "edm": lambda s, ts: deis(s, ts, 1, "rhork")}


def test_errors_on_the_mixture():
    """Fitted on other starts, to ten small steps from the corrected states."""
    for n, printed in ((5, 0.142), (10, 0.0706), (20, 0.0380)):
        table = iia(mixture(VP), time_grid(VP, n, "logsnr"), X, target="local")
        value = flow_error(table, "VP")
        assert abs(value - printed) < 0.0006 * 10 ** np.ceil(np.log10(printed)), f"{n}: {value:.4e}, not {printed}"


def test_the_published_fit():
    """Two numbers a step from the normal equations, on the changes of data and noise prediction."""
    ts, data, noise = time_grid(VP, 4, "logsnr"), numpy_view(VP, "data"), numpy_view(VP, "noise")
    model, x, seen = mixture(VP), np.asarray(X), []
    for k in range(4):
        small = VP.t_of_lam(np.linspace(*VP.lam(ts[k : k + 2]), 11))
        wanted = run_by_hand(ddim(VP, small), data, x, None)
        seen.append((data(x, ts[k]), noise(x, ts[k])))
        new = VP.sigma(ts[k + 1]) * seen[k][1] + VP.alpha(ts[k + 1]) * seen[k][0]
        if k > 0:
            changes = np.stack([(now - before).ravel() for now, before in zip(seen[k], seen[k - 1], strict=True)])
            found = np.linalg.solve(changes @ changes.T, changes @ (wanted - new).ravel())
            new = new + (found @ changes).reshape(x.shape)
        x = new
    table = iia(model, ts, X, target="local", substeps=10)
    np.testing.assert_allclose(run_by_hand(table, data, np.asarray(X), None), x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", ["dpm", "edm"])
def test_starts_that_it_was_fitted_on_end_closer(kind):
    model, ts, data = mixture(VP), time_grid(VP, 10 if kind == "dpm" else 5, "logsnr"), numpy_view(VP, "data")
    end = run_by_hand(dpmpp(VP, time_grid(VP, 400, "logsnr"), 3), data, np.asarray(X), None)

    def error(table):
        return np.sqrt(np.mean((run_by_hand(table, numpy_view(VP, table.view), np.asarray(X), None) - end) ** 2))

    assert error(iia(model, ts, X, kind)) < 0.7 * error(BASES[kind](VP, ts))


@pytest.mark.slow
def test_nested_states_to_a_last_point_without_noise():
    """No evaluation more than the solver's own, and none where there is no noise."""
    kind, ts = "edm", time_grid(VE, 4, "karras", end="zero")
    x = {"a": 80.0 * X[:40].reshape(20, 2, 2), "b": 80.0 * X[40:60, 0]}

    class Model:
        schedule = VE

        def data(self, x, t, cond=None):
            return jax.tree.map(lambda leaf: jnp.tanh(leaf / (1 + t.astype(leaf.dtype))), x)

        def noise(self, x, t, cond=None):
            return jax.tree.map(lambda leaf, d: (leaf - d) / t.astype(leaf.dtype), x, self.data(x, t))

    table, base = iia(Model(), ts, x, kind), BASES[kind](VE, ts)
    assert table.nfe == base.nfe
    assert table.name == f"iia {kind}"
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(table))
    ends, plain = (sample(Model(), one, x) for one in (table, base))
    assert np.max(np.abs(ends["a"] - plain["a"])) > 1e-6


def test_from_pure_noise_to_none():
    table = iia(mixture(FM), time_grid(FM, 5), X)
    assert flow_error(table, "FM") < 0.5 * flow_error(ddim(FM, time_grid(FM, 5)), "FM")


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="`kind` is 'heun'"):
        iia(mixture(VP), [1.0, 0.5], X, "heun")
    with pytest.raises(ValueError, match="`target` is 'far'"):
        iia(mixture(VP), [1.0, 0.5], X, target="far")
