"""Tests of hf_tokenizer.py: transformers splits text as the student learned."""

import io
import json
import pathlib

import pytest
import sentencepiece

from distill_jax.checkpoint import hf_tokenizer
from distill_jax.data import vocab, word_problems
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


def make_texts():
  records = word_problems.make_records("train", seed=3)
  inputs = [record.input for record in records]
  return ODD_TEXTS + inputs[:200]


def train_model(path, **settings):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(make_texts()[len(ODD_TEXTS) :]),
    model_writer=model,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
    **settings,
  )
  path.write_bytes(model.getvalue())
  return path


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


@pytest.mark.reference
@pytest.mark.parametrize("name", ["shipped", "unigram", "bytes"])
def test_ids_and_texts_are_those_of_training(models, name):
  tokenizers = pytest.importorskip("tokenizers")
  content = hf_tokenizer.make_tokenizer(models[name], 1024)
  theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
  ours = vocab.load_vocabulary(str(models[name]))
  for text in make_texts():
    ids = [*ours.encode_inputs(text), vocab.EOS_ID]
    assert theirs.encode(text).ids == ids, text
    # transformers drops special ids on decoding, SeqIO's way marks them.
    if not {vocab.EOS_ID, vocab.UNK_ID} & set(ids[:-1]):
      assert theirs.decode(ids[:-1]) == ours.decode(ids[:-1])


@pytest.mark.reference
@pytest.mark.shared
@pytest.mark.skipif(not CQA.exists(), reason="no official data here")
def test_real_text_under_a_vocabulary_of_its_own(tmp_path):
  tokenizers = pytest.importorskip("tokenizers")
  texts = [str(row)[:500] for row in json.loads(CQA.read_text())[:500]]
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts),
    model_writer=model,
    vocab_size=2000,
    model_type="bpe",
    byte_fallback=True,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
  )
  path = tmp_path / "cqa.model"
  path.write_bytes(model.getvalue())
  theirs = tokenizers.Tokenizer.from_str(
    json.dumps(hf_tokenizer.make_tokenizer(path, 2048))
  )
  ours = vocab.load_vocabulary(str(path))
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
