"""Reads TensorBoard's files of events, without TensorFlow."""

from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c


def read_events(folder):
  """Returns the events of all files of a folder, oldest file first."""
  events = []
  for path in sorted(folder.glob("events.*")):
    content = path.read_bytes()
    while content:
      length = int.from_bytes(content[:8], "little")
      assert content[8:12] == masked_crc32c(content[:8]).to_bytes(4, "little")
      events.append(event_pb2.Event.FromString(content[12 : 12 + length]))
      content = content[16 + length :]
  return events
