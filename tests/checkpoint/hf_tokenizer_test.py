"""Tests of hf_tokenizer.py: transformers splits text as the student learned."""

import functools
import io
import json
import pathlib
import random

import pytest
import sentencepiece
import tokenizers

from distill_jax.checkpoint import hf_tokenizer
from distill_jax.data import vocab
from distill_jax.data.sources import word_problems
from distill_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
SHIPPED = ROOT / "distill_jax" / "data" / "word_problems.model"
CQA = (
  ROOT.parent / "shared/data/distilling_step_by_step/cqa/llm/train_CoT_0.json"
)
ODD_TEXTS = [
  "",
  " ",
  "  two  spaces ",
  "tab\tand\nnewline",
  "Größe, naïve, ½ ﬁne",
  "日本語 and 🙂",
  "42 apples: ( 3 + 4 ) * 6",
  "a</s>b",
]


@functools.cache
def make_texts():
  return ODD_TEXTS + make_sums()


def make_sums():
  records = word_problems.make_records("train", seed=3)
  return [record.input for record in records[:200]]


def train_model(path, texts=None, **settings):
  model = io.BytesIO()
  special_ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(make_sums() if texts is None else texts),
    model_writer=model,
    minloglevel=2,
    **special_ids | settings,
  )
  path.write_bytes(model.getvalue())
  return path


def load_both(path, vocab_size):
  content = hf_tokenizer.make_tokenizer(path, vocab_size)
  theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
  return theirs, vocab.load_vocabulary(str(path))


@pytest.fixture(name="models", scope="module")
def fixture_models(tmp_path_factory):
  folder = tmp_path_factory.mktemp("models")
  return {
    "shipped": SHIPPED,
    "unigram": train_model(
      folder / "unigram.model", vocab_size=90, model_type="unigram"
    ),
    "bytes": train_model(
      folder / "bytes.model",
      vocab_size=345,
      model_type="unigram",
      byte_fallback=True,
    ),
    "word": train_model(
      folder / "word.model",
      vocab_size=50,
      model_type="word",
      hard_vocab_limit=False,
    ),
  }


@pytest.mark.parametrize("name", ["shipped", "unigram", "bytes"])
def test_ids_and_texts_are_those_of_training(models, name):
  theirs, ours = load_both(models[name], 1024)
  for text in make_texts():
    ids = [*ours.encode_inputs(text), vocab.EOS_ID]
    assert theirs.encode(text).ids == ids, text
    # transformers drops special ids on decoding, SeqIO's way marks them.
    if not {vocab.EOS_ID, vocab.UNK_ID} & set(ids[:-1]):
      assert theirs.decode(ids[:-1]) == ours.decode(ids[:-1])


@pytest.mark.shared
@pytest.mark.skipif(not CQA.exists(), reason="no official data here")
def test_real_text_under_a_vocabulary_of_its_own(tmp_path):
  texts = [str(row)[:500] for row in json.loads(CQA.read_text())[:500]]
  path = train_model(
    tmp_path / "cqa.model",
    texts,
    vocab_size=2000,
    model_type="bpe",
    byte_fallback=True,
  )
  theirs, ours = load_both(path, 2048)
  for text in texts:
    assert theirs.encode(text).ids[:-1] == ours.encode(text)


def test_sentinels_stand_behind_the_pieces(models):
  size = vocab.load_vocabulary(str(models["unigram"])).size
  with_sentinels = hf_tokenizer.make_tokenizer(models["unigram"], size + 100)
  added = {
    token["content"]: token["id"] for token in with_sentinels["added_tokens"]
  }
  assert added["<extra_id_0>"] == size + 99
  assert added["<extra_id_99>"] == size
  without = hf_tokenizer.make_tokenizer(models["unigram"], size + 99)
  assert [token["id"] for token in without["added_tokens"]] == [0, 1, 2]


def test_models_of_words_are_refused(models):
  with pytest.raises(UserError, match="model of words or characters"):
    hf_tokenizer.make_tokenizer(models["word"], 1024)


def test_another_file_is_refused(tmp_path):
  path = tmp_path / "any.model"
  path.write_bytes(b"\xff\xff junk")
  with pytest.raises(UserError, match="is no sentencepiece model"):
    hf_tokenizer.make_tokenizer(path, 1024)


def test_a_folder_gets_what_auto_tokenizer_reads(tmp_path):
  hf_tokenizer.write_tokenizer(tmp_path, SHIPPED, False, 1024)
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
  ]
  assert (tmp_path / "spiece.model").read_bytes() == SHIPPED.read_bytes()
  assert json.loads((tmp_path / "tokenizer.json").read_text()) == (
    hf_tokenizer.make_tokenizer(SHIPPED, 1024)
  )


def test_bytes_and_no_vocabulary(tmp_path):
  hf_tokenizer.write_tokenizer(tmp_path, None, False, 384)
  assert list(tmp_path.iterdir()) == []
  hf_tokenizer.write_tokenizer(tmp_path, None, True, 384)
  settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
  assert settings["tokenizer_class"] == "ByT5Tokenizer"


