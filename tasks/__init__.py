"""SeqIO tasks and mixtures; importing this registers all of them."""

from distill_jax.tasks import anli1 as anli1
from distill_jax.tasks import asdiv as asdiv
from distill_jax.tasks import cqa as cqa
from distill_jax.tasks import esnli as esnli
from distill_jax.tasks import svamp as svamp
from distill_jax.tasks import word_problems as word_problems
