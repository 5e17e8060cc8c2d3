"""Settings of all tests: 8 CPU devices, strict ranks, quick compilation.

JAX reads them when it starts, so this file sets them at import. Tests compile
far more than they compute, so XLA is told not to optimize.
"""

import os
from importlib import metadata

from packaging import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault(
  "XLA_FLAGS",
  "--xla_backend_optimization_level=0"
  # Later ones end the process at a flag that they no longer have.
  + " --xla_cpu_use_fusion_emitters=false"
  * (version.Version(metadata.version("jaxlib")) < version.Version("0.11")),
)

import jax
import jaxtyping
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(name="any_type")
def fixture_any_type(monkeypatch):
  """Lets a test give a setting what its annotation forbids, as a user may."""
  monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
