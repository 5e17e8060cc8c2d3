"""The command: its flags, its mistakes and what it says without Beam."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

import gin
from distill_jax.errors import UserError
from distill_jax.runs import label_beam

_ROOT = pathlib.Path(__file__).parents[2]
_SETTINGS = [
  "--gin_file=gin/runs/label.gin",
  "--gin.INPUT_PATH='questions.jsonl'",
  "--gin.OUTPUT_PATH='out'",
  "--gin.TEACHER_MODEL='m'",
  "--gin.PROMPT='svamp'",
]
_HAS_BEAM = importlib.util.find_spec("apache_beam") is not None
_needs_beam = pytest.mark.skipif(
  not _HAS_BEAM,
  reason="apache_beam is not installed: pip install '.[beam]'",
)


@pytest.fixture(autouse=True)
def fixture_gin(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  gin.clear_config()
  yield
  gin.clear_config()


@pytest.mark.parametrize(
  "arguments, told",
  [
    ([], "--gin_file is missing"),
    (["--gin_file=absent.gin"], "There is no gin file absent.gin"),
    ([*_SETTINGS, "--gin.TEMPRATURE=1"], "Did you mean TEMPERATURE"),
    (_SETTINGS[:-1], "Missing: --gin.PROMPT=VALUE"),
    ([*_SETTINGS, "questions.jsonl"], "Unexpected arguments"),
    ([*_SETTINGS, "--rebuild"], "does not read --rebuild; distill-jax"),
    ([*_SETTINGS, "--shard=0/2"], "does not read --shard=0/2"),
  ],
)
def test_mistakes(arguments, told):
  with pytest.raises(UserError, match=told):
    label_beam.main(arguments)


def test_without_beam(monkeypatch):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  for name in [n for n in sys.modules if n.startswith("distill_jax.")]:
    if ".beam_" in name or name.endswith("label_pipeline"):
      monkeypatch.delitem(sys.modules, name)
  monkeypatch.delattr("distill_jax.runs.label_pipeline", raising=False)
  with pytest.raises(UserError, match=r"pip install 'distill_jax\[beam\]'"):
    label_beam.main(_SETTINGS)


@_needs_beam
def test_what_is_handed_on(monkeypatch):
  from distill_jax.runs import label_pipeline

  handed = []
  monkeypatch.setattr(
    label_pipeline, "run", lambda *arguments: handed.append(arguments) or 1
  )
  code = label_beam.main(
    [
      *_SETTINGS,
      "--num_shards=5",
      "--overwrite",
      "--runner=DirectRunner",
      "--direct_num_workers=2",
    ]
  )
  assert code == 1
  ((settings, config, overwrite, num_shards, beam_arguments),) = handed
  assert (settings.prompt, overwrite, num_shards) == ("svamp", True, 5)
  assert "PROMPT = 'svamp'" in config
  assert beam_arguments == ["--runner=DirectRunner", "--direct_num_workers=2"]


def test_the_end_of_a_command(tmp_path):
  """A user's mistake: exit code 2 and no stack trace."""
  process = subprocess.run(
    [sys.executable, "-m", "distill_jax.runs.label_beam", *_SETTINGS],
    cwd=tmp_path,
    env=os.environ | {"PYTHONPATH": str(_ROOT)},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert process.returncode == 2
  told = "matches no file" if _HAS_BEAM else "needs Apache Beam"
  assert f"distill-jax: {'INPUT_PATH' if _HAS_BEAM else 'Labelling'}" in (
    process.stderr
  )
  assert told in process.stderr
  assert "Traceback" not in process.stderr
  assert list(tmp_path.iterdir()) == []


def test_an_interrupt_that_beam_has_wrapped():
  try:
    try:
      raise KeyboardInterrupt
    except KeyboardInterrupt as error:
      raise RuntimeError("while running 'Ask'") from error
  except RuntimeError as error:
    assert label_beam._is_interrupt(error)
  assert not label_beam._is_interrupt(RuntimeError("a bug"))
