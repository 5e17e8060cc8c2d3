"""Tests of config.py: what a family need not write."""

import toy_decoder


def test_a_family_accepts_any_device_and_length_unless_it_says_otherwise():
  config = toy_decoder.ToyConfig()
  config.check_platform("tpu")
  config.check_lengths({"inputs": 7, "targets": 3})
  assert config.describe() == repr(config)
  assert config.take_part(1) is config
  assert config.drop_run_settings() == config
  assert config.list_fields()["num_layers"] == 2
