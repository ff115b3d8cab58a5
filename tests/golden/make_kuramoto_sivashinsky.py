"""Make kuramoto_sivashinsky.json: the solution at t = 30 by NumPy's ETDRK4, N = 256, h = 1/64.

Kassam & Trefethen, SIAM J. Sci. Comput. 26 (2005), 1214-1233: `u_t = -u u_x - u_xx - u_xxxx` on [0, 32 pi],
`u(0, x) = cos(x/16) (1 + sin(x/16))`, full complex spectra and contour means as printed there, nothing from the
package. Run as `python tests/golden/make_kuramoto_sivashinsky.py` from the root of the repository (a second).
"""

import json
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parent / "kuramoto_sivashinsky.json"


def solve(n, h, t1):
    x = 32 * np.pi * np.arange(n) / n
    v = np.fft.fft(np.cos(x / 16) * (1 + np.sin(x / 16)))
    k = np.concatenate([np.arange(n // 2), [0], np.arange(1 - n // 2, 0)]) / 16
    rates = k**2 - k**4
    rates[n // 2] = (n / 32) ** 2 - (n / 32) ** 4  # the derivative of odd order alone drops the Nyquist mode
    e, e2 = np.exp(h * rates), np.exp(h * rates / 2)
    points = np.exp(1j * np.pi * (np.arange(1, 33) - 0.5) / 32)
    z = h * rates[:, None] + points[None]
    q = h * np.mean((np.exp(z / 2) - 1) / z, axis=1).real
    f1 = h * np.mean((-4 - z + np.exp(z) * (4 - 3 * z + z**2)) / z**3, axis=1).real
    f2 = h * np.mean((2 + z + np.exp(z) * (z - 2)) / z**3, axis=1).real
    f3 = h * np.mean((-4 - 3 * z - z**2 + np.exp(z) * (4 - z)) / z**3, axis=1).real
    g = -0.5j * k

    def nonlinear(v):
        return g * np.fft.fft(np.fft.ifft(v).real ** 2)

    for _ in range(round(t1 / h)):
        nv = nonlinear(v)
        a = e2 * v + q * nv
        na = nonlinear(a)
        nb = nonlinear(e2 * v + q * na)
        nc = nonlinear(e2 * a + q * (2 * nb - nv))
        v = e * v + nv * f1 + 2 * (na + nb) * f2 + nc * f3
    return np.fft.ifft(v).real


if __name__ == "__main__":
    values = solve(256, 1 / 64, 30.0)
    TARGET.write_text(json.dumps({"t": 30.0, "u": [float(f"{u:.12g}") for u in values]}) + "\n")
