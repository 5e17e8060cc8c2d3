"""The calls that a provider's batch API takes: upload, create, find.

Knows no file of ours and does not wait for a batch.
"""

import json

from distill_jax.teacher.reading import replies
from distill_jax.teacher.transports import batch_replies
from distill_jax.teacher.transports.connection import Connection

_PAGE_BATCHES = 100


class BatchCalls:
  """Calls to one provider.

  All raise `TeacherError` where one has no answer, and `UserError` where none
  can have one.
  """

  def __init__(self, connection: Connection, completion_window: str):
    """Keeps the connection.

    Args:
      connection: the provider; closed by whoever opened it.
      completion_window: what the provider promises, in its words.
    """
    self._connection = connection
    self._completion_window = completion_window

  async def upload(self, content: bytes) -> str:
    """Uploads requests, a line of JSON each; returns the file's id."""
    uploaded = await self._connection.upload(
      "/files",
      "requests.jsonl",
      content,
      {"purpose": "batch"},
      lambda reply: batch_replies.read_object(reply, "id"),
    )
    return uploaded.value["id"]

  async def create(self, input_file_id: str, url: str) -> str:
    """Creates a batch, or finds it where an attempt did without saying so.

    Args:
      input_file_id: what `upload` returned.
      url: of the endpoint that its requests are for.

    Returns:
      The batch's id.
    """
    content = json.dumps(
      {
        "input_file_id": input_file_id,
        "endpoint": url,
        "completion_window": self._completion_window,
      }
    ).encode()
    is_first = True

    async def attempt() -> str | replies.Failure:
      nonlocal is_first
      if not is_first and (found := await self.find(input_file_id)):
        return found
      is_first = False
      outcome = await self._connection.attempt(
        "post",
        "/batches",
        lambda reply: batch_replies.read_object(reply, "id"),
        content=content,
      )
      return outcome if isinstance(outcome, replies.Failure) else outcome["id"]

    return (await self._connection.retry(attempt)).value

  async def find(self, input_file_id: str) -> str | None:
    """Returns the id of the batch made of a file, if there is one."""
    after = ""
    while True:
      page = await self._connection.get(
        f"/batches?limit={_PAGE_BATCHES}{after}",
        lambda reply: batch_replies.read_object(reply, None),
      )
      batches = page.value.get("data")
      batches = batches if isinstance(batches, list) else []
      ids = []
      for described in filter(lambda item: isinstance(item, dict), batches):
        batch_id = described.get("id")
        if not batch_replies.is_plain_id(batch_id):
          continue
        if described.get("input_file_id") == input_file_id:
          return batch_id
        ids.append(batch_id)
      if not page.value.get("has_more") or not ids:
        return None
      if after == f"&after={ids[-1]}":
        return None  # A server that knows no pages.
      after = f"&after={ids[-1]}"
