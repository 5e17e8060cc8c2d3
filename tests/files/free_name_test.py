"""Tests of files/free_name.py: nothing takes the place of anything."""

import pytest

from distill_jax.files import free_name


@pytest.mark.parametrize(
  "name,second,third",
  [
    ("5.superseded.json", "5.superseded-2.json", "5.superseded-3.json"),
    ("damaged-300", "damaged-300-2", "damaged-300-3"),
  ],
)
def test_a_taken_name_is_numbered(tmp_path, name, second, third):
  for expected in (name, second, third):
    found = free_name.find_free_name(tmp_path / name)
    assert found == tmp_path / expected
    found.mkdir()
