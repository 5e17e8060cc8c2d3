"""Tests of hf_form.py: what a form need not say."""

import pathlib

import toy_decoder


def test_a_form_checks_and_adds_nothing_unless_it_says_so():
  form = toy_decoder.FAMILY.hf
  form.check_config_fn({"model_type": "toy_decoder"}, pathlib.Path("x"))
  form.check_generation_fn({"pad_token_id": 5}, pathlib.Path("x"))
  config = toy_decoder.ToyConfig()
  assert form.make_generation_fn(config) == {}
  assert form.list_notes_fn(config) == []
