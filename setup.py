"""Installs the package ``sammo`` and its command; requirements.txt has the versions tested together."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "sammo" / "__init__.py").read_text(encoding="utf-8"))[1]

setup(
    name="sammo",
    version=VERSION,
    description="Streaming speech recognition with a constant-size memory: Zipformer with Mamba-2",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["sammo", "sammo.*"]),
    package_data={"sammo.serve": ["page/*"]},
    install_requires=[
        "torch",
        "torchaudio",
        "lhotse",
        "urllib3",
        "lilcom",
        "sentencepiece",
        "kaldialign",
        "tensorboard",
        "matplotlib",
        "soundfile",
        "numpy",
        "safetensors",
        "tqdm",
    ],
    entry_points={"console_scripts": ["sammo=sammo.cli:main"]},
)
