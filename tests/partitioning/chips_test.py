"""Tests of partitioning.chips."""

import pytest
from jax._src.pallas.mosaic import tpu_info
from tpu_compiler import needs_libtpu

from distill_jax.aot import compilation, topology
from distill_jax.partitioning import chips


@pytest.mark.parametrize(
  "device_kind, name",
  [
    ("TPU v5 lite", "TPU v5e"),
    ("TPU v5", "TPU v5p"),
    ("TPU v6 lite", "TPU v6e"),
    ("NVIDIA H100 80GB HBM3", "H100 SXM"),
  ],
)
def test_a_device_is_found_by_what_jax_calls_it(device_kind, name):
  chip = chips.find_chip(device_kind)
  assert chip is not None and chip.name == name


@pytest.mark.parametrize("device_kind", ["cpu", "NVIDIA H100 PCIe", "TPU v"])
def test_an_unknown_device_is_none(device_kind):
  assert chips.find_chip(device_kind) is None


def test_no_spelling_is_of_two_chips():
  kinds = [kind for chip in chips.CHIPS for kind in chip.device_kinds]
  assert len(kinds) == len(set(kinds))


def test_jax_has_the_same_figures():
  # Pallas keeps its own table, in a private module: should it move, this test
  # is to say so. They agree but for rounding.
  for chip in chips.CHIPS:
    if not chip.device_kinds[0].startswith("TPU"):
      continue
    version = tpu_info.chip_version_from_device_kind(chip.device_kinds[0])
    assert version is not None
    cores = version.num_physical_tensor_cores_per_chip
    info = tpu_info._get_tpu_info_impl(version, cores)
    theirs = [
      number * cores
      for number in (
        info.bf16_ops_per_second,
        info.mem_bw_bytes_per_second,
        info.hbm_capacity_bytes,
      )
    ]
    ours = [
      chip.peak_flops_per_second,
      chip.hbm_bytes_per_second,
      chip.hbm_bytes,
    ]
    assert ours == pytest.approx(theirs, rel=0.15), chip.name


@pytest.mark.aot
@needs_libtpu
@pytest.mark.parametrize(
  "name", ["v3-8", "v4-8", "v5e-4", "v5p-8", "v6e-4", "tpu7x-8"]
)
def test_programs_may_use_nearly_all_memory_and_no_more(name):
  parsed = topology.parse(name)
  topology.prepare_environment(parsed)
  device = topology.make_devices(parsed)[0]
  chip = chips.find_chip(device.device_kind)
  limit = compilation.find_memory_limit(device)
  assert chip is not None and limit is not None
  hbm_bytes = chip.hbm_bytes // chip.devices_per_chip
  assert 0.95 * hbm_bytes < limit < hbm_bytes


@pytest.mark.parametrize(
  "name, gib", [("A100 80GB SXM", 80), ("H100 SXM", 80), ("H200 SXM", 141)]
)
def test_vendors_of_gpus_count_in_gib_what_they_call_gb(name, gib):
  (chip,) = (chip for chip in chips.CHIPS if chip.name == name)
  assert chip.hbm_bytes == gib * 2**30


def test_the_peak_of_a_device():
  v3, v5e = chips.find_chip("TPU v3"), chips.find_chip("TPU v5e")
  assert v3 is not None and v5e is not None
  assert v3.peak_flops_per_second_per_device == 61.5e12
  assert v5e.peak_flops_per_second_per_device == v5e.peak_flops_per_second
