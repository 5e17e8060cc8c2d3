"""Tests of scripts/benchmarks/benchmark_attention.py.

A GPU's kernel is written out.
"""

import json

import pytest
from script_import import import_script

from distill_jax.model.layers import dot_product
from distill_jax.model.t5 import config as config_lib

benchmark_attention = import_script("benchmark_attention")


def _attend(query, key, value, allowed, added=None):
  bias = dot_product.AttentionBias(added, allowed)
  return dot_product._attend_xla(query, key, value, bias)


def _attend_half(*arrays):
  return _attend(*arrays) / 2


@pytest.fixture(name="measure")
def fixture_measure(monkeypatch, capsys):
  """(arguments) -> the printed objects."""
  monkeypatch.setitem(config_lib._ATTENTION_PLATFORMS, "tokamax", "cpu")

  def measure(*arguments):
    small = ("--rows=2", "--q_length=12", "--k_length=16", "--heads=2")
    few = ("--head_dim=8", "--segments=3", "--turns=2", "--calls=1")
    monkeypatch.setattr("sys.argv", ["program", *small, *few, *arguments])
    benchmark_attention.main()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

  return measure


@pytest.mark.parametrize("positions", ["shared", "none"])
def test_kernels_are_compared_with_the_first(measure, monkeypatch, positions):
  monkeypatch.setattr(dot_product, "_run_tokamax", _attend)
  xla, tokamax = measure(
    "--implementations=xla,tokamax", f"--positions={positions}"
  )
  assert (xla["implementation"], xla["ratio"]) == ("xla", 1)
  assert tokamax["milliseconds"] == pytest.approx(
    xla["milliseconds"] * tokamax["ratio"]
  )
  assert ("positions" in tokamax["differences"]) == (positions == "shared")
  # Positions in bfloat16.
  assert max(tokamax["differences"].values()) < 0.03


def test_a_wrong_kernel_differs(measure, monkeypatch):
  monkeypatch.setattr(dot_product, "_run_tokamax", _attend_half)
  _, tokamax = measure("--implementations=xla,tokamax")
  assert min(tokamax["differences"].values()) > 0.3


def test_a_kernel_that_does_not_run_here_says_why(measure):
  cudnn, xla = measure("--implementations=cudnn,xla")
  assert "runs on a gpu" in cudnn["failed"]
  assert xla["ratio"] == 1
