"""Tests of data/sources/generator_options.py."""

import pytest

from distill_jax.data.sources import generator_options
from distill_jax.errors import UserError


def test_what_fits_is_accepted():
  for split in generator_options.SPLITS:
    generator_options.check_split("toy", split)
  for value in (1, 5):
    generator_options.check_integer("toy", "size", value, 1, 5)
  for share in (0, 0.5, 1):
    generator_options.check_share("toy", "rate", share)


def test_an_unknown_split_is_refused():
  with pytest.raises(UserError, match="toy has no split 'dev'; it has train,"):
    generator_options.check_split("toy", "dev")


@pytest.mark.parametrize("value", [0, 6, 2.0, True, "2", None])
def test_a_number_beyond_its_limits_is_refused(value):
  with pytest.raises(UserError, match=r"size of toy is .* 1 to 5\. Of 5\.$"):
    generator_options.check_integer("toy", "size", value, 1, 5, "Of 5.")


@pytest.mark.parametrize("value", [-0.1, 1.1, True, "0.5", None, float("nan")])
def test_what_is_no_share_is_refused(value):
  with pytest.raises(UserError, match="rate of toy is .* from 0 to 1"):
    generator_options.check_share("toy", "rate", value)
