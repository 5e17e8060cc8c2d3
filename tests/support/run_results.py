"""Results of runs that were never made."""

from distill_jax.experiments.results import RunResult


def make_run(
  arm, size, seed, correct, seconds=60.0, num_train_examples=None, **metrics
):
  """Returns a result; `correct` has a truth value for each test example."""
  return RunResult(
    arm=arm,
    num_train_examples=num_train_examples or size,
    size=size,
    seed=seed,
    num_correct=int(sum(correct)),
    num_examples=len(correct),
    correct_by_id={str(i): bool(value) for i, value in enumerate(correct)},
    seconds=seconds,
    metrics=metrics,
  )


def make_run_of_200(arm, size, seed, num_correct, **metrics):
  """Returns a result of 200 test examples, the first of which are right."""
  correct = [i < num_correct for i in range(200)]
  return make_run(arm, size, seed, correct, 90.0, **metrics)
