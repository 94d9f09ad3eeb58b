"""What the documentation says is true, beyond what `tests/documentation` reads of it."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import certifi
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from msgspec.structs import replace
from yarl import URL

import eventstore
import projections
import uws
from tests.harness import running
from uws.config import load
from uws.config.reading import _File
from uws.model.events import EVENT_TYPES
from uws.web.openapi import OPERATIONS

ROOT = Path(__file__).parents[1]


def snippets(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def test_links_between_documents_lead_somewhere(reference: dict[str, str]) -> None:
    written = {path: path.read_text() for path in importlib.import_module("_reference.links").pages()}
    texts = written | {ROOT / f"docs/reference/{name}.md": text for name, text in reference.items()}
    anchor = importlib.import_module("_reference.described").anchor
    headings = {path: _headings(text, anchor) for path, text in texts.items()}
    links = [
        (path, link)
        for path, text in texts.items()
        for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", _without_code(text))
    ]
    assert {path.name for path, _ in links} >= {"README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"}
    assert not [
        f"{path.relative_to(ROOT)}: {link}" for path, link in links if not _leads(path, link, headings)
    ]


def _leads(page: Path, link: str, headings: dict[Path, set[str]]) -> bool:
    name, hash_, heading = link.partition("#")
    target = Path(os.path.normpath(page.parent / name)) if name else page
    return (target in headings or target.exists()) and (
        not hash_ or f"#{heading}" in headings.get(target, ())
    )


def _headings(text: str, anchor: Callable[[str], str]) -> set[str]:
    """Return where links can lead in a page, by the names that MyST and repositories give them."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.*)$", _without_code(text, also_within=False), re.MULTILINE):
        name = anchor(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading))
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return set(found)


def _without_code(text: str, *, also_within: bool = True) -> str:
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "`…`", text) if also_within else text


def test_addresses_elsewhere_are_written_in_one_way_and_safe(reference: dict[str, str]) -> None:
    found = importlib.import_module("_reference.links").external()
    assert {"https://www.ivoa.net/documents/UWS/", "https://sqlite.org/wal.html#walresetbug"} <= found.keys()
    assert not [url for url in found if not re.fullmatch(r"https://[a-z0-9.-]+(/[\w.~/-]*)?(#[\w.-]+)?", url)]
    meant = [re.sub(r"^www\.|/?(#.*)?$", "", url.removeprefix("https://").lower()) for url in found]
    pages = {(page, url.partition("#")[2]) for page, url in zip(meant, found, strict=True)}
    assert len(pages) == len(found)
    assert all(f"<{url}>" in reference["links"] for url in found)


@pytest.mark.parametrize("page", ["threats", "why"])
def test_the_tests_that_show_a_promise_are_there(page: str) -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "docs" / f"{page}.md").read_text()))
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


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The pages of the reference, by name."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(ROOT / "docs")
        yield _written(tmp_path_factory.mktemp("reference"))


def _written(directory: Path) -> dict[str, str]:
    importlib.import_module("_reference").write(directory)
    return {path.stem: path.read_text() for path in directory.iterdir()}


def test_the_reference_is_the_same_each_time(reference: dict[str, str], tmp_path: Path) -> None:
    assert reference == _written(tmp_path)
    assert not [name for name, text in reference.items() if " at 0x" in text]


def test_the_reference_is_complete(reference: dict[str, str]) -> None:
    tables = {field.name for field in msgspec.structs.fields(_File)}
    assert tables <= set(re.findall(r"^\| `(\w+)`", reference["configuration"], re.MULTILINE))
    assert "| `function` |" in reference["configuration"]
    assert all(f"### `{name}`" in reference["events"] for name in (*EVENT_TYPES, "Result", "Upload"))
    assert "## `uwsd jobs list`" in reference["commands"]
    assert all(f"## `{route.split()[1]}`\n" in reference["http"] for route in OPERATIONS)
    for module in (uws, eventstore, projections):
        assert all(f"#### `{module.__name__}.{name}`" in reference["python"] for name in module.__all__)
    assert all(f"| `{phase}` | `'{phase}'` |" in reference["python"] for phase in uws.Phase)


def test_the_reference_says_of_all_what_it_is_for(reference: dict[str, str]) -> None:
    for name in ("configuration", "events", "http"):
        rows = re.findall(r"^\| `.*\|$", reference[name], re.MULTILINE)
        assert not [row for row in rows if row.endswith("|  |")], name
        assert not [row for row in rows if re.search(r"\b(None|str|int|bool)\b \\\|", row)], name
    for name, text in reference.items():
        parts = re.split(r"^(#+) (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)[
            1:
        ]
        for level, heading, about, below in zip(
            parts[::3], parts[1::3], parts[2::3], [*parts[3::3], ""], strict=True
        ):
            assert about.strip() or len(below) > len(level), f"{name}: {heading}"
    assert "Base of all payloads" not in reference["events"]


def test_the_reference_tells_of_a_command_what_it_takes(reference: dict[str, str]) -> None:
    wanted = (
        "uwsd check [OPTIONS] [FILE]",
        "`MODULE:NAME`\n: The function. (text; required)",
        "## `uwsd`\n",
        "by default `uwsd.toml`)",
        "`QUEUED` or `EXECUTING`",
        "## Exit statuses\n",
        "`2`\n: For a wrong declaration",
    )
    assert not [text for text in wanted if text not in reference["commands"]]


def test_the_reference_tells_of_an_operation_what_it_is_refused_by(reference: dict[str, str]) -> None:
    about = reference["http"].partition("## `/{service}/async/{job_id}/provenance`")[2].partition("\n## ")[0]
    assert "- or refuses by [400, 401, 403, 404, 410, 501, 503](#refusals)" in about
    told = set(re.findall(r"^\| (\d{3}) ", reference["http"], re.MULTILINE))
    named = re.findall(r"refuses by \[(.*)\]", reference["http"])
    assert told >= {status for statuses in named for status in statuses.split(", ")}
