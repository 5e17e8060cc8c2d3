"""The exceptions that mean "the user can fix this".

`main` turns them into their message and exit code, without a stack trace;
everything else that escapes is a bug and keeps its trace.
"""


class UserError(Exception):
  """A mistake of the user's, or a state of the machine the user can mend.

  The message says what was given, why it cannot be, and what to do.

  Example:
    >>> import distill_jax as dj
    >>> try:
    ...   dj.load_student("absent")
    ... except dj.UserError as error:
    ...   print("There is no", "absent" if "absent" in str(error) else error)
    There is no absent
  """

  exit_code = 2


class LostProcessError(UserError):
  """Another process of the run did not come, or is gone.

  The same command may do better the next time, so schedulers give it again.
  """

  exit_code = 75  # EX_TEMPFAIL of sysexits.h
