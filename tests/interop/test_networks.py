"""The examples with networks of other libraries run as written."""

import re
from pathlib import Path

import jax
import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "networks.md").read_text()
EXAMPLES = dict(re.findall(r"^## ([^\n]*)\n\n```{code-block} python\n(.*?)^```", PAGE, re.M | re.S))


@pytest.mark.parametrize("name", ["equinox", "flax nnx", "flax linen"])
def test_the_example_runs(name):
    pytest.importorskip(name.split()[0], reason=f"the example with {name} needs flax: pip install flax")
    result = {}
    with jax.enable_x64(False):  # as a reader runs it
        exec(EXAMPLES[name], result)  # noqa: S102 - the text is the page's own
    assert result["samples"].shape == (16, 2)
    assert bool(jax.numpy.all(jax.numpy.isfinite(result["samples"])))
