"""What a word is when texts are compared, chosen by their script.

ROUGE's own tokenizer keeps ASCII letters and digits only, and BLEU's usual one,
13a, splits at blanks: of Chinese or Hindi they leave nothing, or one word.
Nothing here is downloaded.
"""

import collections
import dataclasses
import functools
import unicodedata
from collections.abc import Iterable
from typing import Literal

from rouge_score import tokenizers as rouge_tokenizers

# Of the letters; below it texts count as English with a foreign word in it.
_MIN_SHARE = 0.01
_HAN = ("CJK ", "IDEOGRAPHIC ", "BOPOMOFO ")
_NO_BLANKS = (
  *_HAN,
  "HIRAGANA ",
  "KATAKANA",
  "HALFWIDTH KATAKANA",
  "THAI ",
  "LAO ",
  "KHMER ",
  "MYANMAR ",
  "TIBETAN ",
  "YI ",
)

BleuTokenizer = Literal["13a", "intl", "zh", "char"]


class UnicodeWords(rouge_tokenizers.Tokenizer):
  """Lower-cased words of any script, for ROUGE.

  A word is a run of letters, marks and digits. In scripts that put no blanks
  between words each letter with its marks is one, and so is a symbol beyond
  ASCII.
  """

  def tokenize(self, text: str) -> list[str]:
    """Returns the words of `text`."""
    spaced: list[str] = []
    # A word ends where such a script begins, and where it ends.
    after_letter_apart = False
    for character in text.lower():
      kind = _classify(character)
      if kind == "mark":
        spaced.append(character)
        continue
      if kind == "apart" or after_letter_apart:
        spaced.append(" ")
      spaced.append(" " if kind == "other" else character)
      after_letter_apart = kind == "apart"
    return "".join(spaced).split()


@dataclasses.dataclass(frozen=True)
class Tokenizers:
  """How texts of one script are taken apart.

  Attributes:
    rouge_name: "ascii_words", rouge_score's own, or "unicode_words".
    bleu: name of a tokenizer of sacrebleu.
  """

  rouge_name: Literal["ascii_words", "unicode_words"]
  bleu: BleuTokenizer

  @property
  def rouge(self) -> rouge_tokenizers.Tokenizer | None:
    """What rouge_score takes; None: its own."""
    return UnicodeWords() if self.rouge_name == "unicode_words" else None

  def count_words(self, text: str) -> int:
    """Counts the words of a text, for a mean length."""
    if self.bleu in ("zh", "char"):
      return len(UnicodeWords().tokenize(text))
    return len(text.split())


def choose(texts: Iterable[str]) -> Tokenizers:
  """Chooses tokenizers by the script that texts are written in.

  Args:
    texts: the targets, not the predictions: all students of a data set are
      measured alike.

  Returns:
    Rouge_score's own words and "13a" for English; where a hundredth of the
    letters and digits or more are beyond ASCII, or a text is of such words
    alone, words of any script, and for BLEU "zh" where a hundredth or more are
    Chinese and no other script without blanks is as frequent, "char" where most
    letters are of such another script (Japanese, Thai), else "intl".
  """
  characters: collections.Counter[str] = collections.Counter()
  is_english = True
  for text in texts:
    characters.update(text)
    # Rouge_score's words would leave nothing of it.
    is_english &= any(c.isascii() and c.isalnum() for c in text) or not (
      UnicodeWords().tokenize(text)
    )
  letters = {c: n for c, n in characters.items() if c.isalnum()}
  total = sum(letters.values())

  def share(names: tuple[str, ...]) -> float:
    return (
      sum(n for c, n in letters.items() if _name(c).startswith(names)) / total
    )

  num_beyond = sum(n for c, n in letters.items() if not c.isascii())
  if is_english and num_beyond <= _MIN_SHARE * total:
    return Tokenizers("ascii_words", "13a")
  if not total:
    return Tokenizers("unicode_words", "intl")
  han = share(_HAN)
  others = share(_NO_BLANKS) - han
  # Japanese writes both.
  if han >= _MIN_SHARE and others < han / 9:
    return Tokenizers("unicode_words", "zh")
  if han + others >= 0.5:
    return Tokenizers("unicode_words", "char")
  return Tokenizers("unicode_words", "intl")


@functools.lru_cache(maxsize=2**16)
def _classify(character: str) -> Literal["word", "apart", "mark", "other"]:
  category = unicodedata.category(character)[0]
  if category == "M":
    return "mark"
  if (category == "S" and not character.isascii()) or (
    category == "L" and _name(character).startswith(_NO_BLANKS)
  ):
    return "apart"
  return "word" if category in "LN" else "other"


def _name(character: str) -> str:
  return unicodedata.name(character, "")
