"""Tests of answers/text_tokens.py: the script decides what a word is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import tokenize
from sentences import TEXTS

from distill_jax.answers import text_tokens

_ENGLISH = TEXTS["English"]


@pytest.mark.parametrize(
  "texts, rouge, bleu",
  [
    (["English"], "ascii_words", "13a"),
    (["French"], "unicode_words", "intl"),
    (["Russian"], "unicode_words", "intl"),
    (["Arabic"], "unicode_words", "intl"),
    (["Hindi"], "unicode_words", "intl"),
    (["Korean"], "unicode_words", "intl"),
    (["Chinese"], "unicode_words", "zh"),
    (["Japanese"], "unicode_words", "char"),
    (["Thai"], "unicode_words", "char"),
    (["English", "Chinese"], "unicode_words", "zh"),
    (["English", "Hindi"], "unicode_words", "intl"),
    ([], "ascii_words", "13a"),
  ],
)
def test_choice_by_script(texts, rouge, bleu):
  chosen = text_tokens.choose(TEXTS[name] for name in texts)
  assert (chosen.rouge_name, chosen.bleu) == (rouge, bleu)


@pytest.mark.parametrize(
  "texts",
  [
    ["", "12 + 5 = 17 ."],
    [_ENGLISH * 10 + "Beyoncé’s café — naïve £5"],
    [_ENGLISH] * 50 + ["π r² is its area, 東京"],
  ],
)
def test_a_foreign_word_in_english_changes_nothing(texts):
  assert text_tokens.choose(texts) == text_tokens.Tokenizers(
    "ascii_words", "13a"
  )


@pytest.mark.parametrize(
  "text, words",
  [
    ("The cat's 2nd nap.", ["the", "cat", "s", "2nd", "nap"]),
    ("Été à Noël!", ["été", "à", "noël"]),
    # Marks stay with their letters: a word is not cut at a vowel sign.
    ("उत्तर बारह है।", ["उत्तर", "बारह", "है"]),
    ("答案是12个。", ["答", "案", "是", "12", "个"]),
    ("用Python写", ["用", "python", "写"]),
    ("น้ำดี", ["น้", "ำ", "ดี"]),
    ("", []),
    (" .,!", []),
  ],
)
def test_words_of_any_script(text, words):
  assert text_tokens.UnicodeWords().tokenize(text) == words


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=60))
def test_ascii_text_has_the_words_of_rouge_score(text):
  assert text_tokens.UnicodeWords().tokenize(text) == tokenize.tokenize(
    text, None
  )


@pytest.mark.parametrize(
  "name, count", [("English", 10), ("Chinese", 16), ("Russian", 7)]
)
def test_words_of_a_mean_length(name, count):
  text = TEXTS[name]
  assert text_tokens.choose([text]).count_words(text) == count


@pytest.mark.parametrize("text", ["١٢٣ ٤٥٦ ٧٨٩ ١٠", "÷ × ≤ ≥ ≠", "🙂 🙃 🙂 🙂"])
def test_digits_and_symbols_of_any_script_are_words(text):
  assert text_tokens.choose([text]).rouge_name == "unicode_words"
  assert len(text_tokens.UnicodeWords().tokenize(text)) == len(text.split())


def test_one_text_without_ascii_words_decides():
  english = ["she adds three and four ."] * 500
  chosen = [text_tokens.choose([*english, each]) for each in ("...", "हिन्दी")]
  assert [each.rouge_name for each in chosen] == [
    "ascii_words",
    "unicode_words",
  ]
