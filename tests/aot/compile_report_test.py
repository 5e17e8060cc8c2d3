"""Tests of aot.compile_report, with figures worked out by hand."""

import dataclasses

import pytest

from distill_jax.aot import compile_report
from distill_jax.aot.hlo_collectives import ProgramTraffic, Traffic
from distill_jax.partitioning.chips import Chip

_GIB = 2**30
_CHIP = Chip(
  name="Abacus",
  device_kinds=("abacus",),
  peak_flops_per_second=100.0,
  hbm_bytes=16,
  hbm_bytes_per_second=10.0,
  interconnect_bytes_per_second=4.0,
  network_bytes_per_second=2.0,
  source="a shelf",
  devices_per_chip=2,
)
_TRAFFIC = ProgramTraffic(
  {"all-reduce": Traffic(3, 8), "send": Traffic(1, 5)}, 0, num_slices=2
)
_WORK = compile_report.Work(
  model_flops=2000, recomputed_flops=400, device_hbm_bytes=20, tokens=60
)


def test_bounds_of_the_time():
  # Four devices of half a chip each: 50 FLOPs, 5 bytes of memory, 2 of links
  # and 1 of network a second.
  found = compile_report.estimate_time(_WORK, _TRAFFIC, _CHIP, 4)
  assert found["seconds"] == {
    "compute": 2400 / 4 / 50,
    "hbm": 20 / 5,
    "interconnect": 8 / 2,
    "network": 5 / 1,
  }
  assert found["at_least_seconds"] == 12
  assert found["without_overlap_seconds"] == 12 + 4 + 4 + 5
  # What is recomputed is no use of the model.
  assert found["mfu_at_most"] == pytest.approx(10 / 12)
  assert found["mfu_without_overlap"] == pytest.approx(10 / 25)
  assert found["tokens_per_second_at_most"] == 5


def test_a_network_that_is_not_known_is_left_out_and_told():
  chip = dataclasses.replace(_CHIP, network_bytes_per_second=None)
  found = compile_report.estimate_time(_WORK, _TRAFFIC, chip, 4)
  assert found["seconds"]["network"] is None
  assert found["at_least_seconds"] == 12
  assert found["without_overlap_seconds"] == 12 + 4 + 4
  report = _make_report(6 * _GIB, 8 * _GIB)
  report["programs"]["train"]["estimate"] = found
  text = compile_report.format_report(report)
  assert "network            unknown   no published rate; left out" in text


def test_memory_that_is_enough_and_that_is_not():
  parts = {"parameters": 5, "batch": 1}
  found = compile_report.report_memory(parts, 10, 12, _CHIP)
  assert found["fits"] is True and found["margin_bytes"] == 2
  assert found["temporaries_bytes"] == 4
  assert found["hbm_bytes"] == 8
  found = compile_report.report_memory(parts, 15, 12, _CHIP)
  assert found["fits"] is False and found["margin_bytes"] == -3
  found = compile_report.report_memory(parts, 15, None, None)
  assert found["fits"] is None and found["margin_bytes"] is None


def _make_report(peak_bytes, limit_bytes, traffic=_TRAFFIC):
  parts = {"parameters": 5 * _GIB, "optimizer": 2**20}
  is_compiled = limit_bytes is None or peak_bytes <= limit_bytes
  program = {
    "batch_rows": 8,
    "parts": list(parts),
    "memory": compile_report.report_memory(
      parts, peak_bytes, limit_bytes, _CHIP, 512 * 2**20
    ),
    "work": {"model_flops": 2000, "recomputed_flops": 400},
    "hlo_bytes_accessed": 3.0 * _GIB if is_compiled else None,
    "collectives": compile_report.report_traffic(traffic)
    if is_compiled
    else None,
    "estimate": compile_report.estimate_time(_WORK, traffic, _CHIP, 4)
    if is_compiled
    else None,
    "compile": {"seconds": 9.0, "cpu_seconds": 7.0, "host_peak_bytes": _GIB},
  }
  return {
    "model": {
      "num_params": 1234567,
      "config": {
        "dtype": "bfloat16", "scan_layers": True, "remat_policy": "full"
      },
    },
    "devices": {
      "count": 4,
      "kind": "abacus",
      "chip": "Abacus",
      "topology": "abacus:2x2",
      "num_slices": 2,
      "mesh": {"data": 2, "fsdp": 2, "model": 1},
    },
    "settings": {
      "batch_rows": 8,
      "feature_lengths": {"inputs": 5, "targets": 3},
      "num_microbatches": 1,
    },
    "programs": {"train": program},
    "search": None,
    "compiler_options": {},
    "versions": {"jax": "1", "libtpu": None},
  }  # fmt: skip


def test_the_text_says_whether_it_fits():
  text = compile_report.format_report(_make_report(6 * _GIB, 8 * _GIB))
  assert "1,234,567 parameters on 4 Abacus (2 slices of abacus:2x2)" in text
  assert "train: fits, 2.00 GiB (25%) to spare" in text
  assert "temporaries     1023.0 MiB" in text
  assert "no prediction" in text
  assert "send (to other slices)" in text
  assert "the forward pass saves 512.0 MiB of activations" in text
  text = compile_report.format_report(_make_report(11 * _GIB, 8 * _GIB))
  assert "train: DOES NOT FIT, by 3.00 GiB" in text
  assert "MFU" not in text
  text = compile_report.format_report(_make_report(11 * _GIB, None))
  assert "no limit of its own" in text


def test_what_is_sent_in_a_single_slice_goes_to_no_other():
  report = _make_report(6 * _GIB, 8 * _GIB)
  report["devices"]["num_slices"] = 1
  text = compile_report.format_report(report)
  assert "    send  " in text and "slices" not in text


def test_the_text_of_a_search():
  report = _make_report(6 * _GIB, 8 * _GIB)
  report["search"] = {
    "batch_rows": 24,
    "unit": 8,
    "margin": 0.05,
    "tried": [[8, 2 * _GIB], [24, 6 * _GIB], [32, 9 * _GIB]],
  }
  text = compile_report.format_report(report)
  assert "Largest BATCH_SIZE that fits: 24" in text
  assert "8: 2.00, 24: 6.00, 32: 9.00" in text


def test_loops_of_unknown_length_are_told():
  traffic = ProgramTraffic({"all-reduce": Traffic(3, 8)}, 2)
  text = compile_report.format_report(_make_report(6 * _GIB, 8 * _GIB, traffic))
  assert "2 loops of unknown length are counted once" in text


def test_a_line_of_the_summary():
  reports = {
    "good": _make_report(6 * _GIB, 8 * _GIB),
    "bad": _make_report(11 * _GIB, 8 * _GIB),
  }
  lines = compile_report.format_summary(reports, "..").splitlines()
  cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
  header, _, good, bad = (
    dict(zip(cells[0], row, strict=True)) for row in cells
  )
  assert set(header) == set(good)
  assert good["report"] == "[good](../good.json)"
  assert good["devices"] == "4 Abacus"
  assert (good["fits"], good["peak GiB"], good["limit GiB"]) == (
    "yes", "6.00", "8.00"
  )  # fmt: skip
  assert good["saved activations GiB"] == "0.50"
  assert good["step s, at least"] == "12.000"
  assert good["MFU, at most"] == "83%"
  assert (bad["fits"], bad["step s, at least"]) == ("no", "–")
