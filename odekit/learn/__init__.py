"""Learned solvers: the numbers of a table fitted to fine solutions by gradients through the table."""

from odekit.learn.compare import psnr, references, rmse
from odekit.learn.distill import distill
from odekit.learn.iia import iia
from odekit.learn.parameters import Family, free_grid, free_rows, from_rows, normal_form
from odekit.learn.training import History, adam, fit

__all__ = [
    "Family",
    "History",
    "adam",
    "distill",
    "fit",
    "free_grid",
    "free_rows",
    "from_rows",
    "iia",
    "normal_form",
    "psnr",
    "references",
    "rmse",
]
