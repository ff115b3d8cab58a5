"""Every test runs in float64 with strict dtype and rank promotion, from fixed keys, on a shared compilation cache."""

import ctypes
import gc
import os
import sys
from pathlib import Path

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture(autouse=True, scope="module")
def bounded_memory():
    """Forget compiled programs where a process holds over 2 GB: all tests in one would hold 5. The disk cache stays."""
    yield
    if sys.platform == "linux" and resident() > 2e9:
        jax.clear_caches()
        gc.collect()
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)  # without it the memory is not given back


def resident():
    """Return the bytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
