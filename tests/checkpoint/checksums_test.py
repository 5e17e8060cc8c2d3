"""Checksums: every byte of a folder counts, and nothing outside of it."""

import json
import shutil

import pytest

from distill_jax.checkpoint import checksums


@pytest.fixture(name="folder")
def fixture_folder(tmp_path):
  folder = tmp_path / "7"
  (folder / "state" / "d").mkdir(parents=True)
  (folder / "state" / "d" / "0").write_bytes(bytes(range(256)))
  (folder / "state" / "empty").write_bytes(b"")
  (folder / "metrics").write_text('{"a":1}')
  checksums.write(folder)
  return folder


def test_a_folder_without_checksums_is_not_compared(tmp_path):
  (tmp_path / "file").write_text("")
  assert not checksums.verify(tmp_path)


def test_an_untouched_folder_is_whole_wherever_it_lies(folder, tmp_path):
  assert checksums.verify(folder)
  assert checksums.verify(shutil.copytree(folder, tmp_path / "elsewhere"))


def test_a_flip_of_any_byte_of_any_file_is_found(folder):
  files = [file for file in folder.rglob("*") if file.is_file()]
  assert len(files) == 4
  flipped = 0
  for file in files:
    content = file.read_bytes()
    for place in range(len(content)):
      flip = bytes([content[place] ^ (1 << place % 8)])
      file.write_bytes(content[:place] + flip + content[place + 1 :])
      with pytest.raises(checksums.DamageError):
        checksums.verify(folder)
      flipped += 1
    file.write_bytes(content)
  assert flipped > 390
  assert checksums.verify(folder)


def test_what_is_wrong_is_named(folder):
  (folder / "metrics").write_text("{}")
  (folder / "state" / "empty").unlink()
  (folder / "state" / "d" / "0").write_bytes(bytes(256))
  with pytest.raises(checksums.DamageError) as raised:
    checksums.verify(folder)
  assert str(raised.value) == (
    "metrics has 2 bytes, not 7, state/d/0 has other bytes than were saved,"
    " state/empty is missing"
  )


@pytest.mark.parametrize(
  "content", ["", "{", "[]", "{}", '{"files":[]}', '{"files":{"a":1}}', "\x00"]
)
def test_a_manifest_that_is_none_is_damage(folder, content):
  (folder / "checksums.json").write_text(content)
  with pytest.raises(checksums.DamageError, match="checksums.json"):
    checksums.verify(folder)


def test_files_written_later_are_added_and_others_kept(folder):
  before = (folder / "checksums.json").read_bytes()
  checksums.write(folder)
  assert (folder / "checksums.json").read_bytes() == before
  (folder / "late").write_text("late")
  # Summed up once: what changed since is not taken for what was saved.
  (folder / "metrics").write_text("other")
  checksums.write(folder, leave_out="late")
  assert (folder / "checksums.json").read_bytes() == before
  checksums.write(folder)
  with pytest.raises(checksums.DamageError, match="^metrics has 5 bytes"):
    checksums.verify(folder)
  (folder / "metrics").write_text('{"a":1}')
  assert checksums.verify(folder)
  (folder / "late").write_text("lost")
  with pytest.raises(checksums.DamageError, match="^late has other bytes"):
    checksums.verify(folder)


def test_names_in_the_manifest_are_never_opened(folder, tmp_path):
  (tmp_path / "secret").write_text("")
  sums = json.loads((folder / "checksums.json").read_text())
  sums["files"]["../secret"] = {"bytes": 0, "crc32": 0}
  (folder / "checksums.json").write_text(json.dumps(sums))
  with pytest.raises(checksums.DamageError, match="../secret is missing"):
    checksums.verify(folder)


def test_several_share_the_files_and_one_finds_the_damage(folder):
  assert all(checksums.verify(folder, part, 2) for part in range(2))
  (folder / "state" / "d" / "0").write_bytes(b"?")
  found = 0
  for part in range(2):
    try:
      checksums.verify(folder, part, 2)
    except checksums.DamageError as error:
      assert "state/d/0 has 1 bytes, not 256" in str(error)
      found += 1
  assert found == 1
