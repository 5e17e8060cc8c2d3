"""Tests of command_line.py: who asks for help, and what a wrong flag says."""

import pytest
from absl import flags

from distill_jax.config import command_line
from distill_jax.errors import UserError


@pytest.fixture(name="flag")
def fixture_flag(monkeypatch):
  values = flags.FlagValues()
  monkeypatch.setattr(flags, "FLAGS", values)
  return flags.DEFINE_integer("num_rows", 1, "Rows.", flag_values=values)


@pytest.mark.parametrize("argument", ["--help", "-h", "-help"])
def test_help_is_asked_for(argument):
  assert command_line.asks_for_help(["program", "--num_rows=2", argument])


@pytest.mark.parametrize("arguments", [["--help"], ["program", "help"]])
def test_help_is_not_asked_for(arguments):
  assert not command_line.asks_for_help(arguments)


def test_flags_get_their_values(flag):
  rest = command_line.parse_flags(["program", "--num_rows=2", "more"])
  assert rest == ["program", "more"]
  assert flag.value == 2


@pytest.mark.parametrize(
  "argument, told",
  [
    ("--num_row=2", "Unknown command line flag 'num_row'.*num_rows"),
    ("--num_rows=two", "--num_rows=two: invalid literal"),
  ],
)
@pytest.mark.usefixtures("flag")
def test_mistakes_are_told(argument, told):
  with pytest.raises(UserError, match=told) as caught:
    command_line.parse_flags(["program", argument])
  assert str(caught.value).endswith("See --help.")
