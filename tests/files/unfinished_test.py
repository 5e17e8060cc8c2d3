"""Tests of files/unfinished.py.

What kills leave goes, what others build stays.
"""

import json
import os
import signal
import subprocess
import sys

import pytest

from distill_jax.files import process_identity, unfinished

PREFIX = ".writing-"
KILLED = """
import os, pathlib, signal, sys
from distill_jax.files import unfinished

work = unfinished.UnfinishedFolder(pathlib.Path(sys.argv[1]), ".writing-")
rename = os.rename

def rename_and_die(source, target):
  rename(source, target)
  os.kill(os.getpid(), signal.SIGKILL)

with work:
  (work.content / "weights").write_text("new")
  if sys.argv[2] == "replacing":
    os.rename = rename_and_die
    work.put_in_place()
  os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(name="folder")
def fixture_folder(tmp_path):
  return tmp_path / "t5"


def build(folder, text="built"):
  with unfinished.UnfinishedFolder(folder, PREFIX) as work:
    (work.content / "weights").write_text(text)
    work.put_in_place()


def kill_while(folder, when):
  process = subprocess.run([sys.executable, "-c", KILLED, str(folder), when])
  assert process.returncode == -signal.SIGKILL


def leave(path, **changes):
  outer = path.with_name(f"{PREFIX}t5-1")
  outer.mkdir()
  owner = process_identity.describe() | {"folder": path.name} | changes
  (outer / "owner.json").write_text(json.dumps(owner))
  return outer


def test_it_appears_when_complete(folder):
  with unfinished.UnfinishedFolder(folder, PREFIX) as work:
    (work.content / "weights").write_text("built")
    assert not folder.exists()
    work.put_in_place()
  assert [path.name for path in folder.parent.iterdir()] == ["t5"]
  assert [path.name for path in folder.iterdir()] == ["weights"]


def test_what_was_there_is_replaced(folder):
  build(folder, "first")
  build(folder, "second")
  assert (folder / "weights").read_text() == "second"
  assert list(folder.parent.iterdir()) == [folder]


def test_an_error_leaves_what_was_there(folder):
  build(folder, "first")
  with pytest.raises(ValueError, match="stop"):
    with unfinished.UnfinishedFolder(folder, PREFIX):
      raise ValueError("stop")
  assert (folder / "weights").read_text() == "first"
  assert list(folder.parent.iterdir()) == [folder]


def test_a_failed_move_puts_the_old_one_back(folder, monkeypatch):
  build(folder, "first")
  rename = os.rename

  def fail(source, target):
    if str(source).endswith("content"):
      raise OSError("no space")
    rename(source, target)

  monkeypatch.setattr(os, "rename", fail)
  with pytest.raises(OSError, match="no space"):
    build(folder, "second")
  assert (folder / "weights").read_text() == "first"
  assert list(folder.parent.iterdir()) == [folder]


def test_the_next_removes_what_a_kill_left(folder, caplog):
  kill_while(folder, "writing")
  (left,) = folder.parent.iterdir()
  assert left.name.startswith(PREFIX)
  build(folder.with_name("another"))
  assert "left unfinished" in caplog.text
  assert [path.name for path in folder.parent.iterdir()] == ["another"]


def test_killed_between_two_moves_the_old_one_comes_back(folder, caplog):
  build(folder, "first")
  kill_while(folder, "replacing")
  assert not folder.exists()
  unfinished.remove_dead(folder.parent, PREFIX)
  assert (folder / "weights").read_text() == "first"
  assert list(folder.parent.iterdir()) == [folder]
  assert "is put back as it was" in caplog.text


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"pid": 2**22 + 1, "host": "far", "machine": "another"},
    {"pid": 2**22 + 1, "pid_namespace": "another"},
    {"pid": "7"},
    {"folder": None},
  ],
  ids=["living", "host", "namespace", "no pid", "no folder"],
)
def test_what_may_still_be_written_stays(folder, changes):
  outer = leave(folder, **changes)
  build(folder)
  assert (outer / "owner.json").exists()


def test_what_names_nobody_stays(folder):
  outer = folder.with_name(f"{PREFIX}t5-123")
  outer.mkdir()
  build(folder)
  assert outer.exists()


def test_no_path_in_the_note_is_followed(folder):
  elsewhere = folder.parent / "elsewhere"
  outer = leave(folder, pid=2**22 + 1, folder="../elsewhere/t5")
  (outer / "replaced").mkdir()
  elsewhere.mkdir()
  unfinished.remove_dead(folder.parent, PREFIX)
  assert list(elsewhere.iterdir()) == []


def test_what_threads_still_write_goes_too(folder, monkeypatch):
  calls = []
  clear = unfinished._clear

  def clear_and_write_again(outer, final):
    clear(outer, final)
    calls.append(outer)
    if len(calls) == 1:
      (outer / "content").mkdir(parents=True)

  monkeypatch.setattr(unfinished, "_clear", clear_and_write_again)
  with pytest.raises(KeyboardInterrupt):
    with unfinished.UnfinishedFolder(folder, PREFIX):
      raise KeyboardInterrupt
  assert len(calls) == 2
  assert list(folder.parent.iterdir()) == []


def test_an_interrupt_is_told_truly(folder, monkeypatch):
  work = unfinished.UnfinishedFolder(folder, PREFIX)
  with pytest.raises(KeyboardInterrupt), work:
    raise KeyboardInterrupt
  assert work.describe_end() == "nothing was written."
  work = unfinished.UnfinishedFolder(folder, PREFIX)
  with pytest.raises(KeyboardInterrupt), work:
    work.put_in_place()
    raise KeyboardInterrupt
  assert work.describe_end() == f"{folder} is complete."
  monkeypatch.setattr(unfinished.shutil, "rmtree", lambda *_, **__: None)
  monkeypatch.setattr(unfinished, "_REMOVE_SECONDS", 0.0)
  work = unfinished.UnfinishedFolder(folder.with_name("other"), PREFIX)
  with pytest.raises(KeyboardInterrupt), work:
    raise KeyboardInterrupt
  assert "nothing was written, but" in work.describe_end()
  assert "is left; remove it." in work.describe_end()
