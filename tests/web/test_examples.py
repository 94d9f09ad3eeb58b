"""DALI-examples (DALI 1.1 section 2.3): what a program reads in the page does what the page says."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

import msgspec

from tests.harness import Answer, BasicUsers, Site, running
from tests.web.support import ECHO
from tests.web.test_sync import followed
from uws import Example, FileParameter, FloatParameter, ResultDeclaration, Service, StrParameter

VOCABULARY = "http://www.ivoa.net/rdf/examples#"
EVIL = '"><script>alert(1)</script> &'


def service(directory: Path) -> Service:
    """Declare a service that says what it was given, with examples whose files are in ``directory``."""
    one, two = directory / "one.txt", directory / "two.txt"
    one.write_text("one,")
    two.write_text("two,")
    return Service(
        name="say",
        title="Say",
        command=["cat", ["{text}"]],
        parameters={"text": FileParameter(multiple=True), "x": FloatParameter()},
        results=[ResultDeclaration(id="out", path="-")],
        examples=[
            Example(title="Both files", parameters={"text": [str(one), str(two)]}),
            Example(
                title="One file",
                id="single",
                description="Says <one> & no more.",
                parameters={"text": str(one), "x": 1.5},
            ),
        ],
    )


def read(answer: Answer) -> dict[str, dict[str, list[tuple[str, str]]]]:
    """Read examples as clients do: by the attributes of RDFa, whatever the elements are called."""
    assert answer.status == 200
    (vocabulary,) = answer.xml.xpath("//*[@vocab]")
    assert vocabulary.get("vocab") == VOCABULARY
    found = {}
    for example in vocabulary.xpath(".//*[@typeof='example']"):
        assert example.get("resource") == f"#{example.get('id')}"
        pairs = [
            tuple("".join(pair.xpath(f".//*[@property='{part}']")[0].itertext()) for part in ("key", "value"))
            for pair in example.xpath(".//*[@property='generic-parameter'][@typeof='keyval']")
        ]
        (name,) = example.xpath(".//*[@property='name']")
        assert len(name) == 0
        found[example.get("id")] = {name.text: pairs}
    return found


async def test_each_example_has_a_name_an_id_and_its_parameters(tmp_path: Path) -> None:
    async with running(tmp_path / "data", service(tmp_path)) as site:
        answer = await site.get("/say/examples")
        assert answer.headers["Content-Type"] == "application/xhtml+xml; charset=utf-8"
        files = f"{site.url}/say/examples"
        assert read(answer) == {
            "both-files": {
                "Both files": [
                    ("UPLOAD", f"text,{files}/both-files/text/1"),
                    ("UPLOAD", f"text,{files}/both-files/text/2"),
                ]
            },
            "single": {"One file": [("UPLOAD", f"text,{files}/single/text"), ("x", "1.5")]},
        }
        assert "Says &lt;one&gt; &amp; no more." in answer.text
        held = {"If-None-Match": answer.headers["ETag"]}
        assert (await site.get("/say/examples", headers=held)).status == 304


async def test_what_an_example_tells_can_be_sent_as_it_is(tmp_path: Path) -> None:
    async with running(tmp_path / "data", service(tmp_path)) as site:
        told = read(await site.get("/say/examples"))
        for name, said in (("both-files", "one,two,"), ("single", "one,")):
            (pairs,) = told[name].values()
            _, end = await followed(site, await site.get(f"/say/sync?{urlencode(pairs)}"))
            assert (end.status, end.text) == (200, said)


async def test_an_example_fills_in_the_form(tmp_path: Path) -> None:
    async with running(tmp_path / "data", service(tmp_path)) as site:
        for link in (await site.get("/say/examples")).xml.xpath("//*[@typeof='example']//@href"):
            form = (await site.get(link)).xml
            files = [(file.get("name"), file.get("href")) for file in form.iterfind(".//{*}file")]
            if link.endswith("&x=1.5"):
                assert files == [("one.txt", f"{site.url}/say/examples/single/text")]
                assert form.findtext(".//{*}parameter[@name='x']/{*}value") == "1.5"
            else:
                urls = [f"{site.url}/say/examples/both-files/text/{number}" for number in (1, 2)]
                assert files == list(zip(("one.txt", "two.txt"), urls, strict=True))


async def test_the_files_of_examples_are_served_and_no_others(tmp_path: Path) -> None:
    async with running(tmp_path / "data", service(tmp_path)) as site:
        answer = await site.get("/say/examples/both-files/text/2")
        assert (answer.status, answer.text) == (200, "two,")
        assert answer.headers["Content-Security-Policy"].startswith("sandbox")
        for path in (
            "both-files/text/3",
            "both-files/text/0",
            "both-files/x",
            "single/x",
            "nosuch/text",
            "x/y",
        ):
            assert (await site.get(f"/say/examples/{path}")).status == 404
        (tmp_path / "two.txt").unlink()
        assert (await site.get("/say/examples/both-files/text/2")).status == 404
        answer = await site.get(f"/say/sync?UPLOAD=text,{site.url}/say/examples/both-files/text/2")
        assert (answer.status, answer.text.startswith("UsageFault: text: ")) == (400, True)


async def test_a_service_without_examples_is_missing(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await site.get("/echo/examples")
        assert (answer.status, answer.text) == (404, "UsageFault: echo has no examples\n")


async def test_the_page_holds_nothing_that_acts(tmp_path: Path) -> None:
    evil = Service(
        name="evil",
        title=EVIL,
        command=["true"],
        parameters={"x": StrParameter()},
        examples=[Example(title=EVIL, id="x", parameters={"x": EVIL})],
    )
    async with running(tmp_path, evil) as site:
        answer = await site.get("/evil/examples")
        assert "<script" not in answer.text
        assert read(answer)["x"] == {evil.title: [("x", evil.title)]}
        assert "unsafe-inline" not in answer.headers["Content-Security-Policy"]


async def test_links_are_those_by_which_clients_reach_the_server(tmp_path: Path) -> None:
    base = "https://jobs.example.org/vo"
    async with running(tmp_path / "data", service(tmp_path), base_url=base) as site:
        page = (await site.get("/say/examples")).xml
        links = page.xpath("//@href")
        assert all(link.startswith(base) for link in links)


async def test_who_may_not_use_the_server_is_shown_no_examples(tmp_path: Path) -> None:
    async with running(tmp_path / "data", service(tmp_path), authenticator=BasicUsers()) as site:
        wrong = {"Authorization": "Basic nonsense"}
        for path in ("", "/single/text"):
            assert (await site.get(f"/say/examples{path}", headers=wrong)).status == 401


async def recorded(site: Site) -> list[bytes]:
    stream = await site.node.backend.store.read_stream("service/say")
    return [event.data for event in stream]


async def test_examples_do_not_go_on_record(tmp_path: Path) -> None:
    with_examples = service(tmp_path)
    async with running(tmp_path / "data", with_examples) as site:
        first = await recorded(site)
        assert str(tmp_path).encode() not in first[0]
    without = msgspec.structs.replace(with_examples, examples=[])
    async with running(tmp_path / "data", without) as site:
        assert await recorded(site) == first
