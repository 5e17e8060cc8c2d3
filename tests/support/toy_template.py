"""A user's prompt template, as a file that a test may change line by line."""

import re

from distill_jax.teacher.prompting import template_files

TEXT = """\
name = "mine"
answer_form = "closed_set"
labels = ["yes", "no"]
instruction = "Judge the claim."
fields = ["Text:", "Claim:"]
input_separator = " ||| "
answer_prefix = "A:"
answer_marker = "So the answer is"
answer_end = "."
stop = ["\\nText:"]
max_tokens = 20

[[exemplar]]
input = "It rains. ||| It is wet."
rationale = "Rain wets."
label = "yes"

[[exemplar]]
input = "It snows. ||| It is hot."
rationale = "Snow is cold."
label = "no"
"""


def write(folder, text):
  """Writes a template file and returns its path."""
  path = folder / "mine.toml"
  path.write_text(text, encoding="utf-8")
  return str(path)


def load(folder, order=None, **replacements):
  """Loads the template; `replacements` maps fields to their new lines."""
  text = TEXT
  for old, new in replacements.items():
    text = re.sub(rf"^{old} = .*$", lambda _, new=new: new, text, flags=re.M)
  return template_files.load_template(write(folder, text), order)


def format_question(text):
  """Returns what a teacher is asked of an input, "text ||| claim"."""
  parts = text.split(" ||| ")
  return f"Text: {parts[0]}\nClaim: {parts[1]}"
