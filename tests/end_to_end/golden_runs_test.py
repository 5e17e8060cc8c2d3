"""Small trainings by the command line give the numbers that they always gave.

The committed numbers are compared to a tolerance: on other processors sums are
rounded in another order. Counts, prompts and records are compared exactly.
scripts/make_golden_runs.py compares two checkouts on one machine bit by bit.
"""

import copy
import json
import pathlib
import subprocess
import sys

import pytest
from script_import import SCRIPTS, import_script

_script = import_script("make_golden_runs")
_settings = import_script("golden_settings")
_comparison = import_script("golden_comparison")
_PATH = pathlib.Path(__file__).parents[1] / "testdata" / "golden_runs.json"
_GOLDEN = json.loads(_PATH.read_text())
_SLOW = tuple(name for name in _settings.NAMES if name not in _settings.FAST)


def _make(names, path):
  """Runs settings in processes of their own; returns their portable results."""
  process = subprocess.run(
    [sys.executable, SCRIPTS / "make_golden_runs.py"]
    + [f"--portable={path}", "--only", *names],
    capture_output=True,
    text=True,
  )
  assert process.returncode == 0, process.stderr[-4000:]
  return json.loads(path.read_text())


def _check(names, path):
  made = _make(names, path)
  assert list(made) == sorted(names)
  lines = []
  for name in names:
    lines += _comparison.find_differences(
      _GOLDEN[name], made[name], _settings.TOLERANCES[name], f"/{name}"
    )
  assert not lines, "\n".join(lines[:20])


@pytest.mark.tf
def test_the_fast_settings_give_their_numbers(tmp_path):
  _check(_settings.FAST, tmp_path / "made.json")


@pytest.mark.tf
@pytest.mark.slow
def test_the_other_settings_give_their_numbers(tmp_path):
  _check(_SLOW, tmp_path / "made.json")


def test_every_setting_has_numbers():
  assert sorted(_GOLDEN) == sorted(_settings.NAMES)
  for name in _settings.SETTINGS:
    steps = [
      row["step"] for row in _GOLDEN[name]["train"] if row["split"] == "train"
    ]
    assert steps == [*range(1, _settings.TRAIN_STEPS + 1)], name


def _first_loss(golden):
  return golden[_settings.FAST[0]]["train"][0]


@pytest.mark.parametrize(
  ("name", "change", "differs"),
  [
    ("loss", 1 + 1e-5, False),
    ("loss", 1 + 1e-3, True),
    ("label_tokens", 1 + 1e-5, True),
  ],
)
def test_a_changed_number_is_found(name, change, differs):
  changed = copy.deepcopy(_GOLDEN)
  _first_loss(changed)[name] *= change
  lines = _comparison.find_differences(
    _GOLDEN, changed, _settings.RELATIVE_TOLERANCE
  )
  assert bool(lines) == differs
  assert all(
    line.startswith(f"/{_settings.FAST[0]}/train[0]") for line in lines
  )
  # Two checkouts on one machine have no tolerance.
  assert len(_comparison.find_differences(_GOLDEN, changed)) == 1


def test_a_changed_prompt_and_a_missing_record_are_found():
  changed = copy.deepcopy(_GOLDEN)
  changed["label"]["label"]["asked"][0] += "0"
  changed["label"]["vote"]["files"]["records.jsonl"].pop()
  lines = _comparison.find_differences(_GOLDEN, changed, 1.0)
  assert [line.split(":")[0] for line in lines] == [
    "/label/label/asked[0]",
    "/label/vote/files/records.jsonl",
  ]


def test_comparing_files_prints_the_first_differences(tmp_path, capsys):
  changed = copy.deepcopy(_GOLDEN)
  _first_loss(changed)["loss"] += 1
  (tmp_path / "new.json").write_text(json.dumps(changed))
  new = str(tmp_path / "new.json")
  assert _script.main(["--compare", str(_PATH), str(_PATH)]) == 0
  assert "Identical" in capsys.readouterr().out
  assert _script.main(["--compare", str(_PATH), new]) == 1
  printed = capsys.readouterr().out
  assert f"/{_settings.FAST[0]}/train[0]/loss: " in printed
  assert "1 differences" in printed
