"""The one exception that means "the user can fix this".

Layer 0; imports nothing. `main` turns it into its message and exit code 2,
without a stack trace; everything else that escapes is a bug and keeps its
trace.
"""


class UserError(Exception):
  """A mistake of the user's, or a state of the machine the user can mend.

  The message says what was given, why it cannot be, and what to do.
  """
