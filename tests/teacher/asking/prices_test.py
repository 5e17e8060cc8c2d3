"""Tests of teacher/asking/prices.py."""

import pytest

from distill_jax.data import vocab
from distill_jax.errors import UserError
from distill_jax.teacher.asking import exchange, prices

_TABLE = """\
currency = "EUR"
[models."small/model-1"]
prompt = 0.15
completion = 0.6
[models.free]
prompt = 0
completion = 0.0
"""


def _write(folder, text):
  path = folder / "prices.toml"
  path.write_text(text)
  return path


def test_costs(tmp_path):
  table = prices.read_price_table(_write(tmp_path, _TABLE))
  assert table.currency == "EUR"
  cost = table.compute_cost("small/model-1", 2_000_000, 500_000)
  assert cost == pytest.approx(2 * 0.15 + 0.5 * 0.6)
  assert table.compute_cost("free", 10**9, 10**9) == 0
  with pytest.raises(
    UserError,
    match=r"prices\.toml has no price of 'big', only of small/model-1, free",
  ):
    table.compute_cost("big", 1, 1)


@pytest.mark.parametrize(
  "old, new, message",
  [
    ('currency = "EUR"', "", "currency: missing"),
    ('currency = "EUR"', "currency = 1", "currency: 1 is not text"),
    ('currency = "EUR"', 'currency = "EUR"\ntax = 1', "tax: unknown field"),
    ("prompt = 0.15", "", r"models\.small/model-1: prompt: missing"),
    ("prompt = 0.15", "prompt = -1", "prompt: -1 is no price"),
    ("prompt = 0.15", "prompt = nan", "prompt: nan is no price"),
    ("prompt = 0.15", "prompt = inf", "prompt: inf is no price"),
    ("prompt = 0.15", "prompt = true", "prompt: True is no price"),
    ("prompt = 0.15", "promt = 1\nprompt = 1", "promt: unknown field"),
    ("currency", "=", "is not TOML"),
  ],
)
def test_errors_name_file_and_field(tmp_path, old, new, message):
  assert old in _TABLE
  path = _write(tmp_path, _TABLE.replace(old, new, 1))
  with pytest.raises(UserError, match=message) as error:
    prices.read_price_table(path)
  assert str(path) in str(error.value)


def test_models_must_be_tables(tmp_path):
  path = _write(tmp_path, 'currency = "EUR"\nmodels = 3')
  with pytest.raises(UserError, match="models: 3; write"):
    prices.read_price_table(path)
  path = _write(tmp_path, 'currency = "EUR"\nmodels = {a = 3}')
  with pytest.raises(UserError, match=r"models\.a: 3 is not a table"):
    prices.read_price_table(path)
  with pytest.raises(UserError, match="PRICE_TABLE is the path"):
    prices.read_price_table(tmp_path / "none.toml")


def test_tokens_by_characters():
  counter = prices.make_token_counter(None)
  assert counter.method == "characters / 4"
  assert [counter.count_fn("x" * n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
  completion = exchange.Request("m", "completions", "x" * 9, {})
  assert counter.count_prompt(completion) == 3
  turns = [{"role": "user", "content": "x" * 4}] * 3
  assert counter.count_prompt(exchange.Request("m", "chat", turns, {})) == 3


def test_tokens_by_a_vocabulary():
  vocabulary = vocab.load_vocabulary(None)
  counter = prices.make_token_counter(vocabulary.path)
  assert counter.method == f"sentencepiece model {vocabulary.path}"
  text = "ava has 12 apples ."
  assert counter.count_fn(text) == len(vocabulary.encode(text))
  assert counter.count_fn("\x00" * 100) > 0


def test_vocabularies_that_are_none(tmp_path):
  with pytest.raises(UserError, match=r"none\.model cannot be read"):
    prices.make_token_counter(str(tmp_path / "none.model"))
  path = tmp_path / "bad.model"
  path.write_bytes(b"no model")
  with pytest.raises(UserError, match="is not a sentencepiece model"):
    prices.make_token_counter(str(path))
