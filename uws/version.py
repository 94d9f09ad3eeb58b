"""The version of this program."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("uwsd")
except PackageNotFoundError:  # run from a checkout that nobody installed
    VERSION = ""
