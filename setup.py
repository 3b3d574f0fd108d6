"""Hands the build to setuptools; the metadata stand in pyproject.toml."""

from setuptools import setup

setup()
