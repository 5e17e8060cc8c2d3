"""Packaging of distill_jax. Tool settings live in pyproject.toml."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
  r'^__version__ = "(.+)"$',
  (ROOT / "distill_jax" / "__init__.py").read_text(encoding="utf-8"),
  re.MULTILINE,
).group(1)

# `tasks/` and `gin/` stand at the top level of the repository, as T5X users
# expect, and install inside the package as `distill_jax.tasks` and as data. In
# a checkout the link distill_jax/tasks makes `distill_jax.tasks` importable.
GIN_PACKAGES = {
  ".".join(("distill_jax", *folder.relative_to(ROOT).parts)): str(
    folder.relative_to(ROOT)
  )
  for folder in (ROOT / "gin", *(ROOT / "gin").rglob("*"))
  if folder.is_dir()
}

# What `prepare` tokenizes with, and nothing after it imports.
DATA = [
  # tensorflow-datasets 4.9.10 imports it without declaring it.
  "importlib_resources>=6",
  "seqio>=0.0.20",
  "tensorflow>=2.18",
  "tensorflow-datasets>=4.9.7",
]
REFERENCE = ["torch>=2.6", "transformers>=4.46"]

setuptools.setup(
  name="distill_jax",
  version=VERSION,
  description="Distilling Step-by-Step in JAX: small T5 students from a large"
  " model's labels and rationales.",
  long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=[
    *setuptools.find_packages(
      include=["distill_jax", "distill_jax.*"], exclude=["distill_jax.tasks"]
    ),
    "distill_jax.tasks",
    *GIN_PACKAGES,
  ],
  package_dir={"distill_jax.tasks": "tasks", **GIN_PACKAGES},
  package_data={
    "distill_jax.data": ["*.model"],
    "distill_jax.teacher.prompting": ["prompt_files/*.toml"],
    "": ["*.gin"],
  },
  install_requires=[
    "absl-py>=2.1",
    "array-record>=0.8",
    "datasketch>=1.6",
    "etils[epath]>=1.7",
    "flax>=0.12",
    "gin-config>=0.5",
    "grain>=0.2.12",
    # openai speaks through httpx2, whose streams and errors are ours to handle.
    "httpx2>=2.12",
    "jax>=0.10",
    "jaxtyping>=0.3",
    "matplotlib>=3.9",
    "ml_dtypes>=0.5",
    "msgpack>=1.1",
    "numpy>=2.0",
    "openai>=3.54",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.12",
    "protobuf>=5",
    "rouge-score>=0.1.2",
    "sacrebleu>=2.5",
    "safetensors>=0.5",
    "scikit-learn>=1.5",
    "scipy>=1.14",
    "sentencepiece>=0.2",
    "tensorboardX>=2.6",
    "tensorstore>=0.1.70",
    "tokenizers>=0.22",
    "tqdm>=4.66",
  ],
  extras_require={
    "data": DATA,
    "test": [
      *DATA,
      "beartype>=0.20",
      "hypothesis>=6.100",
      "pyarrow>=15",
      "pyright>=1.1.390",
      "pytest>=8",
      "pytest-xdist>=3.6",
      "ruff>=0.9",
    ],
    "gpu": ["jax[cuda12]>=0.10"],
    "tpu": ["jax[tpu]>=0.10"],
    # Attention of Hopper and Blackwell GPUs. It wants JAX 0.11.1.
    "tokamax": ["tokamax>=0.0.17; python_version>='3.12'"],
    "hf": REFERENCE,
    # Questions for a teacher in Parquet.
    "parquet": ["pyarrow>=15"],
    # Wants protobuf below 7, which the locked versions are not: a venv apart.
    "beam": ["apache-beam>=2.77,<3"],
    # What T5X imports; itself, airio and jestimator come from GitHub.
    "t5x": [
      *DATA,
      "cached_property>=2.0.1",
      "chex>=0.1.92",
      "clu>=0.0.12",
      "fiddle>=0.3.1",
      "tensorboard>=2.18",
    ],
  },
  entry_points={
    "console_scripts": [
      "distill-jax = distill_jax.main:run",
      "distill-jax-convert = distill_jax.runs.convert:run",
    ],
  },
)
