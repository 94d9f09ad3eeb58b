"""One Chromium for all tests of a run, in one event loop with them; each has pages of its own in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from examples.sky import sample_files
from tests.browser.support import running_chromium
from tests.processes import no_process_stays_behind


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    with no_process_stays_behind():
        async with running_chromium() as browser:
            yield browser


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def no_task_stays_behind() -> AsyncIterator[None]:
    """Do what is done everywhere in the loop in which these tests run."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"tasks are left: {left}"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return the real FITS image, or one like it where that is not at hand."""
    return sample_files(tmp_path / "sky")[0]
