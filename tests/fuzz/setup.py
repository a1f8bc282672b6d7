"""Builds the fuzz targets against the sanitized fastbean, which is on the path, and the .pxd files of this tree."""

from Cython.Build import cythonize
from setuptools import Extension, setup

FOLDER = "tests/fuzz"
FLAGS = ["-O1", "-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]

setup(
    name="targets",
    ext_modules=cythonize(
        [
            Extension(
                name,
                [f"{FOLDER}/{name}.pyx"],
                extra_compile_args=FLAGS,
                extra_link_args=[*FLAGS, "-shared-libasan"],
                define_macros=[("FASTBEAN_DEBUG", "1")],
            )
            for name in ("driver", "tokenizer", "connection", "binlog")
        ],
        include_path=[FOLDER, "src"],
        build_dir="build/sanitize/cython",
        compiler_directives={"language_level": 3},
    ),
)
