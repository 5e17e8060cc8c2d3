"""The choices that the text of a multiple-choice question lists."""

_HEADING = "Answer Choices:\n"


def read_choices(text: str) -> tuple[str, ...] | None:
  """Reads the choices that an input lists.

  Args:
    text: an input. Choices stand at its end, below a line "Answer Choices:",
      one a line: "(a) zoo", "(b) river" and so on.

  Returns:
    Their texts in order, repetitions and blanks kept; None where the text lists
    none, or fewer than two, or something else follows them.

  Source: the form is that of the authors' CommonsenseQA loader, data_utils.py.
  """
  _, heading, listed = text.rpartition(_HEADING)
  lines = listed.split("\n")
  if not heading or len(lines) < 2:
    return None
  choices = []
  for index, line in enumerate(lines):
    letter = f"({chr(ord('a') + index)}) "
    if not line.startswith(letter):
      return None
    choices.append(line.removeprefix(letter))
  return tuple(choices)
