"""What the comparisons of tables rest on."""

import sys
from pathlib import Path

import pytest
from cases_sampling import VP

from odekit import samplers

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import settings


def test_every_table_is_compared_or_left_out_by_name(monkeypatch):
    known = {setting.builder for setting in settings.settings().values()}
    assert known <= set(samplers.TABLES)
    monkeypatch.setattr(settings, "LEFT_OUT", {})
    monkeypatch.setattr(settings, "_SETTINGS", {"ddim": settings.settings()["ddim"]})
    with pytest.raises(LookupError, match="no row for accelerated_ddim, adams, "):
        settings.settings()


@pytest.mark.parametrize("name", [name for name, setting in settings.settings().items() if not callable(setting[1])])
def test_budgets_are_kept(name):
    setting = settings.settings()[name]
    for budget in (10, 20):
        table = setting.within(VP, budget)
        assert budget - 4 < table.nfe <= budget
