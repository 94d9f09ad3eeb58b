"""What the documentation says is true, beyond what `tests/documentation` reads of it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import certifi
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from msgspec.structs import replace
from yarl import URL

import uws
from tests.harness import running
from uws.config import load
from uws.config.reading import _File
from uws.model.events import EVENT_TYPES
from uws.web.openapi import OPERATIONS

ROOT = Path(__file__).parents[1]


def snippets(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def test_the_readme_shows_what_the_two_commands_print() -> None:
    run, test = (
        next(text for text in snippets("README.md", "console") if text.startswith(f"$ make {name}"))
        for name in ("run", "test")
    )
    assert re.findall(r"│ (\w+) +│ http://127.0.0.1:8080/\1/async/\w+ +│ COMPLETED", run) == [
        "cutout",
        "statistics",
    ]
    assert re.search(r"=+ \d+ passed(, \d+ skipped)? in ", test)


@pytest.mark.parametrize(
    "document",
    ["README.md", "SECURITY.md", *(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("**/*.md"))],
)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    missing = [target for target in targets if not ((ROOT / document).parent / target).exists()]
    assert not missing


def test_the_tests_that_show_a_defence_are_there() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "docs/threats.md").read_text()))
    assert named
    assert not [path for path in sorted(named) if not (ROOT / path).exists()]


def test_every_key_of_a_declaration_is_documented() -> None:
    from uws import Example, QueueSettings, Service
    from uws.config import (
        AuditSettings,
        LimitSettings,
        NodeSettings,
        RetentionSettings,
        ServerSettings,
        UploadSettings,
    )
    from uws.model.parameters import Parameter

    text = (ROOT / "docs/declaration.md").read_text()
    classes = (
        Service,
        Example,
        QueueSettings,
        AuditSettings,
        RetentionSettings,
        LimitSettings,
        ServerSettings,
        UploadSettings,
        NodeSettings,
        *Parameter.__args__,
    )
    fields = {field for cls in classes for field in cls.__struct_fields__} - {"name"}
    assert not [field for field in sorted(fields) if not re.search(rf"\b{field}\b", text)]


async def test_the_function_of_the_declarations_page_answers_as_printed(tmp_path: Path) -> None:
    (module,) = snippets("docs/declaration.md", "python")
    (declaration,) = [text for text in snippets("docs/declaration.md", "toml") if "function" in text]
    (tmp_path / "sky.py").write_text(module)
    (tmp_path / "uwsd.toml").write_text(declaration)
    settings = load(tmp_path / "uwsd.toml")
    async with running(settings.data, *settings.services) as site:
        job = await site.run("separation", lon="350", other="10", notes=b"far")
        await site.ended(job)
        answer = await site.get(f"{job}/results/result.json")
        assert answer.text == '{"separation":20.0,"notes":"far"}'


async def test_the_embedding_example_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "example"}
    for snippet in snippets("docs/embedding.md", "python"):
        exec(snippet, scope)
    app = scope["app"]
    assert isinstance(app, web.Application)
    async with TestClient(TestServer(app)) as client:
        answer = await client.post("/vo/square/async", data={"x": "3", "PHASE": "RUN"}, allow_redirects=False)
        job = URL(answer.headers["Location"]).path
        await client.get(f"{job}?WAIT=30&PHASE=QUEUED")
        await client.get(f"{job}?WAIT=30&PHASE=EXECUTING")
        assert await (await client.get(f"{job}/results/square")).text() == "9.0\n"


def test_from_one_machine_to_several_it_is_two_lines(tmp_path: Path) -> None:
    one = snippets("docs/deploying.md", "toml")[0] + '[services.true]\ntitle = "True"\ncommand = ["true"]\n'
    (diff,) = snippets("docs/deploying.md", "diff")
    changed = diff.partition("@@\n")[2].splitlines(keepends=True)
    before = "".join(line[1:] for line in changed if line[0] in " -")
    after = "".join(line[1:] for line in changed if line[0] in " +")
    assert [line[0] for line in changed if line[0] != " "] == ["+", "+"]
    assert one.startswith(before)
    (tmp_path / "one.toml").write_text(one)
    after = after.replace("/etc/uwsd/db.crt", certifi.where())  # one that is there
    (tmp_path / "several.toml").write_text(one.replace(before, after))
    alone, several = load(tmp_path / "one.toml"), load(tmp_path / "several.toml")
    assert (alone.store.url, alone.store.jobs) == (None, None)
    assert several.store.url
    assert several.store.jobs == Path("/srv/uwsd/jobs")
    assert replace(several, store=alone.store) == alone


async def test_the_declarations_for_those_who_come_from_elsewhere_are_right(tmp_path: Path) -> None:
    script, *_ = snippets("docs/migrating.md", "sh")
    (tmp_path / "add.sh").write_text(script)
    text = "\n".join(snippets("docs/migrating.md", "toml"))
    (tmp_path / "uwsd.toml").write_text(text.replace("/srv/uws", str(tmp_path)))
    settings = load(tmp_path / "uwsd.toml")
    assert [service.name for service in settings.services] == ["rotate", "add"]
    async with running(settings.data, *settings.services) as site:
        job = await site.create("add", input=b"first\n", text="second", PHASE="RUN")
        await site.ended(job)
        assert (await site.get(f"{job}/results/output")).text == "first\nsecond\n"


def test_the_reference_is_complete_and_the_same_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    reference = importlib.import_module("reference")
    for name in ("first", "second"):
        reference.write(tmp_path / name)
    pages = {path.name: path.read_text() for path in (tmp_path / "first").iterdir()}
    assert pages == {path.name: path.read_text() for path in (tmp_path / "second").iterdir()}
    assert not [name for name, text in pages.items() if " at 0x" in text]
    tables = {field.name for field in msgspec.structs.fields(_File) if field.type is not str}
    shown = set(re.findall(r"^## `\[(\w+)", pages["configuration.md"], re.MULTILINE))
    assert tables - shown <= {"store", "jobs"}  # which are no tables
    assert all(f"## `{name}`" in pages["events.md"] for name in EVENT_TYPES)
    assert "## `uwsd jobs list`" in pages["commands.md"]
    assert all(route.split()[1] in pages["http.md"] for route in OPERATIONS)
    assert all(f"### `{name}`" in pages["python.md"] for name in uws.__all__)
