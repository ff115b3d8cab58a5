"""Distances between two sets of samples, in float64 on the host."""

import numpy as np
from numpy.typing import ArrayLike


def _flat(samples: ArrayLike) -> np.ndarray:
    samples = np.asarray(samples, np.float64)
    return samples.reshape(len(samples), -1)


def frechet_distance(one: ArrayLike, two: ArrayLike) -> float:
    """Return the squared Fréchet (2-Wasserstein) distance between the Gaussians with the moments of two sample sets.

    `|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`. Small sets are biased upwards: compare numbers only between sets of
    equal sizes, and print what real data scores.

    Args:
        one: (n, ...) samples.
        two: (m, ...) samples of the same shape.

    Returns:
        The squared distance, in squared units of the samples.

    Example:
        >>> round(frechet_distance([[0.0], [2.0]], [[3.0], [5.0]]), 6)
        9.0

    Source: Dowson & Landau, J. Multivariate Analysis 12 (1982); Heusel et al., NeurIPS 2017 (arXiv 1706.08500).
    """
    one, two = _flat(one), _flat(two)
    cov1, cov2 = (np.atleast_2d(np.cov(x, rowvar=False, bias=True)) for x in (one, two))
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov2 @ root), 0)).sum()
    return float(((one.mean(0) - two.mean(0)) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross)
