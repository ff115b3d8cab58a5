"""GRI-Mech 3.0 as a JAX vector field: 53 species, 325 reactions, from the file that the cantera package carries.

Elementary, three-body, Lindemann and Troe reactions; reverse rates from NASA polynomials. Units: cm, s, mol, K;
pressure in Pa. Source: Kee, Coltrin & Glarborg, Chemically Reacting Flow, 2003, chapters 8 and 9; Gilbert, Luther &
Troe, Ber. Bunsenges. Phys. Chem. 87 (1983), 169-177.
"""

from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

GAS = 8.31446261815324  # J / mol / K
CALORIE = 4.184
ATMOSPHERE = 101325.0
KINDS = ("elementary", "three-body", "falloff")
NEVER = 1e300


class Mechanism(NamedTuple):
    """Numbers of a mechanism; reactions are sorted: elementary, three-body, falloff.

    Attributes:
        names: of the species.
        weights: (species,) g / mol.
        middle: (species,) K, where one NASA polynomial ends and the other begins.
        low: (species, 7) NASA coefficients below it.
        high: (species, 7) above it.
        rates: (reactions, 3) log of the factor, exponent of T, activation temperature.
        low_rates: (falloff, 3) likewise at low pressure.
        troe: (falloff, 4) A, T3, T1, T2.
        efficiencies: (three-body and falloff, species).
        reactants: (reactions, 3) species, filled up with the number of species.
        products: (reactions, 3) likewise.
        change: (species, reactions).
        reversible: (reactions,) 1 or 0.
    """

    names: tuple[str, ...]
    weights: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    rates: np.ndarray
    low_rates: np.ndarray
    troe: np.ndarray
    efficiencies: np.ndarray
    reactants: np.ndarray
    products: np.ndarray
    change: np.ndarray
    reversible: np.ndarray


def read():
    """Read the mechanism from the installed cantera package, or raise ImportError."""
    import cantera
    from ruamel.yaml import YAML

    text = (Path(cantera.__file__).parent / "data" / "gri30.yaml").read_text()
    document = YAML(typ="safe", pure=True).load(text)
    species = {entry["name"]: entry for entry in document["species"]}
    names = tuple(document["phases"][0]["species"])
    reactions = sorted(document["reactions"], key=lambda r: KINDS.index(r.get("type", "elementary")))
    collided = [r for r in reactions if "type" in r]
    falloff = [r for r in reactions if r.get("type") == "falloff"]
    sides = [_sides(r["equation"], names) for r in reactions]
    change = np.zeros((len(names), len(reactions)))
    for j, (reactants, products, _) in enumerate(sides):
        for i in reactants:
            change[i, j] -= 1
        for i in products:
            change[i, j] += 1
    thermo = [species[name]["thermo"] for name in names]
    return Mechanism(
        names=names,
        weights=np.array([cantera.Species(name, species[name]["composition"]).molecular_weight for name in names]),
        middle=np.array([entry["temperature-ranges"][1] for entry in thermo]),
        low=np.array([entry["data"][0] for entry in thermo]),
        high=np.array([entry["data"][1] for entry in thermo]),
        rates=np.array([_arrhenius(r.get("rate-constant") or r["high-P-rate-constant"]) for r in reactions]),
        low_rates=np.array([_arrhenius(r["low-P-rate-constant"]) for r in falloff]),
        troe=np.array([_troe(r.get("Troe")) for r in falloff]),
        efficiencies=np.array([[r["efficiencies"].get(name, 1.0) for name in names] for r in collided]),
        reactants=_padded([reactants for reactants, _, _ in sides], len(names)),
        products=_padded([products for _, products, _ in sides], len(names)),
        change=change,
        reversible=np.array([float(both) for _, _, both in sides]),
    )


def _sides(equation, names):
    """Species on both sides, repeated as often as they take part, and whether the reaction runs both ways."""
    both = "<=>" in equation
    left, right = equation.replace("(+M)", "").split("<=>" if both else "=>")
    found = []
    for side in (left, right):
        members = []
        for term in side.split(" + "):
            *count, name = term.split()
            members += [names.index(name)] * (int(count[0]) if count else 1) if name != "M" else []
        found.append(members)
    return *found, both


