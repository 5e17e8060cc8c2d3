"""What accelerators can do at most, by their vendors' published figures.

All figures are peaks of one chip, to divide by: no program reaches them.
"""

import dataclasses

_TERA, _GIGA, _GIB = 10**12, 10**9, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One kind of accelerator.

  Attributes:
    name: what people call it.
    device_kinds: `jax.Device.device_kind` of its devices, in every spelling.
    peak_flops_per_second: of dense bfloat16 products.
    hbm_bytes: of memory.
    hbm_bytes_per_second: to and from that memory.
    interconnect_bytes_per_second: sent to the chips of the same slice or host
      over all links together (ICI, NVLink). Vendors that count both directions
      state twice as much.
    network_bytes_per_second: the chip's share of what its host sends to other
      slices; None: not published.
    source: where the figures stand.
    devices_per_chip: how many devices JAX makes of it.
  """

  name: str
  device_kinds: tuple[str, ...]
  peak_flops_per_second: float
  hbm_bytes: int
  hbm_bytes_per_second: float
  interconnect_bytes_per_second: float
  network_bytes_per_second: float | None
  source: str
  devices_per_chip: int = 1

  @property
  def peak_flops_per_second_per_device(self) -> float:
    """The part of `peak_flops_per_second` that one device of JAX has."""
    return self.peak_flops_per_second / self.devices_per_chip


CHIPS = (
  Chip(
    name="TPU v3",
    device_kinds=("TPU v3",),
    peak_flops_per_second=123 * _TERA,
    hbm_bytes=32 * _GIB,
    hbm_bytes_per_second=900 * _GIGA,
    interconnect_bytes_per_second=4 * 70 * _GIGA,
    network_bytes_per_second=None,
    source="https://cloud.google.com/tpu/docs/v3; links: Jouppi et al. 2023"
    " (arXiv:2304.01433), table 4",
    devices_per_chip=2,
  ),
  Chip(
    name="TPU v4",
    device_kinds=("TPU v4",),
    peak_flops_per_second=275 * _TERA,
    hbm_bytes=32 * _GIB,
    hbm_bytes_per_second=1200 * _GIGA,
    interconnect_bytes_per_second=6 * 50 * _GIGA,
    network_bytes_per_second=None,
    source="https://cloud.google.com/tpu/docs/v4; links: Jouppi et al. 2023"
    " (arXiv:2304.01433), table 4",
  ),
  Chip(
    name="TPU v5e",
    device_kinds=("TPU v5 lite", "TPU v5e"),
    peak_flops_per_second=197 * _TERA,
    hbm_bytes=16 * _GIB,
    hbm_bytes_per_second=819 * _GIGA,
    interconnect_bytes_per_second=200 * _GIGA,
    # 6.4 Tbit/s a pod of 256 chips.
    network_bytes_per_second=6400 / 256 / 8 * _GIGA,
    source="https://cloud.google.com/tpu/docs/v5e",
  ),
  Chip(
    name="TPU v5p",
    device_kinds=("TPU v5", "TPU v5p"),
    peak_flops_per_second=459 * _TERA,
    # "95 GB" in the same place; the compiler lets programs use 95.74 GiB.
    hbm_bytes=96 * _GIB,
    hbm_bytes_per_second=2765 * _GIGA,
    interconnect_bytes_per_second=600 * _GIGA,
    network_bytes_per_second=50 / 8 * _GIGA,
    source="https://cloud.google.com/tpu/docs/v5p; all but the peak:"
    " https://docs.cloud.google.com/tpu/docs/tpu7x",
  ),
  Chip(
    name="TPU v6e",
    device_kinds=("TPU v6 lite", "TPU v6e"),
    peak_flops_per_second=918 * _TERA,
    hbm_bytes=32 * _GIB,
    hbm_bytes_per_second=1638 * _GIGA,
    interconnect_bytes_per_second=400 * _GIGA,
    network_bytes_per_second=100 / 8 * _GIGA,
    source="https://cloud.google.com/tpu/docs/v6e; bandwidths:"
    " https://docs.cloud.google.com/tpu/docs/tpu7x",
  ),
  Chip(
    name="TPU7x",
    device_kinds=("TPU7x",),
    peak_flops_per_second=2307 * _TERA,
    hbm_bytes=192 * _GIB,
    hbm_bytes_per_second=7380 * _GIGA,
    interconnect_bytes_per_second=600 * _GIGA,
    network_bytes_per_second=100 / 8 * _GIGA,
    source="https://docs.cloud.google.com/tpu/docs/tpu7x",
    devices_per_chip=2,
  ),
  Chip(
    name="A100 40GB SXM",
    device_kinds=("NVIDIA A100-SXM4-40GB",),
    peak_flops_per_second=312 * _TERA,
    hbm_bytes=40 * _GIB,
    hbm_bytes_per_second=1555 * _GIGA,
    interconnect_bytes_per_second=300 * _GIGA,
    network_bytes_per_second=None,
    source="https://www.nvidia.com/en-us/data-center/a100",
  ),
  Chip(
    name="A100 80GB SXM",
    device_kinds=("NVIDIA A100-SXM4-80GB",),
    peak_flops_per_second=312 * _TERA,
    hbm_bytes=80 * _GIB,
    hbm_bytes_per_second=2039 * _GIGA,
    interconnect_bytes_per_second=300 * _GIGA,
    network_bytes_per_second=None,
    source="https://www.nvidia.com/en-us/data-center/a100",
  ),
  Chip(
    name="H100 SXM",
    device_kinds=("NVIDIA H100 80GB HBM3",),
    # 1,979 with sparsity.
    peak_flops_per_second=989.4 * _TERA,
    hbm_bytes=80 * _GIB,
    hbm_bytes_per_second=3350 * _GIGA,
    interconnect_bytes_per_second=450 * _GIGA,
    network_bytes_per_second=None,
    source="https://www.nvidia.com/en-us/data-center/h100",
  ),
  Chip(
    name="H200 SXM",
    device_kinds=("NVIDIA H200",),
    peak_flops_per_second=989.4 * _TERA,
    hbm_bytes=141 * _GIB,
    hbm_bytes_per_second=4800 * _GIGA,
    interconnect_bytes_per_second=450 * _GIGA,
    network_bytes_per_second=None,
    source="https://www.nvidia.com/en-us/data-center/h200",
  ),
)


def find_chip(device_kind: str) -> Chip | None:
  """Returns the chip a device is of, or None where its figures are not known.

  Args:
    device_kind: as `jax.Device.device_kind` has it. The whole of it counts: an
      "NVIDIA H100 PCIe" is another chip than an H100 SXM.
  """
  for chip in CHIPS:
    if device_kind in chip.device_kinds:
      return chip
  return None
