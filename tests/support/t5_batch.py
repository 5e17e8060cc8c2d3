"""The arrays of a batch that an encoder-decoder reads, by their keys."""

INPUT_KEYS = ("encoder_input_tokens", "encoder_segment_ids")
KEYS = (
  "encoder_input_tokens",
  "decoder_input_tokens",
  "encoder_segment_ids",
  "decoder_segment_ids",
)


def make_batch(*arrays):
  """Names four arrays: tokens of both sides, segments of both sides."""
  return dict(zip(KEYS, arrays, strict=True))


def make_inputs(*arrays):
  """Names two arrays: the encoder's tokens and segments."""
  return dict(zip(INPUT_KEYS, arrays, strict=True))
