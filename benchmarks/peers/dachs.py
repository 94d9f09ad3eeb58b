"""GAVO DaCHS as Debian has it, with a user UWS whose jobs run `true`.

It gets a database server and a directory of its own, so that what the machine has of either is not touched;
both are gone when the context is left. Only root cannot be their owner: then they are those of the user that
Debian's package has made for it.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import socket
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any

import aiohttp
from lxml import etree

from benchmarks.servers import Client, Document, Server, uninterrupted

OWNER = "dachsroot"
USER = PASSWORD = "bench"  # noqa: S105 - of a server that nobody else reaches
AUTHORIZATION = f"Basic {b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
JOBS = "/bench/q/true/uws.xml"
PATIENCE = 60.0
"""Seconds in which it has to answer."""
SETTINGS = """
[general]
rootDir: {directory}/gavo
gavoGroup: {group}
[web]
bindAddress: 127.0.0.1
serverPort: {port}
serverURL: http://127.0.0.1:{port}
sitename: bench
adminpasswd: bench
user:
[async]
maxUserUWSRunningDefault: {slots}
maxSlowPollWait: 300
"""


class Dachs:
    """A DaCHS that is set up, and started as often as is wanted: it gets slower with all that it serves."""

    def __init__(self, directory: Path, database: int, slots: int) -> None:
        self._directory, self._database, self._slots = directory, database, slots
        self._port = _free_port()
        owner = pwd.getpwnam(OWNER) if os.getuid() == 0 else pwd.getpwuid(os.getuid())
        self._group = grp.getgrgid(owner.pw_gid).gr_name
        self._as_owner: dict[str, Any] = (
            {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
        )
        os.chown(directory, owner.pw_uid, owner.pw_gid)
        self._environment = {
            "HOME": str(directory),
            "PATH": "/usr/bin:/bin",
            "GAVOSETTINGS": str(directory / "gavo.rc"),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(database),
            "PGUSER": OWNER,
            "LC_ALL": "C.UTF-8",
        }

    @staticmethod
    def version() -> str:
        """Return which is installed, "" for none."""
        if not shutil.which("dachs") or not _postgres():
            return ""
        asked = ["dpkg-query", "--show", "--showformat", "${Version}", "gavodachs2-server"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        return done.stdout.partition("+")[0] if done.returncode == 0 else ""

    @classmethod
    @contextmanager
    def prepared(cls, scratch: Path, slots: int) -> Iterator[Dachs]:
        """Set one up below ``scratch``. Raises `RuntimeError`, with what was said, when that fails."""
        with TemporaryDirectory(dir=scratch) as name:
            dachs = cls(Path(name), _free_port(), slots)
            with dachs._database_server():
                dachs._set_up()
                yield dachs

    @contextmanager
    def serving(self) -> Iterator[Server]:
        """Run it, as new as it is when it has just been started."""
        with (self._directory / "serve.log").open("a") as said:
            with uninterrupted():
                process = subprocess.Popen(
                    ["dachs", "serve", "start", "-f"],  # noqa: S607 - where its package has it
                    stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=self._directory,
                    env=self._environment, start_new_session=True, **self._as_owner,
                )  # fmt: skip
            try:
                server = Server(process.pid, f"http://127.0.0.1:{self._port}")
                self._answered(server, process)
                yield server
                server.connection.close()
            finally:
                process.terminate()
                process.wait()

    def fill(self, jobs: int) -> None:
        """Let it have so many jobs: copies of one that it has run itself, and none besides."""
        self._sql("DELETE FROM uws.userjobs WHERE jobid LIKE 'copy-%' OR phase <> 'COMPLETED'")
        self._sql("DELETE FROM uws.userjobs WHERE jobid <> (SELECT min(jobid) FROM uws.userjobs)")
        columns = self._sql(
            "SELECT string_agg(column_name, ', ') FROM information_schema.columns"
            " WHERE table_schema = 'uws' AND table_name = 'userjobs' AND column_name <> 'jobid'"
        )
        # The names of columns are the database's own.
        self._sql(
            f"INSERT INTO uws.userjobs (jobid, {columns}) SELECT 'copy-' || number, {columns}"  # noqa: S608
            f" FROM uws.userjobs, generate_series(1, {jobs - 1}) AS number"
        )
        self._sql("VACUUM FULL ANALYZE uws.userjobs")  # rows that are gone cost it nothing

    def _set_up(self) -> None:
        root = self._directory / "gavo"
        service = root / "inputs/bench/q.rd"
        settings = SETTINGS.format(
            directory=self._directory, group=self._group, port=self._port, slots=self._slots
        )
        (self._directory / "gavo.rc").write_text(settings)
        self._run("createdb", "--encoding", "UTF-8", "--template", "template0", "gavo")
        self._run("mkdir", root)
        self._run("dachs", "init", "-d", f"host=127.0.0.1 port={self._database} dbname=gavo user={OWNER}")
        self._run("mkdir", "-p", service.parent)
        service.write_bytes(Path(__file__).with_name("dachs.rd").read_bytes())
        self._run("dachs", "imp", "//uws", "enable_useruws")
        self._run("dachs", "admin", "adduser", USER, PASSWORD)

    @contextmanager
    def _database_server(self) -> Iterator[None]:
        place, data = _postgres(), self._directory / "database"
        assert place
        self._run(place / "initdb", "--auth", "trust", "--username", OWNER, "--no-sync", "--pgdata", data)
        options = (
            f"-p {self._database} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._directory}"
        )
        control: list[str | Path] = [place / "pg_ctl", "--pgdata", data, "--wait"]
        with uninterrupted():
            self._run(*control, "--log", self._directory / "database.log", "--options", options, "start")
        try:
            yield
        finally:
            self._run(*control, "--mode", "immediate", "stop")

    def _answered(self, server: Server, process: subprocess.Popen[bytes]) -> None:
        deadline = monotonic() + PATIENCE
        while process.poll() is None and monotonic() < deadline:
            with suppress(OSError):
                server.get(f"{JOBS}?LAST=1", Authorization=AUTHORIZATION)
                return
            server.connection.close()
            sleep(0.02)
        raise RuntimeError((self._directory / "serve.log").read_text())

    def _sql(self, statement: str) -> str:
        return self._run("psql", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "gavo", "-c", statement)

    def _run(self, *command: str | Path) -> str:
        # Of a server that goes on, nobody may wait for the end of what it says.
        with (self._directory / "said").open("w+") as said:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, check=False,
                cwd=self._directory, env=self._environment, **self._as_owner,
            )  # fmt: skip
            said.seek(0)
            text = said.read()
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: {text}")
        return text.strip()


class DachsClient(Client):
    """A client that makes jobs and waits for them, which DaCHS describes in XML."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        super().__init__(session, JOBS)
        self._headers = {"Authorization": AUTHORIZATION}

    async def document(self, job: str, **query: str) -> Document:
        async with self._session.get(job, params=query, headers=self._headers) as response:
            response.raise_for_status()
            return read_document(await response.read())


def read_document(document: bytes) -> Document:
    """Return what benchmarks look at, without times that it tells late."""
    root = etree.fromstring(document, etree.XMLParser(resolve_entities=False, no_network=True))
    created = datetime.fromisoformat(root.findtext("{*}creationTime") or "")
    return Document(root.findtext("{*}phase") or "", created, None, None, None)


def _postgres() -> Path | None:
    """Where the programs of the newest PostgreSQL are that DaCHS can use."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in found), key=lambda path: int(path.parts[4]), default=None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
