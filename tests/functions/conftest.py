"""Fixtures that tests of functions share with those of programs."""

from tests.execution.conftest import ready

__all__ = ["ready"]
