"""Tests of files/atomic.py."""

import pytest

from distill_jax.files import atomic


def test_a_file_takes_the_place_of_another(tmp_path):
  path = tmp_path / "file.txt"
  atomic.write_text(path, "old")
  atomic.write_text(path, "ä\n")
  assert path.read_bytes() == "ä\n".encode()
  assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / "file.txt"
  path.write_text("old")
  with pytest.raises(RuntimeError), atomic.writing(path) as unfinished:
    unfinished.write_text("half")
    assert path.read_text() == "old"
    raise RuntimeError
  assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_what_a_killed_writer_leaves_is_known_by_its_suffix(tmp_path):
  with atomic.writing(tmp_path / ("x" * 255)) as unfinished:
    assert unfinished.suffix == atomic.UNFINISHED
    assert unfinished.parent == tmp_path
    unfinished.write_text("")
  assert (tmp_path / ("x" * 255)).exists()


def test_a_missing_folder_is_not_made(tmp_path):
  with pytest.raises(FileNotFoundError):
    atomic.write_bytes(tmp_path / "none" / "file", b"")
