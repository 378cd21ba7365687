"""Hands the C extensions to setuptools; everything else is in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["native/build_native.py:ffi", "native/build_native.py:fused"])
