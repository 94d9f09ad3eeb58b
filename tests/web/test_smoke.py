"""A first walk through."""

from pathlib import Path

from tests.harness import running, text
from uws import FloatParameter, ResultDeclaration, Service

ECHO = Service(
    name="echo",
    title="Echo",
    command=["sh", "-c", 'echo "$1"', "echo", "{x}"],
    parameters={"x": FloatParameter(required=True)},
    results=[ResultDeclaration(id="out", path="-")],
)


async def test_a_job_runs_to_its_end(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.run("echo", x=3)
        document = await site.ended(job)
        assert text(document, "phase") == "COMPLETED"
        assert (await site.get(f"{job}/results/out")).body == b"3.0\n"
