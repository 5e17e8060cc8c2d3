"""The answer choices of an example, for tasks that have any.

Which choice a student prefers is the evaluator's business.

A token cache holds text and ids, not what a data set knew besides. A closed
label set is recorded with the task; choices that differ from example to example
are read out of the input, where the student reads them too.
"""

from collections.abc import Sequence

from distill_jax.answers.answer_choices import read_choices
from distill_jax.data.token_cache import Example, TaskInfo
from distill_jax.errors import UserError


def find_choices(
  name: str, info: TaskInfo, examples: Sequence[Example]
) -> list[tuple[str, ...]]:
  """Finds the answers that each example of a task chooses from.

  Args:
    name: the task's, for messages.
    info: the task. Its label set, where it is closed, is every example's.
    examples: of the task.

  Returns:
    The choices of each example, in their order.

  Raises:
    UserError: the task's targets are more than an answer, or an example has no
      choices.
  """
  hint = (
    f"Leave EVAL_PREDICTION at 'generate' for {name}, or evaluate another"
    " MIXTURE_OR_TASK_NAME."
  )
  if info.kind != "label":
    raise UserError(
      f"EVAL_PREDICTION is 'rank', and the targets of {name} hold a rationale"
      f" beside the answer, so the answers alone cannot be ranked. {hint}"
    )
  if info.label_set is not None:
    return [tuple(info.label_set)] * len(examples)
  found = []
  for example in examples:
    choices = read_choices(example.inputs_text)
    if choices is None:
      raise UserError(
        f"EVAL_PREDICTION is 'rank', and {name} has no answer choices to rank:"
        f" no closed label set, and the input of example {example.id!r} does"
        ' not end in a line "Answer Choices:" with "(a) ...", "(b) ..." below'
        f" it. {hint}"
      )
    found.append(choices)
  return found
