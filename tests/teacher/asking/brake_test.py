"""When a run that gets nothing of use ends, and what it says."""

import pytest

from distill_jax.errors import UserError
from distill_jax.teacher.asking import brake


def count(kinds, num_answered=0, is_final=True):
  made = brake.Brake(3)
  for kind in kinds:
    made.note(kind, is_final)
    made.check(num_answered, "odd")


@pytest.mark.parametrize(
  ("kinds", "num_answered"),
  [(["rejected"] * 2, 0), (["rejected"] * 9, 1), (["answered"] * 9, 10)],
)
def test_a_run_goes_on(kinds, num_answered):
  count(kinds, num_answered)


@pytest.mark.parametrize(
  ("kind", "num_answered", "is_final", "has_retry", "has_answers"),
  [
    ("rejected", 0, True, True, False),
    ("rejected", 0, False, False, False),
    ("answered", 3, True, False, True),
  ],
)
def test_a_run_ends(kind, num_answered, is_final, has_retry, has_answers):
  with pytest.raises(
    UserError, match=f"3 requests .*3 {kind}.*: odd"
  ) as caught:
    count([kind] * 3, num_answered, is_final)
  assert ("RETRY_FAILURES" in str(caught.value)) == has_retry
  assert ("not asked for again" in str(caught.value)) == has_answers
