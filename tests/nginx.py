"""An nginx in front of servers, with the file that operators are given."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

FILE = Path(__file__).parents[1] / "deploy/uwsd.nginx"
HOST = "jobs.example.org"
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
needs_nginx = pytest.mark.skipif(
    NGINX is None, reason="nginx is not installed: the file for it in deploy/ is not tested"
)
_MAIN = """
daemon off;
{user}
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections 256; }}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/temp/body;
    proxy_temp_path {directory}/temp/proxy;
    fastcgi_temp_path {directory}/temp/fastcgi;
    uwsgi_temp_path {directory}/temp/uwsgi;
    scgi_temp_path {directory}/temp/scgi;
    include {directory}/uwsd.nginx;
}}
"""


class Front:
    """An nginx that runs, and how its clients reach it: ``session`` takes `HOST` for this machine."""

    def __init__(
        self,
        directory: Path,
        secure: int,
        plain: int,
        session: aiohttp.ClientSession,
        process: asyncio.subprocess.Process,
    ) -> None:
        self._directory, self._process = directory, process
        self.url, self.plain_url = f"https://{HOST}:{secure}/vo", f"http://{HOST}:{plain}/vo"
        self.session = session

    @property
    def warnings(self) -> str:
        """What it has complained of: files in which it keeps what it does not pass on, for one."""
        return (self._directory / "error.log").read_text()

    async def take(self, port: int, *, out: bool) -> None:
        """Take a server out, or in again: nginx reads its file anew, and new workers take over."""
        file, line = self._directory / "uwsd.nginx", f"    server 127.0.0.1:{port} max_fails=0"
        text = file.read_text()
        file.write_text(
            text.replace(f"{line};", f"{line} down;") if out else text.replace(f"{line} down;", f"{line};")
        )
        before = self._workers()
        self._process.send_signal(signal.SIGHUP)
        while self._workers() & before:  # the old ones go when what they were asked is answered
            await asyncio.sleep(0.01)

    def _workers(self) -> set[str]:
        pid = self._process.pid
        return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


@asynccontextmanager
async def fronted(
    directory: Path,
    *upstream: int,
    ports: tuple[int, int] | None = None,
    more: Sequence[tuple[str, str]] = (),
) -> AsyncIterator[Front]:
    """Run nginx in ``directory`` in front of servers at these ports; ``more`` is replaced in its file."""
    secure, plain = ports or free_ports(2)
    (directory / "temp").mkdir(parents=True)
    certificate, key = _certificate(directory)
    text = FILE.read_text()
    servers = "\n".join(f"    server 127.0.0.1:{port} max_fails=0;" for port in upstream)
    for old, new in (
        ("    server 127.0.0.1:8080 max_fails=0;", servers),
        ("    listen [::]:80;\n", ""),
        ("    listen [::]:443 ssl http2;\n", ""),
        ("listen 80;", f"listen 127.0.0.1:{plain};"),
        ("listen 443 ssl http2;", f"listen 127.0.0.1:{secure} ssl http2;"),
        (f"/etc/ssl/{HOST}.pem", str(certificate)),
        (f"/etc/ssl/private/{HOST}.key", str(key)),
        *more,
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (directory / "uwsd.nginx").write_text(text)
    user = "user root;" if os.geteuid() == 0 else ""
    (directory / "nginx.conf").write_text(_MAIN.format(directory=directory, user=user))
    process = await asyncio.create_subprocess_exec(
        str(NGINX), "-e", directory / "error.log", "-c", directory / "nginx.conf"
    )
    try:
        await _answers(process, secure)
        context = ssl.create_default_context(cafile=certificate)
        connector = aiohttp.TCPConnector(resolver=_Here(), ssl=context, limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Front(directory, secure, plain, session, process)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def free_ports(count: int) -> tuple[int, ...]:
    """Return ports of this machine that nobody has."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return tuple(probe.getsockname()[1] for probe in probes)
    finally:
        for probe in probes:
            probe.close()


async def _answers(process: asyncio.subprocess.Process, port: int) -> None:
    while True:
        assert process.returncode is None, "nginx has refused its file"
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return


class _Here(AbstractResolver):
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        assert host == HOST
        found: Any = {
            "hostname": host, "host": "127.0.0.1", "port": port, "family": socket.AF_INET,
            "proto": 0, "flags": 0,
        }  # fmt: skip
        return [found]

    async def close(self) -> None:
        pass


def _certificate(directory: Path) -> tuple[Path, Path]:
    """Make a certificate for `HOST` and its key, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = directory / "certificate.pem", directory / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files
