"""Texts that a parser of teachers' outputs may trip over, put together anew."""

from hypothesis import strategies as st

_FRAGMENTS = st.sampled_from(
  [
    "So the answer is",
    "the answer is ",
    "The answer is ",
    "Answer:",
    "Answer: ",
    "(a)",
    "(b) library",
    "(",
    ")",
    "(1 + 2)",
    "*",
    "neutral",
    "entail",
    ".",
    "\n",
    "Q:",
    "Premise:",
    "\n**Answer:** ",
    "\nHypothesis: ",
    "\\boxed{",
    "}",
    "<think>",
    "</think>",
    "1,234",
    " = ",
    " ",
  ]
)
OUTPUTS = st.lists(_FRAGMENTS | st.text(max_size=5), max_size=12).map("".join)
