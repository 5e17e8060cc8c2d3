"""Tests of aot.topology. Those of TPUs need libtpu, see `tpu_compiler`."""

import os
import types

import jax
import pytest
from tpu_compiler import needs_libtpu

from distill_jax.aot import topology
from distill_jax.errors import UserError
from distill_jax.partitioning import chips


@pytest.fixture(autouse=True)
def fixture_environment():
  """Leaves the variables as they were."""
  before = dict(os.environ)
  yield
  os.environ.clear()
  os.environ.update(before)


@pytest.mark.parametrize(
  "given, name, num_chips",
  [
    # Cores, two a chip.
    ("v3-8", "v3:2x2", 4),
    ("v4-8", "v4:2x2x1", 4),
    ("v4-32", "v4:2x2x4", 16),
    ("v4-128", "v4:4x4x4", 64),
    ("v5p-8", "v5p:2x2x1", 4),
    ("v5p-16", "v5p:2x2x2", 8),
    ("tpu7x-16", "tpu7x:2x2x2", 8),
    ("v7x-16", "tpu7x:2x2x2", 8),
    # Chips.
    ("v5litepod-1", "v5e:1x1", 1),
    ("v5litepod-64", "v5e:8x8", 64),
    ("v5e-64", "v5e:8x8", 64),
    ("v5litepod-256", "v5e:16x16", 256),
    ("v6e-16", "v6e:4x4", 16),
    # As JAX has them.
    ("v5e:4x4", "v5e:4x4", 16),
    ("v5litepod:4x4", "v5e:4x4", 16),
    ("v4:2x2x4", "v4:2x2x4", 16),
    ("h100:1x1x8", "h100:1x1x8", 8),
    ("h100-8", "h100:1x1x8", 8),
  ],
)
def test_names_that_people_use(given, name, num_chips):
  parsed = topology.parse(given)
  assert (parsed.name, parsed.num_chips) == (name, num_chips)
  assert parsed.platform == ("cuda" if "h100" in given else "tpu")


def test_slices_multiply():
  assert topology.parse("v5e-16", 2).num_chips == 32


@pytest.mark.usefixtures("any_type")
@pytest.mark.parametrize(
  "given, told",
  [
    ("v9-8", "there is no 'v9'"),
    ("v4", "names an accelerator as 'v4:2x2x4' or 'v4-32' do"),
    ("v4-24", "counts cores, two a chip, and slices of v4 have 8, 16, 32, 64"),
    ("v5e-6", "the number counts chips, and slices of v5e have 1, 4, 8, 16"),
    ("v4:4x4", "slices of v4 are 2x2x1, 2x2x2, 2x2x4"),
    ("v5e:2x2x2", "slices of v5e are 1x1, 2x2, 2x4"),
    ("h100:1x2x8", "those of one host: h100:1x1x1, h100:1x1x2"),
    ("h100-3", "those of one host"),
    (8, "TOPOLOGY is 8"),
  ],
)
def test_names_of_nothing(given, told):
  with pytest.raises(UserError, match=told):
    topology.parse(given)


def test_no_slices():
  with pytest.raises(UserError, match="NUM_SLICES is 0"):
    topology.parse("v4-32", 0)


@pytest.mark.parametrize(
  "name, package, told",
  [
    ("v4-32", "libtpu", r"needs libtpu.*'\.\[tpu\]'"),
    ("h100-8", "jax_cuda12_plugin", r"plugin for CUDA 12.*'\.\[gpu\]'"),
  ],
)
def test_a_compiler_that_is_not_installed(monkeypatch, name, package, told):
  monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
  monkeypatch.setattr(topology, "_is_installed", lambda name: name != package)
  with pytest.raises(UserError, match=told):
    topology.prepare_environment(topology.parse(name))


def test_what_is_set_stays_set(monkeypatch):
  monkeypatch.setenv("TPU_LIBRARY_PATH", "/opt/libtpu.so")
  monkeypatch.setenv("TPU_MIN_LOG_LEVEL", "0")
  monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_a=1")
  for _ in range(2):
    topology.prepare_environment(topology.parse("v4-32"))
  assert os.environ["TPU_MIN_LOG_LEVEL"] == "0"
  # Nobody is asked which TPU this machine has.
  assert os.environ["TPU_SKIP_MDS_QUERY"] == "1"
  assert os.environ["LIBTPU_INIT_ARGS"].split() == [
    "--xla_a=1",
    "--fibers_default_thread_stack_size=4194304",
  ]


def test_the_assembler_of_gpus_is_looked_for_in_one_more_folder(
  monkeypatch, tmp_path
):
  monkeypatch.setattr(topology, "_is_installed", lambda name: True)
  monkeypatch.setattr(
    topology.importlib.util,
    "find_spec",
    lambda name: types.SimpleNamespace(
      submodule_search_locations=[str(tmp_path)]
    ),
  )
  monkeypatch.setenv("PATH", os.pathsep.join(["/a", "/b"]))
  for _ in range(2):
    topology.prepare_environment(topology.parse("h100-8"))
  folders = os.environ["PATH"].split(os.pathsep)
  assert folders == [str(tmp_path / "bin"), "/a", "/b"]
  flags = os.environ["XLA_FLAGS"].split()
  assert flags.count(f"--xla_gpu_cuda_data_dir={tmp_path}") == 1


@pytest.mark.aot
@needs_libtpu
@pytest.mark.parametrize(
  "name, num_slices, num_devices, chip",
  [
    ("v3-8", 1, 8, "TPU v3"),
    ("v4-32", 1, 16, "TPU v4"),
    ("v5e-1", 1, 1, "TPU v5e"),
    ("v5e-8", 2, 16, "TPU v5e"),
    ("v5p-16", 1, 8, "TPU v5p"),
    ("v6e-16", 1, 16, "TPU v6e"),
    ("tpu7x-16", 1, 16, "TPU7x"),
  ],
)
def test_devices_of_tpus(name, num_slices, num_devices, chip):
  parsed = topology.parse(name, num_slices)
  topology.prepare_environment(parsed)
  devices = topology.make_devices(parsed)
  assert len(devices) == num_devices
  found = chips.find_chip(devices[0].device_kind)
  assert found is not None and found.name == chip
  assert num_devices == parsed.num_chips * found.devices_per_chip
  # None of them is a device of this machine.
  assert jax.default_backend() == "cpu"
  assert not set(devices) & set(jax.devices())


@pytest.mark.aot
@needs_libtpu
def test_a_slice_that_cannot_be():
  parsed = topology.parse("v4:3x4x4")
  topology.prepare_environment(parsed)
  with pytest.raises(UserError, match="No devices can be made of .*v4:3x4x4"):
    topology.make_devices(parsed)
