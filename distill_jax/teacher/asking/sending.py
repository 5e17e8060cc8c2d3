"""Which requests of some questions have no answer yet, and sending these.

Questions are read anew each time they are needed, so that memory grows by half
a digest a request and no more.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

from distill_jax.data.records import Record
from distill_jax.teacher.asking import exchange, journal, labelling, session
from distill_jax.teacher.prompting import variants
from distill_jax.teacher.prompting.variants import Variant
from distill_jax.teacher.reporting import provenance

_log = logging.getLogger(__name__)


def send_unanswered(
  asked: Sequence[Variant],
  read_fn: Callable[[], Iterable[Record]],
  make_transport_fn: Callable[[], exchange.Transport],
  own: journal.Journal,
  answers: journal.Answers,
  limits: labelling.Limits,
  accepted: provenance.Accepted = None,
) -> session.Session | None:
  """Checks all questions, then sends what is not answered.

  Args:
    asked: the ways in which each question is asked.
    read_fn: reads the questions.
    make_transport_fn: makes the transport, where there is anything to send.
    own: the journal that is written.
    answers: of all journals.
    limits: see `labelling.Limits`; no more are under way than there are.
    accepted: see `provenance.check`.

  Returns:
    How it went; None where all is answered.

  Raises:
    UserError: a question that cannot be asked, or an answer from elsewhere,
      before any is sent; or as `labelling.answer_requests`.
  """
  origins = provenance.Origins()
  num_to_send = sum(
    1
    for _ in list_unanswered(
      asked, read_fn, answers, limits.retry_failures, origins
    )
  )
  provenance.check(origins, accepted)
  if num_to_send == 0:
    _log.info(_explain_nothing(asked, read_fn, answers))
    return None
  limits = dataclasses.replace(
    limits, max_concurrency=min(limits.max_concurrency, num_to_send)
  )
  requests = (
    (request, question.id)
    for variant in asked
    for question in read_fn()
    for request in variants.make_requests(variant, question)
  )
  return session.send_all(
    requests, num_to_send, make_transport_fn, own, answers, limits
  )


def _explain_nothing(
  asked: Sequence[Variant],
  read_fn: Callable[[], Iterable[Record]],
  answers: journal.Answers,
) -> str:
  """Returns, in words, why nothing is sent."""
  # Half a digest is enough to tell them apart.
  seen: set[bytes] = set()
  num_failed = 0
  for variant in asked:
    for question in read_fn():
      for request in variants.make_requests(variant, question):
        digest = bytes.fromhex(request.key[:32])
        if digest not in seen:
          seen.add(digest)
          num_failed += answers.has_final_failure(request.key)
  if not seen:
    return "There are no questions to ask."
  if not num_failed:
    return "Every request is answered already; nothing is sent."
  return (
    f"Nothing is sent: {len(seen) - num_failed} requests are answered, and"
    f" {num_failed} failed for good (RETRY_FAILURES = True asks these again)."
  )


def list_unanswered(
  asked: Sequence[Variant],
  read_fn: Callable[[], Iterable[Record]],
  answers: journal.Answers,
  retry_failures: bool,
  origins: provenance.Origins | None = None,
) -> Iterator[exchange.Request]:
  """Yields the requests without an answer; of equal ones the first.

  Args:
    asked: as for `send_unanswered`.
    read_fn: as for `send_unanswered`.
    answers: as for `send_unanswered`.
    retry_failures: see `labelling.needs_answer`.
    origins: counts where the answers that are there came from.

  Yields:
    Each, in the order in which they are sent.

  Raises:
    UserError: a question that cannot be asked, or its answers not be read.
  """
  # Half a digest is enough to tell them apart.
  unanswered: set[bytes] = set()
  for variant in asked:
    for question in read_fn():
      variants.check_question(variant, question)
      for request in variants.make_requests(variant, question):
        key = request.key
        digest = bytes.fromhex(key[:32])
        if digest not in unanswered and labelling.needs_answer(
          key, answers, retry_failures
        ):
          unanswered.add(digest)
          yield request
        elif origins is not None and digest not in unanswered:
          # An answer without text has an address, and a failure has none.
          answered_by = answers.get_address(key)
          if answered_by is not None or answers.has_response(key):
            origins.add(request.address, answered_by)
