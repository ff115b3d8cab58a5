"""The noise schedules and the discrete grids that a published scheduler_config.json names."""

import numpy as np

from odekit.errors import require_one_of
from odekit.samplers import discrete_grid, time_grid
from odekit.schedules import EDM, DiscreteVP, betas, from_betas, zero_terminal_snr


def variance_preserving(settings: dict) -> DiscreteVP:
    """Return the schedule through the betas of the settings, at times (index + 1) / number of training steps."""
    kind, rates = settings["beta_schedule"], settings["trained_betas"]
    require_one_of("beta_schedule", kind, ("linear", "scaled_linear", "squaredcos_cap_v2"))
    if rates is None and kind == "squaredcos_cap_v2":
        rates = betas("cosine", settings["num_train_timesteps"])
    elif rates is None:
        rates = betas(kind, *(settings[key] for key in ("num_train_timesteps", "beta_start", "beta_end")))
    return from_betas(zero_terminal_snr(rates) if settings.get("rescale_betas_zero_snr") else rates)


def indices(settings: dict, schedule: DiscreteVP, n: int, spare: int, used: int | None = None) -> np.ndarray:
    """Return n training steps from noise to data, real numbers where "linspace" has them.

    Args:
        settings: spacing and offset.
        schedule: made of the settings.
        n: number of steps.
        spare: how many more points the spacing has, which are left out at the end next to data; 0 or 1.
        used: how many training steps are used; None for all.
    """
    spacing, used = settings["timestep_spacing"], used or schedule.n
    if spacing == "linspace":
        points = np.linspace(0, used - 1, n + spare)[::-1][:n]
        return np.round(points) if spare else points
    if used < schedule.n:
        raise ValueError(
            "`config` has a `lambda_min_clipped` that cuts training steps off; set `timestep_spacing` to 'linspace'."
        )
    ts = discrete_grid(schedule, n, spacing, steps_offset=settings["steps_offset"], drop_last=spare == 1)
    return np.round(schedule.n * ts[:-1]) - 1


def index_steps(settings: dict, schedule: DiscreteVP, n: int) -> np.ndarray:
    """Return (n, 2) starts and ends of the steps of DDIM and PNDM, which have one length and may not meet."""
    starts, last = np.round(indices(settings, schedule, n, 0)), -1 if settings["set_alpha_to_one"] else 0
    ends = starts - schedule.n // n
    return (np.stack([starts, np.where(ends < 0, last, ends)], axis=1) + 1) / schedule.n


def level_times(settings: dict, schedule: DiscreteVP, n: int, spare: int, final: str) -> np.ndarray:
    """Return the times of the noise levels sigma / alpha that the settings describe, and of a last one.

    Args:
        settings: spacing of training steps and levels, and bounds.
        schedule: made of the settings.
        n: number of steps.
        spare: as for `indices`; with 1 the levels may also reach over all training steps, not those chosen.
        final: "zero", or "sigma_min" for the level of the first training step.
    """
    total = schedule.n
    every = np.exp(-schedule.lam(np.arange(1, total + 1) / total))
    every[-1] = min(every[-1], 2.0**12)  # where no signal is left, levels are spaced below the square root of 2**24
    used = int(np.sum(-np.log(every) >= settings.get("lambda_min_clipped", -np.inf)))
    index = indices(settings, schedule, n, spare, used)
    chosen = np.interp(index, np.arange(total), every)
    low, high = (every[0], every[-1]) if spare else (chosen[-1], chosen[0])
    levels = respaced(settings, chosen, settings.get("sigma_min") or low, settings.get("sigma_max") or high)
    whole = (levels == chosen) & (index == np.round(index))
    ts = np.where(whole, (index + 1) / total, schedule.t_of_lam(-np.log(levels)))
    require_one_of("final_sigmas_type", final, ("zero", "sigma_min"))
    if final == "sigma_min" and levels[-1] < every[0] * (1 + 1e-9):
        raise ValueError("`config` ends with a step of length zero; set final_sigmas_type='zero', or another spacing.")
    return np.append(ts, 0.0 if final == "zero" else 1 / total)


def respaced(settings: dict, levels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return as many levels between `high` and `low` as there are, spaced as the settings ask for."""
    spacing = "karras" if settings.get("use_karras_sigmas") else "logsnr"
    if settings.get("use_beta_sigmas"):
        from scipy.special import betaincinv  # JAX brings SciPy; importing odekit does not load it

        return low + betaincinv(0.6, 0.6, np.linspace(1.0, 0.0, len(levels))) * (high - low)
    if spacing == "karras" or settings.get("use_exponential_sigmas") or settings.get("use_lu_lambdas"):
        rho = settings.get("rho") if spacing == "karras" else None
        return time_grid(EDM(high, low), max(len(levels) - 1, 1), spacing, rho=rho)[: len(levels)]
    return levels


def shifted(settings: dict, ts: np.ndarray, mu: float | None) -> np.ndarray:
    """Return the times of a flow shifted towards noise, by a constant or as the image size `mu` asks for."""
    if not settings.get("use_dynamic_shifting"):
        shift = settings["shift"] if "shift" in settings else settings["flow_shift"]
    elif mu is None:
        raise ValueError(
            "`mu` is None, but the config shifts by image size; pass mu=base_shift + (max_shift - base_shift) * "
            "(tokens - base_image_seq_len) / (max_image_seq_len - base_image_seq_len)."
        )
    else:
        require_one_of("time_shift_type", settings["time_shift_type"], ("exponential", "linear"))
        shift = float(np.exp(mu)) if settings["time_shift_type"] == "exponential" else mu
    ts = shift * ts / (1 + (shift - 1) * ts)
    terminal = settings.get("shift_terminal")
    return ts if not terminal else 1 - (1 - ts) * (1 - terminal) / (1 - ts[-1])


def flow_times(settings: dict, n: int, mu: float | None) -> np.ndarray:
    """Return the times of FlowMatchEulerDiscreteScheduler and FlowMatchHeunDiscreteScheduler."""
    least = np.array([1 / settings["num_train_timesteps"]])
    if not settings.get("use_dynamic_shifting"):
        least = shifted(settings, least, mu)  # which is shifted once more with all others
    ts = shifted(settings, np.linspace(1.0, least[0], n), mu)
    return np.append(respaced(settings, ts, ts[-1], ts[0]), 0.0)


def flow_sigma_times(settings: dict, n: int, mu: float | None, *, from_one: bool) -> np.ndarray:
    """Return the times of diffusion schedulers with `use_flow_sigmas`, which start at 1 or one training step below."""
    if settings["final_sigmas_type"] != "zero":
        raise ValueError("`config` has flow sigmas that end before 0; set final_sigmas_type='zero'.")
    points = np.linspace(1.0, 1 / settings["num_train_timesteps"], n + 1)
    ts = shifted(settings, points[:-1] if from_one else (1 - points)[:0:-1], mu)
    if from_one and abs(ts[0] - 1) < 1e-6:
        ts[0] -= 1e-6
    return np.append(ts, 0.0)


def edm_times(settings: dict, n: int) -> np.ndarray:
    """Return the noise levels of EDMEulerScheduler and EDMDPMSolverMultistepScheduler."""
    require_one_of("sigma_schedule", settings["sigma_schedule"], ("karras", "exponential"))
    spacing = {"use_karras_sigmas": settings["sigma_schedule"] == "karras", "use_exponential_sigmas": True}
    return np.append(respaced({**settings, **spacing}, np.zeros(n), settings["sigma_min"], settings["sigma_max"]), 0.0)
