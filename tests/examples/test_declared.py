"""The examples of the example services come to what they promise."""

from pathlib import Path

from tests.daemon import UWSD, run
from uws.config import load

DECLARATION = Path(__file__).parents[2] / "examples" / "uwsd.toml"


async def test_every_service_has_examples_and_all_of_them_complete() -> None:
    services = load(DECLARATION).services
    assert all(service.examples for service in services)
    done = await run(UWSD, "check", "--run-examples", DECLARATION)
    assert (done.status, done.err) == (0, "")
    assert done.out.count("COMPLETED") == sum(len(service.examples) for service in services)
