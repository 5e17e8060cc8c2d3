"""SeqIO tasks and mixtures; importing this registers all of them."""

from . import animal_legs as animal_legs
from . import anli1 as anli1
from . import asdiv as asdiv
from . import cqa as cqa
from . import esnli as esnli
from . import svamp as svamp
from . import word_problems as word_problems
