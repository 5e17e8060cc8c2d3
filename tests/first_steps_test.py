"""Tests of docs/first_steps.ipynb: it is a notebook, and it runs."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import distill_jax

_NOTEBOOK = pathlib.Path(__file__).parents[1] / "docs" / "first_steps.ipynb"


def _read_cells():
  """Returns the source of each cell of code."""
  notebook = json.loads(_NOTEBOOK.read_text(encoding="utf-8"))
  assert notebook["nbformat"] == 4
  return [
    "".join(cell["source"])
    for cell in notebook["cells"]
    if cell["cell_type"] == "code"
  ]


def test_it_uses_what_is_public():
  program = compile("\n".join(_read_cells()), str(_NOTEBOOK), "exec")
  assert {"train", "evaluate"} < {*program.co_names} & {*distill_jax.__all__}
  outputs = [
    cell.get("outputs")
    for cell in json.loads(_NOTEBOOK.read_text(encoding="utf-8"))["cells"]
  ]
  assert not any(outputs)  # They would grow old.


@pytest.mark.slow
@pytest.mark.tf
def test_it_runs(tmp_path):
  pytest.importorskip("seqio")
  program = "\n".join(
    [
      *_read_cells(),
      "print([prediction.value for prediction in student.predict(questions)])",
    ]
  )
  process = subprocess.run(
    [sys.executable, "-c", program],
    cwd=tmp_path,
    env=os.environ | {"HOME": str(tmp_path)},
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert process.returncode == 0, process.stderr
  # It has learned, and says how far it is.
  assert process.stdout.splitlines()[-1] == "[7, 11]"
  assert "step 60/60" in process.stderr
  assert " Preparing records_" in process.stderr
