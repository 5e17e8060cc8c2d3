"""What makes two requests one."""

import dataclasses

import pytest

from distill_jax.teacher.asking import exchange

REQUEST = exchange.Request(
  "a-model",
  "chat",
  [{"role": "user", "content": "Wie groß? 😀"}],
  {"temperature": 0.7, "max_tokens": 64, "stop": ["\nQ:"]},
)


def test_equal_requests_have_one_key_whatever_the_order():
  parameters = dict(reversed(REQUEST.parameters.items()))
  assert list(parameters) != list(REQUEST.parameters)
  same = dataclasses.replace(REQUEST, parameters=parameters)
  assert same.key == REQUEST.key
  tupled = dataclasses.replace(REQUEST, prompt=tuple(REQUEST.prompt))
  assert tupled.key == REQUEST.key


def test_the_key_is_stable_across_releases():
  # Journals are keyed by it: a change would ask, and pay for, all of it again.
  assert REQUEST.key == (
    "e53de36ca4cfe8c32fb74f24e7a5387f1168bc57a32e4017a6b5cad232e9e299"
  )


@pytest.mark.parametrize(
  "change",
  [
    {"model": "another"},
    {"endpoint": "completions"},
    {"prompt": [{"role": "user", "content": "Wie groß? 😀 "}]},
    {"prompt": [{"role": "system", "content": "Wie groß? 😀"}]},
    {"parameters": {"temperature": 0.7, "max_tokens": 64}},
    {"parameters": {**REQUEST.parameters, "seed": 1}},
    {"sample_index": 1},
  ],
  ids=str,
)
def test_every_part_counts(change):
  assert dataclasses.replace(REQUEST, **change).key != REQUEST.key


def test_a_key_is_plain_whatever_the_prompt_holds():
  odd = dataclasses.replace(REQUEST, prompt="\ud800\x00\n" * 1000)
  assert len(odd.key) == 64 and set(odd.key) <= set("0123456789abcdef")


def test_an_error_says_what_became_of_the_request():
  error = exchange.TeacherError(
    "slow down", kind="rate_limited", is_final=False, num_attempts=3
  )
  assert str(error) == "slow down"
  assert (error.kind, error.is_final, error.num_attempts) == (
    "rate_limited",
    False,
    3,
  )
