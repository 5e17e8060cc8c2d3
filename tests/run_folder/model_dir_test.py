"""Tests of run_folder/model_dir.py: nothing is lost that was not asked for."""

import dataclasses
import json
import threading

import pytest

from distill_jax.errors import UserError
from distill_jax.hosts import distributed
from distill_jax.run_folder import model_dir, run_record

RECORD = run_record.RunRecord({"seed": 0}, "/cache", 1, "1 cpu", {})
OTHER = dataclasses.replace(RECORD, identity={"seed": 1})


def begin(folder, record=RECORD, config="A = 1\n"):
  model_dir.begin(folder, record, config, None)


def test_a_new_folder_begins_and_is_resumed(tmp_path):
  folder = tmp_path / "run"
  assert not model_dir.check(folder, RECORD, overwrite=False)
  assert not folder.exists()
  begin(folder)
  assert model_dir.check(folder, RECORD, overwrite=False)
  assert (folder / "config.gin").read_text() == "A = 1\n"
  assert json.loads((folder / "run.json").read_text())["num_params"] == 1


def test_another_run_is_refused_and_untouched(tmp_path):
  begin(tmp_path)
  with pytest.raises(UserError, match="seed: 0 before, 1 now"):
    model_dir.check(tmp_path, OTHER, overwrite=False)
  assert run_record.read_record(tmp_path) == RECORD


def test_overwrite_removes_the_run_and_nothing_else(tmp_path):
  begin(tmp_path)
  (tmp_path / "checkpoints" / "3").mkdir(parents=True)
  (tmp_path / "metrics.jsonl").write_text("{}")
  (tmp_path / "notes.txt").write_text("mine")
  assert not model_dir.check(tmp_path, OTHER, overwrite=True)
  assert (tmp_path / "checkpoints" / "3").exists()
  begin(tmp_path, OTHER, "B = 2\n")
  found = {path.name for path in tmp_path.iterdir()}
  assert found == {"run.json", "config.gin", "notes.txt"}
  assert run_record.read_record(tmp_path) == OTHER


@pytest.mark.parametrize("is_overwriting", [False, True])
@pytest.mark.parametrize("missing", ["run.json", "vocabulary.model"])
def test_a_kill_while_it_begins_is_no_hindrance(
  tmp_path, monkeypatch, missing, is_overwriting
):
  vocabulary = tmp_path / "some.model"
  vocabulary.write_bytes(b"pieces")
  folder = tmp_path / "run"
  if is_overwriting:
    begin(folder)

  def kill(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patched:
    if missing == "run.json":
      patched.setattr(run_record.RunRecord, "write", kill)
    else:
      patched.setattr(run_record, "keep_vocabulary", kill)
    with pytest.raises(KeyboardInterrupt):
      model_dir.begin(folder, OTHER, "B = 2\n", str(vocabulary))
  resumes = model_dir.check(folder, OTHER, overwrite=is_overwriting)
  assert resumes == (missing != "run.json" and not is_overwriting)
  if resumes:
    model_dir.note_resume(folder, "B = 2\n", 0, str(vocabulary))
  else:
    model_dir.begin(folder, OTHER, "B = 2\n", str(vocabulary))
  assert {path.name for path in folder.iterdir()} == {
    "run.json",
    "config.gin",
    "vocabulary.model",
  }
  assert run_record.read_record(folder) == OTHER


def test_a_job_that_slurm_gives_again_overwrites_nothing(tmp_path, monkeypatch):
  monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
  begin(tmp_path)
  assert not model_dir.check(tmp_path, RECORD, overwrite=True)
  monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
  with pytest.raises(UserError, match="Leave --overwrite out of jobs"):
    model_dir.check(tmp_path, RECORD, overwrite=True)
  assert model_dir.check(tmp_path, RECORD, overwrite=False)
  # Where nothing was saved there is nothing to lose.
  assert not model_dir.check(tmp_path / "new", RECORD, overwrite=True)


def test_files_of_something_else_are_refused(tmp_path):
  (tmp_path / "notes.txt").write_text("mine")
  with pytest.raises(UserError, match="has files but no run"):
    model_dir.check(tmp_path, RECORD, overwrite=True)


def test_what_a_crash_left_unfinished_is_no_hindrance(tmp_path):
  (tmp_path / "run.writing").write_text("{")
  assert not model_dir.check(tmp_path, RECORD, overwrite=False)


def test_a_file_is_no_folder(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="is a file"):
    model_dir.check(tmp_path / "file", RECORD, overwrite=False)
  with pytest.raises(UserError, match="cannot be written"):
    begin(tmp_path / "file" / "run")


@pytest.fixture(name="second")
def fixture_second(monkeypatch):
  """What process 1 of two has to say of MODEL_DIR."""
  told = []
  monkeypatch.setattr(distributed, "process_count", lambda: 2)
  monkeypatch.setattr(
    distributed, "agree", lambda name, problem: told.append(problem)
  )
  return told


def test_a_folder_that_is_not_shared_is_told_of(tmp_path, second):
  model_dir.check_shared(tmp_path, RECORD, wait_seconds=0.0)
  begin(tmp_path, OTHER)
  model_dir.check_shared(tmp_path, RECORD, wait_seconds=0.0)
  (tmp_path / "run.json").write_text("{")
  model_dir.check_shared(tmp_path, RECORD, wait_seconds=0.0)
  for problem, told in zip(
    second,
    ("it holds no run", "a run with other settings", "run.json cannot be read"),
    strict=True,
  ):
    assert told in problem
  assert all("that all hosts share" in problem for problem in second)


def test_a_folder_of_a_network_is_waited_for(tmp_path, second):
  timer = threading.Timer(0.3, begin, [tmp_path])
  timer.start()
  model_dir.check_shared(tmp_path, RECORD, wait_seconds=30.0)
  timer.join()
  assert second == [None]


def test_resuming_keeps_the_first_settings(tmp_path):
  begin(tmp_path)
  model_dir.note_resume(tmp_path, "A = 1\n", 5)
  assert not list(tmp_path.glob("config-*"))
  model_dir.note_resume(tmp_path, "A = 2\n", 5)
  assert (tmp_path / "config.gin").read_text() == "A = 1\n"
  assert (tmp_path / "config-from-step-5.gin").read_text() == "A = 2\n"
