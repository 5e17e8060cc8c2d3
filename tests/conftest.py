"""Settings of all tests: 8 CPU devices, warnings are errors, ranks are strict.

Devices must be asked for before JAX starts, so this file does it at import.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