# sentencepiece's options that change what becomes of a text.
OPTIONS = {
  "no prefix": {"add_dummy_prefix": False},
  "suffix": {"treat_whitespace_as_suffix": True},
  "all blanks": {"remove_extra_whitespaces": False},
  "all blanks, no prefix": {
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
  },
  "all blanks, suffix": {
    "remove_extra_whitespaces": False,
    "treat_whitespace_as_suffix": True,
  },
  "blanks as pieces": {
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
  },
  "phrases": {"split_by_whitespace": False},
  "phrases, suffix": {
    "split_by_whitespace": False,
    "treat_whitespace_as_suffix": True,
  },
  "user-defined": {"user_defined_symbols": ["<sep>", "<sep2>", "apples"]},
  "sentinels": {"user_defined_symbols": ["▁<extra_id_1>", "▁<extra_id_0>"]},
  "own blanks": {"user_defined_symbols": ["▁b", "▁ap", "ppl"]},
  "control": {"control_symbols": ["<ctl>", "ma"], "bos_id": 3},
  "identity": {"normalization_rule_name": "identity"},
  "nfkc": {"normalization_rule_name": "nfkc"},
  "lower case": {"normalization_rule_name": "nmt_nfkc_cf"},
  "digits": {"split_digits": True},
}
LETTERS = [
  *"  ▁ab123<>0x41{}½²…ﬁ\t\n\r\u3000é日本語🙂.,'\"applesma",
  "</s>", "<sep>", "<sep2>", "<ctl>", "<s>", " many", " apples", "<0x41>", "▁b",
]  # fmt: skip


def train_with(path, model_type, byte_fallback, **options):
  if model_type == "unigram":
    options["hard_vocab_limit"] = False
  return train_model(
    path / "option.model",
    model_type=model_type,
    byte_fallback=byte_fallback,
    vocab_size=360 if byte_fallback else 100,
    **options,
  )


@pytest.mark.parametrize("byte_fallback", [False, True])
@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_exported_exactly(
  tmp_path, name, model_type, byte_fallback
):
  path = train_with(tmp_path, model_type, byte_fallback, **OPTIONS[name])
  theirs, ours = load_both(path, 300)
  chooser = random.Random(0)
  texts = make_texts()[:60] + [
    "".join(chooser.choices(LETTERS, k=chooser.randint(1, 14)))
    for _ in range(500)
  ]
  for text in texts:
    assert theirs.encode(text).ids[:-1] == ours.encode_inputs(text), text


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
@pytest.mark.parametrize(
  ("symbol", "reason"),
  [
    ("½", "of the text 'Größe"),
    ("\n", r"of the text '\\ttab"),
    ("a  b", "'a  b"),
    ("b▁", "'[^']*b▁"),
  ],
)
def test_what_transformers_would_split_otherwise_is_refused(
  tmp_path, model_type, symbol, reason
):
  path = train_with(tmp_path, model_type, False, user_defined_symbols=[symbol])
  with pytest.raises(UserError, match=reason) as error:
    hf_tokenizer.make_tokenizer(path, 300)
  assert f"pieces of type USER_DEFINED ({symbol!r}; 1 in all)" in str(
    error.value
  )


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
@pytest.mark.parametrize("name", ["all blanks", "all blanks, suffix", "plain"])
def test_what_is_dropped_leaves_what_sentencepiece_leaves(
  tmp_path, name, model_type
):
  path = train_with(tmp_path, model_type, False, **OPTIONS.get(name, {}))
  theirs, ours = load_both(path, 300)
  for text in ("\x07", " \x07 ", "\x07\x07", "a \x07"):
    assert theirs.encode(text).ids[:-1] == ours.encode_inputs(text), text


@pytest.mark.parametrize(
  "text", ["½\ufe0f", "x²\u0301", "…\u0301", "\xa0\u0301"]
)
def test_known_difference_that_the_model_card_names(models, text):
  # Should this fail, `tokenizers` is mended: the card may lose its sentence.
  theirs, ours = load_both(models["unigram"], 1024)
  assert theirs.encode(text).ids[:-1] != ours.encode_inputs(text)


def test_a_tie_that_is_decided_otherwise_is_refused(tmp_path):
  rows = ["| a | b |", "|---|---|---|", "|---|----|", "|--|--|---", "----"]
  path = train_model(
    tmp_path / "rows.model",
    make_sums() + [*rows, "|-|"] * 30,
    model_type="unigram",
    vocab_size=115,
    hard_vocab_limit=False,
    treat_whitespace_as_suffix=True,
    num_threads=1,
  )
  with pytest.raises(UserError, match="treat_whitespace_as_suffix=true"):
    hf_tokenizer.make_tokenizer(path, 215)


def test_special_tokens_keep_their_own_names(tmp_path, caplog):
  path = train_model(
    tmp_path / "names.model",
    vocab_size=90,
    pad_piece="[PAD]",
    eos_piece="[END]",
    unk_piece="[?]",
  )
  folder = tmp_path / "made"
  folder.mkdir()
  hf_tokenizer.write_tokenizer(folder, path, False, 90)
  theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  wanted = {"pad_token": "[PAD]", "eos_token": "[END]", "unk_token": "[?]"}
  for file in ("tokenizer_config.json", "special_tokens_map.json"):
    settings = json.loads((folder / file).read_text())
    assert settings | wanted == settings
  assert [theirs.token_to_id(name) for name in wanted.values()] == [0, 1, 2]
  assert theirs.get_vocab_size() == 90
  assert "names its end '[END]'" in caplog.text
