"""What a compiled program takes and how fast it can be, as numbers and as text.

Reports are plain JSON values: those just made and those stored print alike.

Times are bounds from below, out of peak rates (a roofline): no program reaches
them, and how near one comes only the device tells.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from distill_jax.aot.hlo_collectives import ProgramTraffic
from distill_jax.partitioning.chips import Chip

_GIB = 2**30
Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Work:
  """What one run of a program does, over all devices, if not said otherwise.

  Attributes:
    model_flops: of products, by the maths.
    recomputed_flops: of products done twice to save memory.
    device_hbm_bytes: what a device reads and writes at the least.
    tokens: of examples, padding included.
  """

  model_flops: int
  recomputed_flops: int
  device_hbm_bytes: int
  tokens: int


def report_memory(
  parts: Mapping[str, int],
  peak_bytes: int,
  limit_bytes: int | None,
  chip: Chip | None,
  saved_activations_bytes: int | None = None,
) -> Json:
  """Says where a device's memory goes and whether it is enough.

  Args:
    parts: bytes of what the program is given, by name.
    peak_bytes: of all at once; where it does not fit, the compiler's estimate.
    limit_bytes: what programs may use; None: not known.
    chip: the device's; None: not known.
    saved_activations_bytes: of `aot.saved_activations`; None: of a program that
      saves none.

  Returns:
    Bytes of one device, `temporaries` being what the peak has besides the
    parts, and `fits`, None without a limit.
  """
  return {
    **{f"{name}_bytes": num_bytes for name, num_bytes in parts.items()},
    "temporaries_bytes": peak_bytes - sum(parts.values()),
    "saved_activations_bytes": saved_activations_bytes,
    "peak_bytes": peak_bytes,
    "limit_bytes": limit_bytes,
    "hbm_bytes": chip and chip.hbm_bytes // chip.devices_per_chip,
    "fits": None if limit_bytes is None else peak_bytes <= limit_bytes,
    "margin_bytes": None if limit_bytes is None else limit_bytes - peak_bytes,
  }


def report_traffic(traffic: ProgramTraffic) -> Json:
  """Returns the collectives of a program by kind.

  Args:
    traffic: of the program.
  """
  return {
    "by_kind": {
      kind: dataclasses.asdict(one) for kind, one in traffic.by_kind.items()
    },
    "loops_counted_once": traffic.loops_counted_once,
  }


def estimate_time(
  work: Work, traffic: ProgramTraffic, chip: Chip, num_devices: int
) -> Json:
  """Bounds the time of one run from below.

  Args:
    work: of all devices.
    traffic: of one device.
    chip: of every device.
    num_devices: how many.

  Returns:
    Seconds: of each resource at its peak rate; `at_least`, the longest of
    them, when all else happens meanwhile; `without_overlap`, their sum. Model
    FLOPs utilization at both. Of a chip whose network is not known, `network`
    is None and counts as if nothing were sent over it.
  """
  peak = chip.peak_flops_per_second_per_device
  share = chip.devices_per_chip
  seconds: dict[str, float | None] = {
    "compute": (work.model_flops + work.recomputed_flops) / num_devices / peak,
    "hbm": work.device_hbm_bytes / chip.hbm_bytes_per_second * share,
    "interconnect": (
      traffic.interconnect_bytes / chip.interconnect_bytes_per_second * share
    ),
  }
  if traffic.network_bytes:
    rate = chip.network_bytes_per_second
    seconds["network"] = rate and traffic.network_bytes / rate * share
  known = [part for part in seconds.values() if part is not None]
  at_least, total = max(known), sum(known)
  ideal = work.model_flops / num_devices / peak
  return {
    "seconds": seconds,
    "at_least_seconds": at_least,
    "without_overlap_seconds": total,
    "mfu_at_most": ideal / at_least,
    "mfu_without_overlap": ideal / total,
    "tokens_per_second_at_most": work.tokens / at_least,
  }


def format_report(report: Json) -> str:
  """Returns a report as text to read.

  Args:
    report: as `precompile` writes it.
  """
  devices, settings = report["devices"], report["settings"]
  lines = [
    f"{report['model']['num_params']:,} parameters on {devices['count']}"
    f" {devices['chip'] or devices['kind']}"
    f" ({_format_place(devices)}) as"
    f" {_format_sizes(devices['mesh'])}",
    f"{settings['batch_rows']} rows of {settings['feature_lengths']} in"
    f" {settings['num_microbatches']} micro-batches, activations"
    f" {report['model']['config']['dtype']}, scan_layers"
    f" {report['model']['config']['scan_layers']}, remat"
    f" {report['model']['config']['remat_policy']}",
  ]
  for name, program in report["programs"].items():
    verdict = _format_verdict(program["memory"])
    lines += ["", f"{_name_program(name, program)}: {verdict}"]
    lines += _format_program(program, devices["num_slices"])
  if report["search"]:
    lines += ["", _format_search(report["search"])]
  versions = ", ".join(f"{k} {v}" for k, v in report["versions"].items() if v)
  lines += ["", f"{versions}; {report['compiler_options']}"]
  return "\n".join(lines)


def format_summary(reports: Mapping[str, Json], folder: str) -> str:
  """Returns a Markdown table with a line a program of each report.

  Args:
    reports: by a name.
    folder: where the links to reports go.
  """
  header = (
    "report", "program", "devices", "mesh", "rows", "fits", "peak GiB",
    "limit GiB", "arguments GiB", "saved activations GiB",
    "collectives: GiB sent a device", "step s, at least", "MFU, at most",
    "compile CPU s", "host GiB",
  )  # fmt: skip
  rows: list[Sequence[str]] = [header, ["---"] * len(header)]
  for name, report in reports.items():
    for program_name, program in report["programs"].items():
      rows.append(
        _summarize(
          f"[{name}]({folder}/{name}.json)", report, program_name, program
        )
      )
  return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _summarize(link, report, program_name, program) -> list[str]:
  memory, estimate = program["memory"], program["estimate"]
  given = sum(memory[f"{part}_bytes"] for part in program["parts"])
  traffic = program["collectives"] or {"by_kind": {}}
  sent = ", ".join(
    f"{kind} {one['count']:,}: {_gib(one['sent_bytes'])}"
    for kind, one in traffic["by_kind"].items()
  )
  return [
    link,
    _name_program(program_name, program),
    f"{report['devices']['count']} {report['devices']['chip']}",
    _format_sizes(report["devices"]["mesh"]),
    f"{program['batch_rows']:,}",
    {True: "yes", False: "no", None: "?"}[memory["fits"]],
    _gib(memory["peak_bytes"]),
    _gib(memory["limit_bytes"]),
    _gib(given),
    _gib(memory["saved_activations_bytes"]),
    sent or "–",
    f"{estimate['at_least_seconds']:.3f}" if estimate else "–",
    f"{estimate['mfu_at_most']:.0%}" if estimate else "–",
    f"{program['compile']['cpu_seconds']:.0f}",
    _gib(program["compile"]["host_peak_bytes"]),
  ]


def _name_program(name: str, program: Json) -> str:
  """Says with decoding where its parameters lie, see `decoding.layout`."""
  return f"{name}, {program['layout']}" if "layout" in program else name


def _format_place(devices: Json) -> str:
  if devices["topology"] is None:
    return "of this machine"
  if devices["num_slices"] == 1:
    return devices["topology"]
  return f"{devices['num_slices']} slices of {devices['topology']}"


def _format_verdict(memory: Json) -> str:
  if memory["fits"] is None:
    return "the device has no limit of its own to compare with"
  margin = memory["margin_bytes"]
  if memory["fits"]:
    share = margin / memory["limit_bytes"]
    return f"fits, {_format_bytes(margin)} ({share:.0%}) to spare"
  return f"DOES NOT FIT, by {_format_bytes(-margin)}"


def _format_program(program: Json, num_slices: int) -> list[str]:
  memory = program["memory"]
  lines = [f"  memory of a device, {program['batch_rows']} rows"]
  for part in [*program["parts"], "temporaries", "peak", "limit", "hbm"]:
    if memory[f"{part}_bytes"] is not None:
      size = _format_bytes(memory[f"{part}_bytes"])
      lines.append(f"    {part:<14}{size:>12}")
  if memory["saved_activations_bytes"] is not None:
    size = _format_bytes(memory["saved_activations_bytes"])
    lines.append(
      f"  the forward pass saves {size} of activations, by their shapes: in the"
      " temporaries, but for what the compiler does away with"
    )
  work = program["work"]
  lines.append(
    f"  {work['model_flops']:.3g} model FLOPs"
    f" (+ {work['recomputed_flops']:.3g} recomputed) over all devices"
  )
  if program["hlo_bytes_accessed"] is not None:
    lines.append(
      f"  {_format_bytes(program['hlo_bytes_accessed'])} accessed a device, as"
      " XLA counts: a loop's body once"
    )
  if program["collectives"]:
    lines += _format_collectives(program["collectives"], num_slices)
  if program["estimate"]:
    lines += _format_estimate(program["estimate"])
  compiling = program["compile"]
  lines.append(
    f"  compiled in {compiling['seconds']:.0f} s"
    f" ({compiling['cpu_seconds']:.0f} of CPU), the process at most"
    f" {_format_bytes(compiling['host_peak_bytes'])}"
  )
  return lines


def _format_collectives(collectives: Json, num_slices: int) -> list[str]:
  lines = ["  collectives a run: how many, what a device sends"]
  for kind, one in collectives["by_kind"].items():
    leaves_slice = kind == "send" and num_slices > 1
    where = " (to other slices)" if leaves_slice else ""
    lines.append(
      f"    {kind + where:<27}{one['count']:>7,}"
      f"{_format_bytes(one['sent_bytes']):>14}"
    )
  if not collectives["by_kind"]:
    lines.append("    none")
  if once := collectives["loops_counted_once"]:
    lines.append(f"    {once} loops of unknown length are counted once")
  return lines


def _format_estimate(estimate: Json) -> list[str]:
  lines = ["  bounds at the vendor's peak rates, no prediction; seconds"]
  for name, seconds in estimate["seconds"].items():
    if seconds is None:
      lines.append(f"    {name:<14}     unknown   no published rate; left out")
    else:
      lines.append(f"    {name:<14}{seconds:>12.3g}")
  return [
    *lines,
    f"    at least      {estimate['at_least_seconds']:>12.3g}"
    f"   MFU at most {estimate['mfu_at_most']:.1%}",
    f"    no overlap    {estimate['without_overlap_seconds']:>12.3g}"
    f"   MFU {estimate['mfu_without_overlap']:.1%}",
  ]


def _format_search(search: Json) -> str:
  tried = ", ".join(
    f"{rows}: {_gib(num_bytes)}" for rows, num_bytes in search["tried"]
  )
  found = search["batch_rows"]
  return (
    f"Largest BATCH_SIZE that fits: {'none' if found is None else found}"
    f" (multiples of {search['unit']}; planned GiB {tried};"
    f" {search['margin']:.0%} kept free)"
  )


def _format_sizes(sizes: Mapping[str, int]) -> str:
  return " ".join(f"{name}={size}" for name, size in sizes.items())


def _format_bytes(num_bytes: float) -> str:
  """With the unit that leaves digits to read."""
  size = float(num_bytes)
  for unit in ("B", "KiB", "MiB"):
    if abs(size) < 1024:
      return f"{size:.1f} {unit}"
    size /= 1024
  return f"{size:,.2f} GiB"


def _gib(num_bytes: int | None) -> str:
  return "–" if num_bytes is None else f"{num_bytes / _GIB:,.2f}"
