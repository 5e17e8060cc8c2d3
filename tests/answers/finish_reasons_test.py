"""Tests of answers/finish_reasons.py."""

import pytest

from distill_jax.answers import finish_reasons
from distill_jax.teacher.asking import exchange


@pytest.mark.parametrize(
  "finish_reason",
  """content_filter content-filter contentFilter CONTENT_FILTER SAFETY error
  ERROR failed incomplete cancelled refusal PROHIBITED_CONTENT
  FINISH_REASON_SAFETY FinishReason.SAFETY IMAGE_SAFETY ERROR_TOXIC
  """.split(),
)
def test_errors_and_filters_break_an_output_off(finish_reason):
  assert finish_reasons.is_broken_off(finish_reason)
  assert not finish_reasons.is_length(finish_reason)
  response = exchange.Response("x", finish_reason, 1, 1, "m", 0.0, 1)
  assert "cut the answer off" in response.problem


@pytest.mark.parametrize(
  "finish_reason", ["length", "MAX_TOKENS", "max_output_tokens", "maxTokens"]
)
def test_used_up_tokens_do_not_break_an_output_off(finish_reason):
  assert finish_reasons.is_length(finish_reason)
  assert not finish_reasons.is_broken_off(finish_reason)


@pytest.mark.parametrize("finish_reason", [None, "", "stop", "tool_calls", "x"])
def test_other_reasons_are_neither(finish_reason):
  assert not finish_reasons.is_broken_off(finish_reason)
  assert not finish_reasons.is_length(finish_reason)
