"""Tests of checkpoint/damage.py: what several processes find, all know.

What one process finds, and what becomes of it, is tested with `manager`.
"""

import pytest

from distill_jax.checkpoint import checksums, damage
from distill_jax.errors import UserError
from distill_jax.hosts import distributed


@pytest.fixture(name="folder")
def fixture_folder(tmp_path):
  folder = tmp_path / "7"
  folder.mkdir()
  for name in "abcd":
    (folder / name).write_text(name)
  checksums.write(folder)
  return folder


def verify_as(monkeypatch, folder, index, answers):
  """Verifies as one of two processes; the other one's answer is given."""

  def gather(name, found):
    answers[index] = found
    return answers

  monkeypatch.setattr(distributed, "process_count", lambda: 2)
  monkeypatch.setattr(distributed, "process_index", lambda: index)
  monkeypatch.setattr(distributed, "gather", gather)
  return damage.verify(folder)


WHOLE = {"problem": None, "is_damage": False, "has_checksums": True}


@pytest.mark.parametrize("index", [0, 1])
def test_what_one_process_finds_is_damage_for_both(monkeypatch, folder, index):
  # The second of the files is in the second part.
  (folder / "b").write_text("?")
  answers = [dict(WHOLE), dict(WHOLE)]
  if index == 0:
    assert verify_as(monkeypatch, folder, 0, answers)
    answers[1] = {"problem": "b has other bytes", "is_damage": True}
  with pytest.raises(damage.DamagedCheckpointError, match="b has other bytes"):
    verify_as(monkeypatch, folder, index, answers)


def test_whole_files_are_whole_for_both(monkeypatch, folder):
  assert verify_as(monkeypatch, folder, 1, [dict(WHOLE), {}])
  (folder / checksums.MANIFEST).unlink()
  answers = [WHOLE | {"has_checksums": False}, {}]
  assert not verify_as(monkeypatch, folder, 1, answers)


def test_a_process_that_cannot_read_is_named_and_it_is_no_damage(
  monkeypatch, folder
):
  problem = {"problem": "[Errno 13] Permission denied", "is_damage": False}
  with pytest.raises(UserError, match="cannot be read by process 0: .*denied"):
    verify_as(monkeypatch, folder, 1, [problem, {}])
  assert folder.exists()
  assert not list(folder.parent.glob("damaged*"))


def test_what_is_set_aside_has_a_name_of_its_own(tmp_path):
  for _ in range(3):
    (tmp_path / "5").mkdir()
    damage.set_aside(tmp_path / "5", ValueError("torn"))
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ["damaged-5", "damaged-5-2", "damaged-5-3"]


def test_steps_are_folders_with_a_number_for_a_name(tmp_path):
  assert damage.list_steps(tmp_path / "absent") == []
  for name in ("10", "9", "11.orbax-checkpoint-tmp", "damaged-8"):
    (tmp_path / name).mkdir()
  assert damage.list_steps(tmp_path) == [9, 10]
