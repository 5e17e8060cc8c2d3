"""Locks, torn ends and full disks."""

import os
import subprocess
import sys

import pytest

from distill_jax.errors import UserError
from distill_jax.files import append_file


def _open(path):
  return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)


def _is_whole(line):
  return line == b"whole"


def test_a_lock_is_had_by_one_and_names_it(tmp_path):
  path = tmp_path / "folder" / "a.lock"
  first = append_file.lock(path, "It")
  with pytest.raises(UserError, match=f"It is in use by process {os.getpid()}"):
    append_file.lock(path, "It")
  os.close(first)
  os.close(append_file.lock(path, "It"))


def test_a_lock_ends_with_its_process(tmp_path):
  path = tmp_path / "a.lock"
  program = (
    "import os, pathlib, sys\n"
    "from distill_jax.files import append_file\n"
    "append_file.lock(pathlib.Path(sys.argv[1]), 'It')\n"
    "print('locked', flush=True)\n"
    "sys.stdin.read()\n"
  )
  with subprocess.Popen(
    [sys.executable, "-c", program, path],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == "locked\n"
    with pytest.raises(UserError, match=f"process {process.pid}"):
      append_file.lock(path, "It")
    process.kill()
    process.wait()
    os.close(append_file.lock(path, "It"))


def test_shared_locks_keep_out_the_one_that_is_not(tmp_path):
  path = tmp_path / "a.lock"
  shared = [append_file.lock(path, "It", is_shared=True) for _ in range(2)]
  with pytest.raises(UserError, match="in use"):
    append_file.lock(path, "It")
  for descriptor in shared:
    os.close(descriptor)
  alone = append_file.lock(path, "It")
  with pytest.raises(UserError, match="in use"):
    append_file.lock(path, "It", is_shared=True)
  os.close(alone)


def test_what_stands_in_a_lock_is_not_repeated_unless_a_number(tmp_path):
  path = tmp_path / "a.lock"
  held = append_file.lock(path, "It")
  path.write_bytes(b"\x1b[31mevil")
  with pytest.raises(UserError, match="in use by process. Wait"):
    append_file.lock(path, "It")
  os.close(held)


@pytest.mark.parametrize(
  "content, left, torn",
  [
    (b"", b"", None),
    (b"one\n", b"one\n", None),
    (b"one\ntw", b"one\n", b"tw\n"),
    (b"one\nwhole", b"one\nwhole\n", None),
    (b"torn", b"", b"torn\n"),
    # What a power loss leaves.
    (b"one\n\0\0\0", b"one\n", b"\0\0\0\n"),
    (b"one\n" + b"x" * 200_000, b"one\n", b"x" * 200_000 + b"\n"),
  ],
)
def test_repairing(tmp_path, content, left, torn):
  path = tmp_path / "a.jsonl"
  path.write_bytes(content)
  descriptor = _open(path)
  append_file.repair_end(descriptor, path, _is_whole)
  os.close(descriptor)
  assert path.read_bytes() == left
  side = tmp_path / "a.jsonl.torn"
  assert (side.read_bytes() if side.exists() else None) == torn


def test_torn_ends_are_gathered(tmp_path):
  path = tmp_path / "a.jsonl"
  for torn in (b"first", b"second"):
    path.write_bytes(torn)
    descriptor = _open(path)
    append_file.repair_end(descriptor, path, _is_whole)
    os.close(descriptor)
  assert (tmp_path / "a.jsonl.torn").read_bytes() == b"first\nsecond\n"


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
  path = tmp_path / "a.jsonl"
  descriptor = _open(path)
  append_file.write_all(descriptor, b"one\n")
  write, num_calls = os.write, 0

  def write_a_little(descriptor, view):
    nonlocal num_calls
    num_calls += 1
    if num_calls == 2:
      raise OSError(28, "No space left on device")
    return write(descriptor, bytes(view)[:2])

  monkeypatch.setattr(os, "write", write_a_little)
  with pytest.raises(OSError, match="No space"):
    append_file.write_all(descriptor, b"two\n")
  os.close(descriptor)
  assert path.read_bytes() == b"one\n"
