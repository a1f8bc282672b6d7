"""Build every .pyx of this folder against the installed fastbean."""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import setup

import fastbean

setup(
    name="foreign",
    ext_modules=cythonize(
        "*.pyx",
        include_path=[str(Path(fastbean.__file__).parents[1])],
        compiler_directives={"language_level": 3},
    ),
)
