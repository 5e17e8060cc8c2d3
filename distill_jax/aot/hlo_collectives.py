"""What the devices of a compiled program send each other, read from its text.

XLA's cost analysis neither counts collectives nor weighs a loop's body by how
often it runs. Both are done here, on the text of the optimized HLO
(`jax.stages.Compiled.as_text`).
"""

import dataclasses
import math
import re
from collections.abc import Mapping

from distill_jax.aot import hlo_loops

_KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
  "send",
)
# How compilers for TPUs call a fused all-reduce of which each device keeps its
# part: it costs what a reduce-scatter does.
_FUSED_REDUCE_SCATTER = "all-reduce-scatter"

_COLLECTIVE = re.compile(
  rf"\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ({'|'.join(_KINDS)})(-start)?\("
)
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_MESH_GROUPS = re.compile(
  r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*\))? \{([^}]*)\}"
)
_MESH_AXIS = re.compile(r"'(\w+)'=(\d+)")
_GROUP_AXIS = re.compile(r"'(\w+)'(?::\(\d+\)(\d+))?")
_IOTA_GROUPS = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]*)\}")


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Collectives of one kind, a run of the program.

  Attributes:
    count: how many run, each as often as the loops around it.
    sent_bytes: what one device sends at the least, over all of them.
  """

  count: int
  sent_bytes: int


@dataclasses.dataclass(frozen=True)
class ProgramTraffic:
  """Collectives of a program.

  Attributes:
    by_kind: traffic by the HLO's name of the collective.
    loops_counted_once: loops with collectives whose number of runs the text
      does not tell.
    num_slices: that the devices lie in. Of several, "send" goes to another one,
      over the data center's network, and all else stays in its own; in a single
      slice or host, compilers for GPUs may write a permutation as sends.
  """

  by_kind: Mapping[str, Traffic]
  loops_counted_once: int
  num_slices: int = 1

  @property
  def network_bytes(self) -> int:
    """What one device sends to other slices."""
    traffic = self.by_kind.get("send")
    return traffic.sent_bytes if traffic and self.num_slices > 1 else 0

  @property
  def interconnect_bytes(self) -> int:
    """What one device sends within its slice."""
    total = sum(traffic.sent_bytes for traffic in self.by_kind.values())
    return total - self.network_bytes


def read_traffic(
  hlo_text: str, num_devices: int, num_slices: int = 1
) -> ProgramTraffic:
  """Counts the collectives of a program and what they send.

  A collective counts as often as the loops around it run, see
  `hlo_loops.TripCounter`. Every branch of a condition counts.

  Bytes are the fewest that any algorithm sends a device: of a group of n, an
  all-gather to s bytes sends s (n-1)/n, an all-reduce of s bytes twice that.

  Args:
    hlo_text: optimized HLO of one device.
    num_devices: for groups that are not listed: all of them.
    num_slices: in which they lie.

  Returns:
    The sum over the program.
  """
  entry, computations = hlo_loops.split_computations(hlo_text)
  counter = hlo_loops.TripCounter(computations)
  counts: dict[str, int] = {}
  sent: dict[str, int] = {}
  unknown = 0

  def visit(name: str, times: int) -> bool:
    """Adds a computation that runs so often; says if it has collectives."""
    nonlocal unknown
    found = False
    for line in computations.get(name, ()):
      if match := _COLLECTIVE.match(line):
        found = True
        kind, num_bytes = _measure(line, match, name, num_devices)
        counts[kind] = counts.get(kind, 0) + times
        sent[kind] = sent.get(kind, 0) + times * num_bytes
      elif loop := hlo_loops.find_loop(line):
        trips = counter.count(line, name)
        in_loop = visit(loop.body, times * (1 if trips is None else trips))
        unknown += in_loop and trips is None
        found |= in_loop
      elif " async-update(" not in line and " async-done(" not in line:
        for callee in hlo_loops.find_callees(line):
          found |= visit(callee, times)
    return found

  visit(entry, 1)
  return ProgramTraffic(
    {kind: Traffic(counts[kind], sent[kind]) for kind in sorted(counts)},
    unknown,
    num_slices,
  )


def _measure(
  line: str, match: re.Match, computation: str, num_devices: int
) -> tuple[str, int]:
  """Returns the kind of a collective and the bytes a device sends in one."""
  result, kind, is_start = match.groups()
  sizes = [_count_bytes(*array) for array in _ARRAY.findall(result)]
  if kind == "send":
    return kind, sizes[0]  # The rest is what the matching line waits for.
  if is_start and kind == "collective-permute":
    size = sizes[1]  # Operand, result, and two counters.
  elif is_start and kind != "all-reduce":
    size = sum(sizes[len(sizes) // 2 :])  # Operands, then results.
  else:
    size = sum(sizes)
  if kind == "collective-permute":
    return kind, size
  group = _find_group_size(line, num_devices)
  if kind == "reduce-scatter":
    return kind, size * (group - 1)
  share = size * (group - 1) // group
  if kind == "all-reduce":
    if computation.startswith(_FUSED_REDUCE_SCATTER):
      return "reduce-scatter", share
    return kind, 2 * share
  return kind, share


def _count_bytes(dtype: str, dimensions: str) -> int:
  # A size with a bound, "<=8", counts as the bound.
  sizes = [int(size) for size in re.findall(r"\d+", dimensions)]
  if dtype == "pred":
    bits = 8
  else:
    # token and opaque have none; f8e4m3fn has 8, bf16 16.
    found = re.match(r"[a-z]+(\d+)", dtype)
    bits = int(found[1]) if found else 0
  return math.prod(sizes) * bits // 8


def _find_group_size(line: str, num_devices: int) -> int:
  if match := _MESH_GROUPS.search(line):
    sizes = {name: int(size) for name, size in _MESH_AXIS.findall(match[1])}
    return math.prod(
      # A part of an axis is written with its size.
      int(part) if part else sizes[name]
      for name, part in _GROUP_AXIS.findall(match[2])
    )
  if match := _IOTA_GROUPS.search(line):
    return int(match[1])
  if match := _LISTED_GROUPS.search(line):
    return match[1].count(",") + 1
  return num_devices
