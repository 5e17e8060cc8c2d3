"""Tests of answers/answer_choices.py."""

import json

import pytest

from distill_jax.answers.answer_choices import read_choices
from distill_jax.data.sources import official


@pytest.mark.parametrize(
  "choices",
  [
    ["river", "zoo"],
    ["zoo", "zoo", " north ", "(b) or (c)", "Answer Choices: all", "東京"],
    [f"choice {index}" for index in range(26)],
  ],
)
def test_choices_are_read_as_the_release_is_formatted(tmp_path, choices):
  folder = tmp_path / "cqa"
  folder.mkdir()
  row = {
    "id": "1",
    "question": "Where?\nAnswer Choices:\n(a) not these\n(b) two",
    "choices": choices,
    "answer": choices[0],
  }
  (folder / "cqa_test.json").write_text(json.dumps(row) + "\n")
  (record,) = official.read_split(tmp_path, "cqa", "test", "strict")
  assert read_choices(f"predict: {record.input}") == tuple(choices)


@pytest.mark.parametrize(
  "text",
  [
    "Where?",
    "",
    "Answer Choices:\n",
    "Answer Choices:\n(a) one",
    "Answer Choices:\n(a) one\n(c) two",
    "Answer Choices:\n(a) one\n(b) two\n",
    "Answer Choices:\n(a) one\n(b) two\nWhich?",
    "Answer Choices: (a) one (b) two",
  ],
)
def test_anything_else_lists_no_choices(text):
  assert read_choices(text) is None