def _arrhenius(rate):
    return np.log(rate["A"]), rate["b"], rate["Ea"] * CALORIE / GAS


def _troe(numbers):
    """Coefficients of the broadening; without any (Lindemann) the centre is 1."""
    return [numbers[key] for key in ("A", "T3", "T1", "T2")] if numbers else [1.0, 1.0, NEVER, NEVER]


def _padded(rows, fill):
    return np.array([row + [fill] * (3 - len(row)) for row in rows])


def thermodynamics(gas, temperature):
    """Heat capacity / R, enthalpy / RT and entropy / R of every species at one atmosphere."""
    a = jnp.where((temperature > gas.middle)[:, None], gas.high, gas.low).T
    t = temperature
    capacity = a[0] + t * (a[1] + t * (a[2] + t * (a[3] + t * a[4])))
    enthalpy = a[0] + t * (a[1] / 2 + t * (a[2] / 3 + t * (a[3] / 4 + t * a[4] / 5))) + a[5] / t
    entropy = a[0] * jnp.log(t) + t * (a[1] + t * (a[2] / 2 + t * (a[3] / 3 + t * a[4] / 4))) + a[6]
    return capacity, enthalpy, entropy


def progress(gas, temperature, concentrations):
    """Forward and reverse rates of all reactions, mol / cm3 / s."""
    _, enthalpy, entropy = thermodynamics(gas, temperature)
    log_t = jnp.log(temperature)

    def arrhenius(rows):
        return rows[:, 0] + rows[:, 1] * log_t - rows[:, 2] / temperature

    log_k = arrhenius(gas.rates)
    colliders = jnp.log(gas.efficiencies @ concentrations)
    plain, three = len(gas.rates) - len(colliders), len(colliders) - len(gas.low_rates)
    log_reduced = arrhenius(gas.low_rates) + colliders[three:] - log_k[plain + three :]
    extra = [jnp.zeros(plain), colliders[:three], _falloff(gas.troe, temperature, log_reduced)]
    log_k = log_k + jnp.concatenate(extra)
    full = jnp.concatenate([concentrations, jnp.ones(1)])
    # 1 / Kc from the change of free energy, and of volume at the reference pressure.
    gibbs = gas.change.T @ (enthalpy - entropy)
    volume = gas.change.sum(axis=0) * jnp.log(GAS * 1e6 * temperature / ATMOSPHERE)
    forward = jnp.exp(log_k) * jnp.prod(full[gas.reactants], axis=1)
    reverse = gas.reversible * jnp.exp(log_k + gibbs + volume) * jnp.prod(full[gas.products], axis=1)
    return forward, reverse


def _falloff(troe, temperature, log_reduced):
    """Logarithm of `Pr / (1 + Pr) F`."""
    a, t3, t1, t2 = troe.T
    centre = (1 - a) * jnp.exp(-temperature / t3) + a * jnp.exp(-temperature / t1) + jnp.exp(-t2 / temperature)
    log_centre = jnp.log10(centre)
    shifted = log_reduced / jnp.log(10.0) - 0.4 - 0.67 * log_centre
    bent = shifted / (0.75 - 1.27 * log_centre - 0.14 * shifted)
    return log_reduced - jnp.logaddexp(0.0, log_reduced) + jnp.log(10.0) * log_centre / (1 + bent**2)


def reactor(gas, pressure):
    """Adiabatic reactor of constant pressure: the vector field of (temperature, mass fractions)."""

    def field(t, y, args):
        temperature, fractions = y[0], y[1:]
        moles = fractions / gas.weights  # per gram
        density = pressure * 1e-6 / (GAS * temperature * jnp.sum(moles))
        forward, reverse = progress(gas, temperature, density * moles)
        made = gas.change @ (forward - reverse)
        capacity, enthalpy, _ = thermodynamics(gas, temperature)
        heating = -temperature * jnp.sum(enthalpy * made) / (density * jnp.sum(capacity * moles))
        return jnp.concatenate([heating[None], made * gas.weights / density])

    return field
