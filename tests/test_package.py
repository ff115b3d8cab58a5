"""The package as it is shipped: who imports whom, what is public, what an import costs, what the wheel holds."""

import ast
import importlib.metadata
import importlib.resources
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import odekit

ROOT = Path(odekit.__file__).parent
REPOSITORY = Path(__file__).parent.parent

# From the bottom up; a module imports from its own layer and from those before it. A name without a dot is a file or a
# package of odekit; "odekit" itself is the public surface, which only the command line stands above.
LAYERS = (
    ("errors", "typing", "trees", "problem", "control", "event", "schedules", "solution", "citations"),
    ("loops",),
    ("solvers",),
    ("adjoint",),
    ("request", "solve", "stepping", "tracing"),
    ("samplers",),
    ("learn",),
    ("neural",),
    ("checkpoint", "explain", "interop", "io", "plots", "progress", "spectral"),
    ("odekit",),
    ("demo", "__main__"),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

PRIVATE = ("jax._src", "equinox.internal", "equinox._", "diffrax._", "optax._", "jaxlib")
HEAVY = ("IPython", "PIL", "matplotlib", "pandas", "safetensors", "scipy", "sklearn", "sympy", "tqdm")

FILES = {".".join(("odekit", *path.relative_to(ROOT).with_suffix("").parts)): path for path in ROOT.rglob("*.py")}
MODULES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}


def imports(module: str) -> set[str]:
    """Return the absolute names of everything that `module` imports, wherever in the file the statement stands."""
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            parent = ".".join([*base, *([node.module] if node.module else [])])
            names = {f"{parent}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else parent for name in names}
    return found


def layer(module: str) -> int:
    """Return the rank of the layer that `module` belongs to."""
    return RANK[(module.split(".") + ["odekit"])[1] if module != "odekit" else "odekit"]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module):
    upward = {name for name in imports(module) & MODULES.keys() if layer(name) > layer(module)}
    assert not upward


def test_adjoints_are_given_the_loop():
    seen = {name for module in MODULES if module.startswith("odekit.adjoint") for name in imports(module)}
    assert not seen & {"odekit.loops.adaptive", "odekit.loops.table"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_documented_names_of_other_libraries(module):
    assert not {name for name in imports(module) if name.startswith(PRIVATE)}


def test_all_is_sorted_and_complete():
    public = {
        name
        for name, value in vars(odekit).items()
        if not name.startswith("_") and (name in odekit.__all__ or not inspect.ismodule(value))
    }
    assert list(odekit.__all__) == sorted(public)


@pytest.mark.parametrize("name", getattr(odekit, "__all__", ()))
def test_every_public_name_is_documented(name):
    value = getattr(odekit, name)
    assert inspect.getdoc(value)
    if callable(value) and not (inspect.isclass(value) and issubclass(value, Exception)):
        assert ">>>" in value.__doc__


def run_python(code: str) -> str:
    """Return what `code` prints in an interpreter of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout


def test_import_is_light():
    loaded = json.loads(run_python("import json, sys, odekit; print(json.dumps(sorted(sys.modules)))"))
    assert not {name.split(".")[0] for name in loaded}.intersection(HEAVY)


def test_import_touches_no_device():
    code = "import odekit, jax; jax.config.update('jax_num_cpu_devices', 3); print(len(jax.devices('cpu')))"
    assert run_python(code).strip() == "3"  # JAX refuses the update once a backend exists


def test_version_is_the_same_everywhere():
    citation = re.search(r"^version: (.+)$", (REPOSITORY / "CITATION.cff").read_text(), re.MULTILINE)
    assert citation is not None
    assert citation[1] == odekit.__version__


def test_metadata_of_the_installed_package():
    try:
        metadata = importlib.metadata.metadata("odekit")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("odekit is imported from its source tree, not installed")
    assert metadata["Version"] == odekit.__version__
    assert metadata["License-Expression"] == "Apache-2.0"


def test_types_are_shipped():
    assert importlib.resources.files("odekit").joinpath("py.typed").is_file()
