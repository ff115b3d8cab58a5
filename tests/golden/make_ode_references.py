"""Make ode_references.json: end values by SciPy's DOP853 at its tightest tolerance, with what two runs agree to.

Run as `python tests/golden/make_ode_references.py` from the root of the repository (one minute).
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from scipy.integrate import solve_ivp

HERE = Path(__file__).parent
TARGET = HERE / "ode_references.json"
TIGHTEST = 2.3e-14


def main():
    jax.config.update("jax_enable_x64", True)
    if not TARGET.exists():
        TARGET.write_text("{}")
    sys.path.insert(0, str(HERE.parent))
    from cases import DETEST, PLEIADES, VAN_DER_POL

    references = {}
    for case in (*DETEST, PLEIADES, VAN_DER_POL):
        f = jax.jit(lambda t, y, f=case.f: f(t, y, None))
        ends = []
        for rtol in (TIGHTEST, 10 * TIGHTEST):
            run = solve_ivp(
                lambda t, y, f=f: np.asarray(f(t, y)),
                (case.t0, case.t1),
                case.y0,
                method="DOP853",
                rtol=rtol,
                atol=1e-16 if rtol == TIGHTEST else 1e-15,
            )
            ends.append(run.y[:, -1])
        references[case.name] = ends[0].tolist()
        print(f"{case.name:12s} two tolerances agree to {np.max(np.abs(ends[0] - ends[1])):.1e}")
    TARGET.write_text(json.dumps(references, indent=1) + "\n")


if __name__ == "__main__":
    main()
