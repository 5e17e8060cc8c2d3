"""Settings of labelling: teachers and what decides requests."""

import pytest

from distill_jax.errors import UserError
from distill_jax.runs.label_settings import LabelRun
from distill_jax.teacher.transports.config import TeacherConfig

_CLIENT = TeacherConfig("https://one/v1")
_OWN = {
  "model": "b",
  "base_url": "https://two:443/v1/",
  "api_key_variable": "TWO_KEY",
  "temperature": None,
}


def make_settings(**fields):
  defaults = {
    "input_path": "q.jsonl",
    "output_path": "out",
    "teacher_model": "a",
    "prompt": "svamp",
    "client": _CLIENT,
  }
  return LabelRun(**(defaults | fields))


def test_one_teacher():
  variant = make_settings().make_variant()
  assert variant.models == ("a",)
  assert variant.addresses == {"a": "https://one/v1"}
  # As older versions described it, so that their folders are still the same.
  assert set(variant.describe()) == {
    "models",
    "endpoint",
    "temperature",
    "top_p",
    "seed",
    "num_samples",
    "max_tokens",
    "max_tokens_field",
    "parse",
    "accuracies",
    "prompt",
    "order",
  }


def test_teachers_of_several_servers():
  settings = make_settings(teacher_model=["a", _OWN])
  variant = settings.make_variant()
  assert variant.addresses == {"a": "https://one/v1", "b": "https://two/v1"}
  assert variant.get_asking("a")["temperature"] == 0.0
  assert variant.get_asking("b")["temperature"] is None
  assert variant.describe()["teacher_settings"] == {"b": {"temperature": None}}
  # One by itself keeps its own; one that is not listed is as the settings say.
  assert settings.make_variant(models=("b",)).addresses == {
    "b": "https://two/v1"
  }
  assert settings.make_variant(models=("c",)).addresses == {
    "c": "https://one/v1"
  }


def test_budgets_in_words():
  assert make_settings().describe_budget() == ""
  settings = make_settings(max_cost=2.5, max_total_tokens=1_000_000)
  assert settings.describe_budget() == (
    "MAX_COST (2.5) or MAX_TOTAL_TOKENS (1000000)"
  )


@pytest.mark.parametrize(
  "fields, told",
  [
    ({"teacher_model": 5}, "teacher_model is 5"),
    ({"teacher_model": ["a", {}]}, "TEACHER_MODEL holds what is no teacher"),
    ({"max_cost": -1}, "max_cost is -1"),
    ({"accept_addresses": "http://a"}, "ACCEPT_ADDRESSES is"),
  ],
)
def test_settings_that_cannot_be(fields, told):
  with pytest.raises(UserError, match=told):
    make_settings(**fields)


@pytest.mark.parametrize(
  "fields, told",
  [
    ({"rationale_from": "thoughts"}, "RATIONALE_FROM is 'thoughts'"),
    ({"extra_parameters": {"n": 2}}, "which NUM_SAMPLES sets"),
    (
      {"teacher_model": [{"model": "b", "temperature": 9}]},
      "TEACHER_MODEL, 'b': TEMPERATURE is 9",
    ),
    (
      {"teacher_model": ["a", {"model": "a", "temperature": 1}]},
      "names a model twice",
    ),
  ],
)
def test_ways_to_ask_that_cannot_be(fields, told):
  with pytest.raises(UserError, match=told):
    make_settings(**fields).make_variant()
