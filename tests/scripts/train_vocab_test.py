"""Tests of scripts/train_vocab.py."""

import pathlib

import pytest
import sentencepiece
from script_import import import_script

from distill_jax.data import records, vocab
from distill_jax.errors import UserError

_ROOT = pathlib.Path(__file__).parents[2]
_SHIPPED = _ROOT / "distill_jax" / "data" / "word_problems.model"
_LINES = ["the cat sat on the mat", "the dog sat on the log"] * 5


train_vocab = import_script("train_vocab")


def _list_pieces(path):
  processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
  return [
    processor.id_to_piece(token_id)
    for token_id in range(processor.get_piece_size())
  ]


def test_defaults_make_the_shipped_model(tmp_path, capsys):
  path = tmp_path / "new" / "vocab.model"
  train_vocab.main([f"--output={path}"])
  # Pieces, not bytes: the file also holds sentencepiece's own settings.
  assert _list_pieces(path) == _list_pieces(_SHIPPED)
  assert "800 ids" in capsys.readouterr().out


def test_a_data_set_by_name_makes_the_model_that_ships_with_it(tmp_path):
  path = tmp_path / "vocab.model"
  train_vocab.main(
    [f"--output={path}", "--dataset=animal_legs", "--vocab_size=512"]
  )
  shipped = _SHIPPED.with_name("animal_legs.model")
  assert _list_pieces(path) == _list_pieces(shipped)


def test_any_text_is_representable():
  model = train_vocab.train_vocabulary(_LINES, 300)
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  assert processor.get_piece_size() == 300
  assert processor.bos_id() == -1
  text = "zebra 東京 \U0001f600 9"
  assert processor.unk_id() not in processor.encode(text)
  assert processor.decode(processor.encode(text)) == text
  assert "▁the" in processor.encode("the mat", out_type=str)


def test_same_lines_give_the_same_bytes():
  model = train_vocab.train_vocabulary(_LINES, 300)
  assert train_vocab.train_vocabulary(list(_LINES), 300) == model


def test_a_long_line_counts():
  long_line = "qq " * 5000
  model = train_vocab.train_vocabulary([long_line, *_LINES], 300)
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  assert len(processor.encode("qq")) == 1


def test_reads_records_and_plain_text(tmp_path):
  jsonl, text = tmp_path / "records.jsonl", tmp_path / "more.txt"
  records.write_records(
    jsonl,
    [
      records.Record("0", _LINES[0], label="xx yy", rationale="uu vv"),
      records.Record("1", _LINES[1]),
    ],
  )
  text.write_text("zz zz\n\n", encoding="utf-8")
  output = tmp_path / "vocab.model"
  train_vocab.main(
    [f"--output={output}", "--vocab_size=310"]
    + [f"--input={jsonl}", f"--input={text}"]
  )
  vocabulary = vocab.load_vocabulary(str(output))
  for characters in ("x", "y", "u", "v", "z"):
    ids = vocabulary.encode(characters)
    assert all(token_id >= 259 for token_id in ids), characters


@pytest.mark.parametrize(
  ("arguments", "prefixes"),
  [
    ([], ["predict: ", "explain: ", " answer: "]),
    (["--prefix=solve: "], ["solve: "]),
  ],
)
def test_task_prefixes_are_few_pieces(tmp_path, arguments, prefixes):
  text, output = tmp_path / "text.txt", tmp_path / "vocab.model"
  text.write_text("\n".join(_LINES), encoding="utf-8")
  train_vocab.main(
    [f"--output={output}", f"--input={text}", "--vocab_size=330", *arguments]
  )
  vocabulary = vocab.load_vocabulary(str(output))
  for prefix in prefixes:
    assert len(vocabulary.encode(prefix)) <= 2, prefix


def test_existing_output_is_kept_unless_told_otherwise(tmp_path, capsys):
  text, output = tmp_path / "text.txt", tmp_path / "vocab.model"
  text.write_text("\n".join(_LINES), encoding="utf-8")
  output.write_text("mine")
  arguments = [f"--output={output}", f"--input={text}", "--vocab_size=300"]
  with pytest.raises(SystemExit) as exit_info:
    train_vocab.main(arguments)
  assert exit_info.value.code == 2
  assert "Add --overwrite" in capsys.readouterr().err
  assert output.read_text() == "mine"
  train_vocab.main([*arguments, "--overwrite"])
  assert vocab.load_vocabulary(str(output)).size == 300


@pytest.mark.parametrize(
  ("vocab_size", "message"),
  [
    (5000, r"--vocab_size=5000 .* the largest vocabulary that it fills is 3"),
    (100, r"--vocab_size=100 .* its characters and the bytes alone need 2"),
  ],
)
def test_size_that_does_not_fit_the_text(vocab_size, message):
  with pytest.raises(UserError, match=message):
    train_vocab.train_vocabulary(_LINES, vocab_size)


def test_no_text(tmp_path):
  with pytest.raises(UserError, match="every line is empty"):
    train_vocab.train_vocabulary(["", "  "], 300)
  with pytest.raises(UserError, match="none.txt cannot be read"):
    list(train_vocab.read_lines(tmp_path / "none.txt"))
  (tmp_path / "latin1.txt").write_bytes(b"\xe9")
  with pytest.raises(UserError, match="latin1.txt is not UTF-8"):
    list(train_vocab.read_lines(tmp_path / "latin1.txt"))
