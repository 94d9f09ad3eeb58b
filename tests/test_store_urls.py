"""What is wrong with the URL of a database is told before anybody connects, and never with the password."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.daemon import UWSD, run, uwsd

SERVICE = """
[services.echo]
title = "Echo"
command = ["echo", "hello"]
"""
ENCODE = "percent-encode it (/ is %2F, # is %23, ? is %3F, @ is %40, [ is %5B, ] is %5D, % is %25)"
PORT = "expected a port between 1 and 65535 behind the host"


def declared(directory: Path, url: str) -> Path:
    file = directory / "uwsd.toml"
    file.write_text(f'store = "{url}"\njobs = "jobs"\n{SERVICE}')
    return file


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql://uwsd@127.0.0.1:notaport/uwsd", f"{PORT}, got '127.0.0.1:notaport'"),
        ("postgresql://uwsd@127.0.0.1:99999/uwsd", f"{PORT}, got '127.0.0.1:99999'"),
        ("postgresql://uwsd@127.0.0.1:0/uwsd", PORT),
        ("postgresql://uwsd@a:1,b:x/uwsd", f"{PORT}, got 'b:x'"),
        ("postgresql://uwsd@[::1/uwsd", "or an IPv6 address in brackets, such as [::1], got '[::1'"),
        (
            "postgresql://uwsd@[db]:5432/uwsd",
            "or an IPv6 address in brackets, such as [::1], got '[db]:5432'",
        ),
        ("postgresql://uwsd@::1:5432/uwsd", "expected a "),
        ("postgresql://uwsd@db/uwsd?sslmode=banana", "sslmode: expected one of disable, allow, prefer,"),
        ("postgresql://uwsd@db/uwsd?foo=bar", "there is no option 'foo' behind the ?; known are database,"),
        ("postgresql://uwsd@db/uwsd?foo", "there is no option 'foo' behind the ?"),
        ("postgresql://uwsd@db/uwsd?port=x", "port: expected a number between 1 and 65535, got 'x'"),
        ("postgresql://uwsd@db/uwsd?sslrootcert=/nonexist", "sslrootcert: /nonexist: No such file"),
        (
            "postgresql://uwsd@db/uwsd?sslrootcert=/dev/null",
            "sslrootcert: /dev/null: there is no certificate",
        ),
        ("postgresql:/db/uwsd", "expected the URL of a database such as postgresql://uwsd@db.example/uwsd"),
        # Passwords: "se" and "cret" are parts of one.
        ("postgresql://uwsd:se/cr#et@db/uwsd", ENCODE),
        ("postgresql://uwsd:se/cret@db/uwsd", ENCODE),
        ("postgresql://uwsd:se#cret@db/uwsd", ENCODE),
        ("postgresql://uwsd:se?cret@db/uwsd", ENCODE),
        ("postgresql://uwsd:se@cret@db/uwsd", ENCODE),
        ("postgresql://uwsd:se[cret@db/uwsd", ENCODE),
        ("postgresql://uwsd:se cret@db/uwsd", ENCODE),
        ("postgresql://uwsd:se℀cret@db/uwsd", ENCODE),
        ("postgresql://uwsd:secret", ENCODE),
        ("postgresql://uwsd:se?cret", "there is an option that is none"),
        ("postgresql://uwsd@db/uwsd?password=se&cret", "there is an option that is none"),
        ("mysql://uwsd:secret@db/uwsd", "got mysql://…"),
    ],
)
async def test_a_wrong_one_is_refused_by_check_and_by_copying_without_telling_a_password(
    tmp_path: Path, url: str, problem: str
) -> None:
    checked = await uwsd("check", declared(tmp_path, url))
    assert checked.status == 2
    assert checked.err.startswith("store: ")
    assert problem in checked.err
    told = checked.err
    if "://" in url:
        for command in ((url, str(tmp_path / "new")), (str(tmp_path / "old"), url)):
            copied = await uwsd("store", "copy", *command)
            assert copied.status == 2
            assert problem in copied.err
            told += copied.err
    assert "Traceback" not in told
    assert "cret" not in told
    assert "'se" not in told


@pytest.mark.parametrize(
    "url",
    [
        "postgres://db.example/uwsd",
        "postgresql://uwsd:p%2Fa%23s%3As%40@db.example:5432/uwsd?sslmode=verify-full&target_session_attrs=primary",
        "postgresql://uwsd:a:b@[::1]:5432,db.example/uwsd",
        "postgresql:///uwsd?host=/var/run/postgresql&port=5433&user=uwsd",
        "postgresql://uwsd@%2Fvar%2Frun%2Fpostgresql/uwsd?password=a%26b",
    ],
)
async def test_a_right_one_is_taken(tmp_path: Path, url: str) -> None:
    file = declared(tmp_path, url)
    file.write_text(f'{file.read_text()}\n[audit]\nkey = "{tmp_path}/keys/audit.key"\n')
    checked = await uwsd("check", file)
    assert (checked.status, checked.err) == (0, "")


async def test_a_passfile_that_others_may_read_is_told_by_its_name(tmp_path: Path) -> None:
    passfile = tmp_path / "passwords"
    passfile.write_text("*:*:*:*:secret\n")
    passfile.chmod(0o644)
    file = declared(tmp_path, f"postgresql://uwsd@db.example/uwsd?passfile={passfile}")
    checked = await uwsd("check", file)
    assert checked.status == 2
    assert checked.err == (
        f"store: passfile: {passfile} is open to others (mode 0644), and is not used so: chmod 600\n"
    )
    by_variable = declared(tmp_path, "postgresql://uwsd@db.example/uwsd")
    environment = {**os.environ, "PGPASSFILE": str(passfile)}
    assert (await uwsd("check", by_variable, env=environment)).err == checked.err
    passfile.chmod(0o600)
    assert (await uwsd("check", by_variable, env=environment)).status == 0


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("PGPORT", "abc", "expected a number between 1 and 65535, got 'abc'"),
        ("PGPORT", "5432,x", "expected a number between 1 and 65535, got '5432,x'"),
        ("PGHOST", "[::1", "expected a host as in"),
        (
            "PGSSLMODE",
            "banana",
            "expected one of disable, allow, prefer, require, verify-ca, verify-full, got",
        ),
        ("PGSSLMODE", "", "expected one of disable, allow, prefer, require, verify-ca, verify-full, got ''"),
        ("PGSSLNEGOTIATION", "x", "expected one of postgres, direct, got 'x'"),
        ("PGSSLMINPROTOCOLVERSION", "3", "expected one of TLSv1, TLSv1.1, TLSv1.2, TLSv1.3, got '3'"),
        ("PGSSLROOTCERT", "/nonexist", "/nonexist: No such file or directory"),
        ("PGSSLCERT", "/nonexist", "/nonexist: No such file or directory"),
        ("PGTARGETSESSIONATTRS", "x", "expected one of any, primary, standby"),
        ("PGGSSLIB", "x", "expected one of gssapi, sspi, got 'x'"),
    ],
)
async def test_a_wrong_variable_is_told_with_its_name_by_every_command(
    tmp_path: Path, variable: str, value: str, problem: str
) -> None:
    url = "postgresql:///uwsd"
    file, environment = declared(tmp_path, url), {**os.environ, variable: value}
    for command in (("check", file), ("serve", file), ("nodes", "-c", file), ("store", "copy", url, "new")):
        told = await uwsd(*command, env=environment, cwd=tmp_path)
        assert told.status == 2
        place = "FROM" if "copy" in command else "store"
        assert told.err.startswith(f"{place}: {variable} in the environment: {problem}")
        assert len(told.err.splitlines()) == 1


async def test_a_variable_for_what_the_url_says_is_not_looked_at_nor_one_that_says_nothing(
    tmp_path: Path,
) -> None:
    file = declared(tmp_path, "postgresql://uwsd@db.example:5432/uwsd?sslmode=disable")
    variables = {"PGSSLMODE": "banana", "PGHOST": "[", "PGPORT": "", "PGSSLROOTCERT": ""}
    assert (await uwsd("check", file, env={**os.environ, **variables})).status == 0


async def test_what_a_database_needs_and_is_not_installed_is_told(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['asyncpg'] = None\n")
    file = declared(tmp_path, "postgresql://uwsd@db.example/uwsd")
    checked = await run(UWSD, "check", file, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert checked.status == 2
    assert checked.err == "store: a log in PostgreSQL needs asyncpg: install uwsd[postgres]\n"
