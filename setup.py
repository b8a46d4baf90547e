"""Everything is declared in pyproject.toml; this file serves tools that still call `python setup.py`."""
from setuptools import setup

setup()
