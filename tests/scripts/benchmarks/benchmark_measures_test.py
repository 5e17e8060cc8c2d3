"""Tests of scripts/benchmarks/benchmark_measures.py."""

import jax
import jax.numpy as jnp
import pytest
from script_import import import_script

measures = import_script("benchmark_measures")


def test_rates_are_of_all_devices_and_shares_of_their_peak():
  peak = measures.Peak(100.0, "told")
  rates = measures.compute_rates("model", 1600.0, 2.0, peak)
  # Of the tests' eight devices.
  assert rates == {"model_flops_per_second": 800.0, "mfu": 1.0}
  assert measures.compute_rates("example", 800.0, 2.0, peak) == {
    "example_flops_per_second": 400.0,
    "example_mfu": 0.5,
  }


@pytest.mark.parametrize("num_flops", [None, 800.0])
def test_no_share_of_a_peak_that_is_not_known(num_flops):
  peak = measures.look_up_peak()
  assert peak.flops_per_second is None and "--measure_peak" in peak.source
  assert measures.compute_rates("model", num_flops, 2.0, peak) == {
    "model_flops_per_second": num_flops and 400.0,
    "mfu": None,
  }


def test_a_peak_is_no_less_than_a_product_takes(monkeypatch):
  monkeypatch.setattr(measures, "_LONG_SECONDS", 0.0)
  peak = measures.measure_peak("float32")
  assert 1e7 < peak.flops_per_second < 1e13
  assert peak.source == "measured, float32 matrices up to [512, 512]"


def test_a_step_is_its_arguments_results_and_temporaries():
  num_bytes = 4 * 2**20
  x = jnp.zeros(2**20, jnp.float32)
  compiled = jax.jit(lambda x: x + 1).lower(x).compile()
  found = measures.measure_memory(compiled, is_alone=True)
  assert found["step_bytes"] == 2 * num_bytes
  assert found["peak_bytes"] > num_bytes
  assert "resident memory" in found["peak_bytes_source"]
  # What is given away is there once.
  donated = jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile()
  found = measures.measure_memory(donated, is_alone=False)
  assert found["step_bytes"] == num_bytes
  assert found["peak_bytes"] is None
  assert "two layouts" in found["peak_bytes_source"]
