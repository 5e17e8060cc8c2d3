"""What tests need that compile for TPUs."""

import importlib.util
import os

import pytest

needs_libtpu = pytest.mark.skipif(
  not os.environ.get("TPU_LIBRARY_PATH")
  and importlib.util.find_spec("libtpu") is None,
  reason="needs libtpu (pip install .[tpu], or TPU_LIBRARY_PATH=.../libtpu.so)",
)
