"""The examples with networks of other libraries run, each as a program of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "networks.md").read_text()
EXAMPLES = dict(re.findall(r"^## ([^\n]*)\n\n```{code-block} python\n(.*?)^```", PAGE, re.M | re.S))
CHECK = "assert samples.shape == (16, 2) and samples.dtype == jnp.float32 and bool(jnp.all(jnp.isfinite(samples)))"


@pytest.mark.parametrize("name", ["equinox", "flax nnx", "flax linen"])
def test_the_example_runs(name):
    pytest.importorskip(name.split()[0], reason=f"the example with {name} needs it installed: pip install flax")
    program = EXAMPLES[name] + CHECK
    ended = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
