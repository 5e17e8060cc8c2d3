"""What word_problems says: its sentences, its words and its numbers.

Owns the text of the generated data set and no way to draw from it. The
vocabulary that ships is trained on this text, so a new word here calls for a
new vocabulary (scripts/train_vocab.py).
"""

import dataclasses
import itertools

LARGE_NUMBERS, SMALL_NUMBERS = range(2, 21), range(2, 10)


@dataclasses.dataclass(frozen=True)
class Step:
  """What can happen to the running number.

  Attributes:
    symbol: the operation.
    numbers: what its number is drawn from.
    sentences: how the problem says it; one is drawn.
    clause: how the rationale says it.
    question: the problem's question when this is the last step.
    mistaken_for: the step that a teacher confuses it with.
    is_opening: its sentence holds the starting number too.
    is_anywhere: its sentence may stand before what happened earlier.
  """

  symbol: str
  numbers: range
  sentences: tuple[str, ...]
  clause: str
  question: str
  mistaken_for: str
  is_opening: bool = False
  is_anywhere: bool = False


OPENING_SENTENCES = (
  "{name} has {start} {things} .",
  "{name} starts with {start} {things} .",
)
OPENING_CLAUSE = "{name} starts with {start} {things} ."
_NOW = "how many {things} does {name} have now ?"

STEPS = {
  "gain": Step(
    symbol="+",
    numbers=LARGE_NUMBERS,
    sentences=(
      "{name} gets {number} more {things} .",
      "{name} finds {number} more {things} .",
      "{name} buys {number} more {things} .",
    ),
    clause="{name} gets {number} more .",
    question=_NOW,
    mistaken_for="loss",
  ),
  "loss": Step(
    symbol="-",
    numbers=LARGE_NUMBERS,
    sentences=(
      "{name} loses {number} {things} .",
      "{name} sells {number} {things} .",
      "{name} gives away {number} {things} .",
    ),
    clause="{name} loses {number} .",
    question=_NOW,
    mistaken_for="gain",
  ),
  "price": Step(
    symbol="*",
    numbers=SMALL_NUMBERS,
    sentences=(
      "{things} are worth {number} {coins} each .",
      "{things} cost {number} {coins} each .",
    ),
    clause="each is worth {number} {coins} .",
    question="how many {coins} are the {things} of {name} worth ?",
    mistaken_for="gain",
    is_anywhere=True,
  ),
  "split": Step(
    symbol="/",
    numbers=SMALL_NUMBERS,
    sentences=(
      "{name} splits the {things} into {number} {other_boxes} .",
      "{name} fills {number} {other_boxes} with the {things} .",
    ),
    clause="they go into {number} {other_boxes} .",
    question="how many {things} does each hold ?",
    mistaken_for="loss",
  ),
  "packs": Step(
    symbol="*",
    numbers=SMALL_NUMBERS,
    sentences=(
      "{name} has {start} {boxes} with {number} {things} in each .",
      "each of the {start} {boxes} of {name} has {number} {things} .",
    ),
    clause="{name} has {start} {boxes} of {number} {things} .",
    question=_NOW,
    mistaken_for="gain",
    is_opening=True,
  ),
  "share": Step(
    symbol="/",
    numbers=SMALL_NUMBERS,
    sentences=(
      "{name} shares {start} {things} in a group of {number} .",
      "{name} in a group of {number} shares {start} {things} .",
    ),
    clause="{number} people share {start} {things} .",
    question=_NOW,
    mistaken_for="loss",
    is_opening=True,
  ),
}
ONE_STEP_PLANS = tuple((kind,) for kind in STEPS)
TWO_STEP_PLANS = tuple(
  itertools.product(
    ("gain", "loss", "packs", "share"), ("gain", "loss", "price", "split")
  )
)

# The first three betray themselves by a word; the others need the reader to
# see whose the things are and which things are asked for.
DISTRACTORS = (
  "{name} is {number} years old .",
  "{name} walks {number} miles .",
  "it is day {number} .",
  "{other_name} has {number} {things} .",
  "{name} has {number} {other_things} .",
  "{name} gets {number} more {other_things} .",
  "{other_things} are worth {number} {coins} each .",
)

NAMES = ("ava", "ben", "cara", "dan", "ella", "finn", "gus", "hana")
NAMES += ("ivan", "jade", "kim", "leo")
THINGS = ("apples", "beads", "books", "cakes", "cards", "cups", "hats")
THINGS += ("kites", "pens", "plums", "rocks", "shells")
BOXES = ("bags", "boxes", "jars", "trays")
COINS = ("coins", "dollars", "cents")
