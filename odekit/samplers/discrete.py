"""Time grids of networks trained with discrete steps, as published checkpoints expect them."""

import numpy as np

from odekit.schedules import DiscreteVP


def discrete_grid(
    schedule: DiscreteVP,
    n: int,
    spacing: str = "leading",
    *,
    steps_offset: int = 0,
    end: str = "zero",
    drop_last: bool = False,
) -> np.ndarray:
    """Return n+1 times from noise to data, the first n of them training steps, as published checkpoints expect.

    Training step k of N is time (k+1)/N; the network wants k, which is `N t - 1`.

    Args:
        schedule: what `from_betas` made of N rates.
        n: number of steps, at most N.
        spacing: "leading": multiples of N // n, which never reach the noisiest step; "trailing": from the noisiest
            step down, which networks with no data at t=1 need; "linspace": both ends, rounded.
        steps_offset: added to the steps of "leading"; 1 for latent diffusion.
        end: "zero": the last target has no noise ("set alpha to one"); "min": it is step 0.
        drop_last: whether "leading" and "linspace" spread n+1 steps and drop the last, as multistep schedulers do.

    Returns:
        (n+1,) float64.

    Raises:
        ValueError: n is not between 1 and N, spacing or end is none of the above, or times repeat.

    Example:
        >>> from odekit.schedules import betas, from_betas
        >>> discrete_grid(from_betas(betas("scaled_linear")), 4, steps_offset=1).tolist()
        [0.752, 0.502, 0.252, 0.002, 0.0]

    Source: Lin, Liu, Li & Yang, WACV 2024, table 2 (arXiv 2305.08891).
    """
    steps = schedule.n
    if not 1 <= n <= steps:
        raise ValueError(f"`n` is {n}; it must be between 1 and the {steps} steps of the schedule.")
    if spacing not in ("leading", "trailing", "linspace"):
        raise ValueError(f"`spacing` is {spacing!r}; it must be 'leading', 'trailing' or 'linspace'.")
    if end not in ("min", "zero"):
        raise ValueError(f"`end` is {end!r}; it must be 'min' or 'zero'.")
    spread = n + drop_last
    if spacing == "trailing":
        k = np.round(steps - np.arange(n) * (steps / n)) - 1
    elif spacing == "leading":
        k = np.arange(spread)[::-1][:n] * (steps // spread) + float(steps_offset)
    else:
        k = np.round(np.linspace(0, steps - 1, spread))[::-1][:n]
    ts = np.append((k + 1) / steps, 0.0 if end == "zero" else 1 / steps)
    if not np.all(np.diff(ts) < 0):
        i = 1 + int(np.argmin(np.diff(ts) < 0))
        raise ValueError(f"`n` is {n}, with which the time {ts[i]:g} repeats; end at 'zero', or take fewer steps.")
    return ts
