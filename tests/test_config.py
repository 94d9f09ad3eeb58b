"""The operator's file: every mistake is named, with its place."""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path

import pytest

from uws.config import Settings, StoreSettings, load, make_service
from uws.model import DeclarationError, Example

SERVICE = '[services.cutout]\ntitle = "Cutout"\ncommand = ["true"]\n'
STORE = 'store = "postgresql://db.example/uwsd"\n'
RA = SERVICE + "[services.cutout.parameters]\nra = { %s }\n"
KNOWN_TYPES = "types are int, float, bool, str, timestamp, interval, point, circle, polygon, file"


NO_SERVICE = "services: there is none; declare one as [services.NAME], or begin with what uwsd init makes"


def read(directory: Path, text: str) -> Settings:
    file = directory / "uwsd.toml"
    file.write_text(text)
    return load(file)


def problems(directory: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(DeclarationError) as raised:
        read(directory, text)
    return raised.value.problems


def at_cutout(*lines: str) -> str:
    return SERVICE + "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (RA % 'type = "float", min = "0"', "services.cutout.parameters.ra.min: expected float, got str"),
        (RA % 'type = "int", max = 1.5', "services.cutout.parameters.ra.max: expected int, got float"),
        (
            RA % 'type = "float", mni = 0',
            "services.cutout.parameters.ra.mni: unknown key (did you mean min?)",
        ),
        (
            RA % 'type = "flaot"',
            "services.cutout.parameters.ra.type: "
            f"there is no type 'flaot' (did you mean float?); {KNOWN_TYPES}",
        ),
        (
            RA % "type = [1]",
            f"services.cutout.parameters.ra.type: there is no type [1]; {KNOWN_TYPES}",
        ),
        (RA % "unit = 'deg'", f"services.cutout.parameters.ra.type: missing; {KNOWN_TYPES}"),
        (
            at_cutout("[services.cutout.parameters]", 'ra = "float"'),
            'services.cutout.parameters.ra: expected a table such as { type = "float" }, got str',
        ),
        (at_cutout("parameters = 3"), "services.cutout.parameters: expected table, got int"),
        (
            RA % 'type = "float", min = 3, default = 1',
            "services.cutout.parameters.ra.default: 1.0 is below the minimum 3",
        ),
        (
            RA % 'type = "float", required = true, default = 1',
            "services.cutout.parameters.ra.default: a required parameter has none; leave out one of the two",
        ),
        (
            RA % 'type = "str", pattern = "[a-z"',
            "services.cutout.parameters.ra.pattern: unterminated character set at position 0",
        ),
        (
            at_cutout('max_runing = "2"'),
            "services.cutout.max_runing: unknown key (did you mean max_running?)",
        ),
        (at_cutout('max_running = "2"'), "services.cutout.max_running: expected int, got str"),
        (at_cutout("max_running = 0"), "services.cutout.max_running: 0 is below the minimum 1"),
        (at_cutout("execution_duration = 60"), "services.cutout.execution_duration: expected table, got int"),
        (
            at_cutout('lifetime = { default = "7 moons" }'),
            "services.cutout.lifetime.default: "
            "expected a duration such as 60 (seconds), 20min, 12h or 7d, got '7 moons'",
        ),
        (
            at_cutout("execution_duration = { default = 0, max = 60 }"),
            "services.cutout.execution_duration.default: 0 is not between 1 and the maximum 60; "
            "0 (unlimited) needs max = 0",
        ),
        (
            at_cutout('environment = { A = "1", B = 2 }'),
            "services.cutout.environment.B: expected str, got int",
        ),
        (at_cutout('results = [{ id = "a" }]'), "services.cutout.results[0].path: missing"),
        (
            at_cutout('results = [{ id = "a", path = "a" }, { id = "b", path = "../b" }]'),
            "services.cutout.results[1].path: '../b' does not lead to a file below the job's directory",
        ),
        (
            at_cutout('results = [{ id = "a", path = "a" }, { id = "a", path = "b" }]'),
            "services.cutout.results[1].id: a is taken by another result",
        ),
        (at_cutout("results = [1]"), "services.cutout.results[0]: expected table, got int"),
        (at_cutout("description = 07:32:00"), "services.cutout.description: expected str, got time"),
        ('[services.a]\ntitle = "A"\n', "services.a.command: missing"),
        ('[services.a]\ntitle = "A"\ncommand = "ls"\n', "services.a.command: expected list, got str"),
        (
            '[services.a]\ntitle = "A"\ncommand = ["ls", 3]\n',
            "services.a.command[1]: expected str | list, got int",
        ),
        (
            '[services.a]\ntitle = "A"\ncommand = ["ls", "{dri}"]\nparameters = { dir = { type = "str" } }\n',
            "services.a.command[1]: there is no parameter dri (did you mean dir?)",
        ),
        (
            '[services."1a"]\ntitle = "A"\ncommand = ["ls"]\n',
            "services.1a: the name '1a' is not made of letters, digits, '_' and '-', a letter first",
        ),
        ('services = { a = "ls" }\n', "services.a: expected table, got str"),
        ("services = 3\n", "services: expected table, got int"),
        ("[services]\n", NO_SERVICE),
        ("", NO_SERVICE),
        ('[server]\nport = "8080"\n' + SERVICE, "server.port: expected int, got str"),
        ("[server]\nport = 80800\n" + SERVICE, "server.port: 80800 is not between 0 and 65535"),
        ("[server]\ngrace = -1\n" + SERVICE, "server.grace: -1.0 is no number of seconds"),
        ("[server]\nlongest_wait = nan\n" + SERVICE, "server.longest_wait: nan is no number of seconds"),
        ("[server]\nsync_seconds = -1\n" + SERVICE, "server.sync_seconds: -1.0 is no number of seconds"),
        ('[server]\nlog = "xml"\n' + SERVICE, "server.log: expected json or text, got 'xml'"),
        ('[server]\nhots = ""\n' + SERVICE, "server.hots: unknown key (did you mean host?)"),
        (
            '[server]\nbase_url = "http://a b/"\n' + SERVICE,
            "server.base_url: expected an http(s) URL, got 'http://a b/'",
        ),
        (
            '[server]\nbase_url = "jobs.example.org"\n' + SERVICE,
            "server.base_url: expected an http(s) URL, got 'jobs.example.org'",
        ),
        ("server = 8080\n" + SERVICE, "server: expected table, got int"),
        ("[uploads]\nallow_hosts = [1]\n" + SERVICE, "uploads.allow_hosts[0]: expected str, got int"),
        (
            '[uploads]\nallow_hosts = ["localhost", "http://localhost"]\n' + SERVICE,
            "uploads.allow_hosts: expected HOST, HOST:PORT or [IPv6]:PORT, got 'http://localhost'",
        ),
        (
            '[uploads]\nallow_hosts = ["localhost:80800"]\n' + SERVICE,
            "uploads.allow_hosts: expected HOST, HOST:PORT or [IPv6]:PORT, got 'localhost:80800'",
        ),
        (
            '[uploads]\nallow_hosts = ["[::1]:80", "[1]"]\n' + SERVICE,
            "uploads.allow_hosts: expected HOST, HOST:PORT or [IPv6]:PORT, got '[1]'",
        ),
        (
            "[uploads]\nlongest_fetch = 0\n" + SERVICE,
            "uploads.longest_fetch: 0.0 is no number of seconds above 0",
        ),
        ("[uploads]\nredirects = 21\n" + SERVICE, "uploads.redirects: 21 is not between 0 and 20"),
        ("[limits]\nconnections = 9\n" + SERVICE, "limits.connections: 9 is below the minimum 10"),
        ("[limits]\nslowest = 0\n" + SERVICE, "limits.slowest: 0 is below the minimum 1"),
        ("[limits]\npatience = inf\n" + SERVICE, "limits.patience: inf is no number of seconds above 0"),
        (
            "[limits]\nconections = 9\n" + SERVICE,
            "limits.conections: unknown key (did you mean connections?)",
        ),
        ("data = 3\n" + SERVICE, "data: expected str, got int"),
        ("[servre]\n" + SERVICE, "servre: unknown key (did you mean server?)"),
        (
            "prot = 1\n" + SERVICE,
            "prot: unknown key; "
            "known are audit, auth, data, jobs, limits, node, queue, quotas, retention, server, services, "
            "slurm, store, uploads",
        ),
        (
            'store = "mysql://db.example/uwsd"\n' + SERVICE,
            "store: expected the URL of a database such as postgresql://uwsd@db.example/uwsd, got mysql://…",
        ),
        (
            '[node]\nname = "a"\n' + SERVICE,
            "node: only servers that share a log are nodes: add store, or leave this out",
        ),
        (
            STORE + '[node]\nname = "a b"\n' + SERVICE,
            "node.name: expected up to 64 letters, digits, dots and dashes, got 'a b'",
        ),
        (
            STORE + '[node]\nurl = "10.0.0.2:8080"\n' + SERVICE,
            "node.url: expected an http(s) URL such as http://10.0.0.2:8080, got '10.0.0.2:8080'",
        ),
        (
            STORE + '[node]\nurl = "http://10.0.0.2:99999"\n' + SERVICE,
            "node.url: expected an http(s) URL such as http://10.0.0.2:8080, got 'http://10.0.0.2:99999'",
        ),
        (
            STORE + '[node]\nname = ""\n' + SERVICE,
            "node.name: expected up to 64 letters, digits, dots and dashes, got ''",
        ),
        (STORE + '[node]\ngone_after = "1s"\n' + SERVICE, "node.gone_after: 1s is below the minimum 3s"),
        (
            STORE + '[node]\ngone_after = "soon"\n' + SERVICE,
            "node.gone_after: expected a duration such as 60 (seconds), 20min, 12h or 7d, got 'soon'",
        ),
        ("[slurm]\nevery = 0\n" + SERVICE, "slurm.every: 0.0 is no number of seconds above 0"),
        (SERVICE + 'executor = "slrum"\n', "services.cutout.executor: expected local or slurm, got 'slrum'"),
        (
            SERVICE + "[services.cutout.slurm]\ncpus = 2\n",
            'services.cutout.slurm: is for jobs that Slurm runs: add executor = "slurm", or leave it out',
        ),
        (
            SERVICE + "[services.cutout.slurm]\ncpus = 0\n",
            "services.cutout.slurm.cpus: 0 is below the minimum 1",
        ),
        (
            SERVICE + "[services.cutout.slurm]\nqueue = 'main'\n",
            "services.cutout.slurm.queue: unknown key; "
            "known are account, constraint, cpus, gres, partition, qos",
        ),
        (
            SERVICE + "[services.cutout.slurm]\npartition = '--wrap=x y'\n",
            "services.cutout.slurm.partition: '--wrap=x y' is nothing that Slurm knows by a name",
        ),
        (
            SERVICE + "[services.cutout.slurm]\npartition = ''\n",
            "services.cutout.slurm.partition: '' is nothing that Slurm knows by a name",
        ),
        ("[queue]\nmax_running = 0\n" + SERVICE, "queue.max_running: 0 is below the minimum 1"),
        ('[queue]\nhalf_life = "10min"\n' + SERVICE, "queue.half_life: 10min is below the minimum 1h"),
        (
            '[queue]\nhalf_life = "daily"\n' + SERVICE,
            "queue.half_life: expected a duration such as 60 (seconds), 20min, 12h or 7d, got 'daily'",
        ),
        ("[quotas]\nqueued = 0\n" + SERVICE, "quotas.queued: 0 is below the minimum 1"),
        (
            '[quotas]\nqueued = "many"\n' + SERVICE,
            "quotas.queued: expected a whole number, got 'many', or \"unlimited\"",
        ),
        (
            '[quotas."@staff"]\nstored = "lots"\n' + SERVICE,
            "quotas.@staff.stored: expected a size such as 500000 (bytes), 200MB or 1GiB, got 'lots', "
            'or "unlimited"',
        ),
        ('[quotas.admin]\nlifetime = "0s"\n' + SERVICE, "quotas.admin.lifetime: 0s is below the minimum 1"),
        ("[quotas.admin]\nqueud = 1\n" + SERVICE, "quotas.admin.queud: unknown key (did you mean queued?)"),
        (
            "[quotas.operators]\nqueued = 1\n" + SERVICE,
            "quotas.operators: quotas are nobody's of this name (did you mean operator?)",
        ),
        (
            "[quotas.staff]\nqueued = 1\n" + SERVICE,
            "quotas.staff: quotas are nobody's of this name; expected operator, auditor, admin, anonymous "
            "or a group such as @staff",
        ),
        (
            at_cutout("max_queued_per_owner = 0"),
            "services.cutout.max_queued_per_owner: 0 is below the minimum 1",
        ),
        (
            at_cutout('when_full = "wait"'),
            "services.cutout.when_full: expected refuse or hold, got 'wait'",
        ),
        (
            '[audit]\norigin = "two words"\n' + SERVICE,
            "audit.origin: expected a name such as jobs.example.org/vo, got 'two words'",
        ),
        (
            '[audit]\ncheckpoint_every = "daily"\n' + SERVICE,
            "audit.checkpoint_every: expected a duration such as 60 (seconds), 20min, 12h or 7d, got 'daily'",
        ),
        (
            '[retention]\nowners = "2 years"\n' + SERVICE,
            "retention.owners: expected a duration such as 90d, 6mo or 2y, got '2 years'",
        ),
        ("[retention]\nowners = 3600\n" + SERVICE, "retention.owners: 3600 is not between 1d and 1000y"),
        (
            '[retention]\nhistories = "2000y"\narchive = "monthly"\n' + SERVICE,
            "retention.histories: 2000y is not between 1d and 1000y",
        ),
        (
            '[retention]\nhistories = "10y"\n' + SERVICE,
            "retention.histories: after 10y only what is archived is taken out of the log: "
            'add archive = "monthly", or leave histories out',
        ),
        (
            '[retention]\nhistories = "10y"\nowners = "12y"\narchive = "monthly"\n' + SERVICE,
            "retention.owners: 12y is longer than histories, 10y, after which there is nothing left to be "
            "erased: make it shorter, or leave it out",
        ),
        (
            '[retention]\narchive = "daily"\n' + SERVICE,
            "retention.archive: expected \"monthly\", got 'daily'",
        ),
        (
            '[retention]\narchives = ""\n' + SERVICE,
            "retention.archives: expected a directory such as \"archives\", got ''",
        ),
        (
            '[retention]\nhistory = "10y"\n' + SERVICE,
            "retention.history: unknown key (did you mean histories?)",
        ),
    ],
)
def test_a_mistake_is_reported_with_its_place_and_nothing_else_is(
    tmp_path: Path, text: str, problem: str
) -> None:
    assert problems(tmp_path, text) == (problem,)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    text = """
        prot = 8080

        [services.a]
        tilte = "A"
        command = "ls"
        results = [{ id = "r" }]

        [services.a.parameters]
        ra = { type = "float", min = "0", max = "360", unti = "deg" }
        dec = { type = "flaot" }

        [services.b]
        title = "B"
        command = ["ls", "{x}"]
        max_running = 0

        [server]
        port = "80"
        hots = "localhost"
    """
    assert problems(tmp_path, text) == (
        "prot: unknown key; known are audit, auth, data, jobs, limits, node, queue, quotas, retention, "
        "server, services, slurm, store, uploads",
        "services.a.tilte: unknown key (did you mean title?)",
        "services.a.command: expected list, got str",
        "services.a.parameters.ra.min: expected float, got str",
        "services.a.parameters.ra.max: expected float, got str",
        "services.a.parameters.ra.unti: unknown key (did you mean unit?)",
        f"services.a.parameters.dec.type: there is no type 'flaot' (did you mean float?); {KNOWN_TYPES}",
        "services.a.results[0].path: missing",
        "services.b.max_running: 0 is below the minimum 1",
        "services.b.command[1]: there is no parameter x",
        "server.port: expected int, got str",
        "server.hots: unknown key (did you mean host?)",
    )


@pytest.mark.parametrize(
    ("auth", "mistake"),
    [
        (
            'proxy = { header = "Cookie", addresses = ["::1"] }',
            "auth.proxy.header: Cookie means something else; name one such as X-Remote-User",
        ),
        (
            'proxy = { header = "X-U", groups_header = "x-u", addresses = ["::1"] }',
            "auth.proxy.groups_header: x-u is the header with the user's name",
        ),
        (
            'proxy = { header = "X-U", address_header = "x-u", addresses = ["::1"] }',
            "auth.proxy.address_header: x-u is the header with the user's name",
        ),
        (
            'proxy = { addresses = ["::1"] }',
            "auth.proxy.header: missing; name the one with the user's name, or an address_header",
        ),
        (
            'proxy = { header = "X-U", addresses = ["10.0.0.1", "0.0.0.0/0"] }',
            "auth.proxy.addresses: with 0.0.0.0/0 whoever sends the header is believed",
        ),
        (
            'tokens = true\nroles = { admin = ["ann", "@"] }',
            "auth.roles.admin: '@' is no user's name, and no group's such as @staff",
        ),
        (
            'tokens = true\nroles = { operator = ["*"] }',
            "auth.roles.operator: '*' is no user's name, and no group's such as @staff",
        ),
        (
            'roles = { admin = ["ann"] }',
            "auth.roles: without users, tokens, oidc or proxy nobody can be anybody",
        ),
        (
            'oidc = { issuer = "https://id.example", audience = "us", jwks = "keys.json" }',
            "auth.oidc.jwks: there is no file {directory}/keys.json",
        ),
    ],
)
def test_ways_to_be_somebody_that_cannot_be_meant_are_refused(
    tmp_path: Path, auth: str, mistake: str
) -> None:
    found = problems(tmp_path, f"[auth]\n{auth}\n{SERVICE}")
    assert found == (mistake.format(directory=tmp_path),)


def test_the_data_directory_is_relative_to_the_file(tmp_path: Path) -> None:
    assert read(tmp_path, SERVICE).data == tmp_path / "var"
    assert read(tmp_path, 'data = "jobs"\n' + SERVICE).data == tmp_path / "jobs"
    assert read(tmp_path, 'data = "/srv/jobs"\n' + SERVICE).data == Path("/srv/jobs")


def test_where_the_log_and_the_files_are_is_two_lines_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "uwsd.toml"
    file.write_text(SERVICE)
    assert load(file).store == StoreSettings()
    file.write_text(STORE + 'jobs = "shared"\n' + SERVICE)
    store = load(file).store
    assert (store.url, store.jobs) == ("postgresql://db.example/uwsd", tmp_path / "shared")
    assert store.node.called == socket.gethostname()[:64]
    assert store.node.seconds == 60
    assert store.keeper is None
    file.write_text(STORE + '[node]\nname = "a"\nurl = "http://10.0.0.2:8080"\n' + SERVICE)
    assert load(file).store.keeper == "a"


@pytest.mark.parametrize(
    ("tables", "url"),
    [
        ("", "http://127.0.0.1:8080"),
        ('[server]\nhost = "10.0.0.2"\nport = 80\n', "http://10.0.0.2:80"),
        ('[server]\nhost = "fd00::2"\n', "http://[fd00::2]:8080"),
        ('[server]\nhost = "0.0.0.0"\n', f"http://{socket.gethostname()}:8080"),
        ('[server]\nhost = "::"\n', f"http://{socket.gethostname()}:8080"),
        ('[server]\nbase_url = "https://jobs.example.org/vo"\n', "http://127.0.0.1:8080"),
        ('[node]\nurl = "http://10.0.0.2:8080"\n', "http://10.0.0.2:8080"),
    ],
)
def test_other_nodes_are_told_where_this_one_listens_unless_the_file_says_another_place(
    tmp_path: Path, tables: str, url: str
) -> None:
    assert read(tmp_path, STORE + tables + SERVICE).node_url == url


def test_times_may_be_written_as_toml_has_them(tmp_path: Path) -> None:
    when = "min = 2015-10-26T09:00:00Z, max = 2016-01-01T00:00:00, default = 2015-12-01"
    ra = read(tmp_path, RA % f'type = "timestamp", {when}').services[0].parameters["ra"]
    assert ra.check("2015-10-26T09:00:00Z")
    for outside in ("2015-10-26T08:59:59Z", "2016-01-01T00:00:01Z"):
        with pytest.raises(ValueError, match=r"the m(in|ax)imum"):
            ra.check(outside)
    assert ra.defaults == ("2015-12-01",)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("", "uwsd"),
        ('[server]\nbase_url = "https://jobs.example.org/vo/"\n', "jobs.example.org/vo"),
        ('[server]\nbase_url = "https://a.org"\n[audit]\norigin = "log.example.org"\n', "log.example.org"),
        ("[audit]\ncheckpoint_every = 0\n", "uwsd"),
    ],
)  # fmt: skip
def test_checkpoints_bear_the_name_of_the_server_unless_told_otherwise(
    tmp_path: Path, text: str, origin: str
) -> None:
    assert read(tmp_path, text + SERVICE).audit.origin == origin


TRIED = """
[services.tried]
title = "Tried"
command = ["true"]
[services.tried.parameters]
ra    = { type = "float", required = true, max = 360 }
image = { type = "file", multiple = true, max_size = "10B" }
band  = { type = "str", multiple = true, values = ["J", "K"] }
flag  = { type = "bool" }
when  = { type = "timestamp" }

[[services.tried.examples]]
%s
"""
AN_EXAMPLE = 'title = "One"\nparameters = { ra = 1, %s }'


@pytest.mark.parametrize(
    ("example", "problem"),
    [
        ("", "title: missing"),
        ('titel = "One"', "titel: unknown key (did you mean title?)"),
        ('title = "One"\nparameters = 3', "parameters: expected table, got int"),
        ('title = "☃"\nparameters = { ra = 1 }', "id: missing; none can be made of the title '☃'"),
        (
            'title = "One"\nid = "a b"\nparameters = { ra = 1 }',
            "id: 'a b' is not made of letters, digits, '_', '.' and '-', a letter or digit first",
        ),
        ('title = "One"', "parameters: required, but not given: ra"),
        ('title = "One"\nparameters = { ra = 400 }', "parameters.ra: 400 is above the maximum 360"),
        ('title = "One"\nparameters = { ra = [1, 2] }', "parameters.ra: takes one value, got 2"),
        (AN_EXAMPLE % 'band = ["J", "H"]', "parameters.band: 'H' is none of J, K"),
        (
            AN_EXAMPLE % "bnad = 1",
            "parameters.bnad: unknown parameter (did you mean band?); "
            "tried takes: ra, image, band, flag, when",
        ),
        (
            AN_EXAMPLE % "band = { a = 1 }",
            "parameters.band: expected bool | int | float | str | list, got table",
        ),
        (AN_EXAMPLE % "band = [[1]]", "parameters.band[0]: expected bool | int | float | str, got list"),
        (AN_EXAMPLE % 'image = "no.fits"', "parameters.image: there is no file {here}/no.fits"),
        (AN_EXAMPLE % 'image = "."', "parameters.image: there is no file {here}"),
        (
            AN_EXAMPLE % 'image = ["small", "large"]',
            "parameters.image: {here}/large is larger than the maximum 10B",
        ),
    ],
)
def test_a_mistake_in_an_example_is_reported_with_its_place(
    tmp_path: Path, example: str, problem: str
) -> None:
    (tmp_path / "small").write_text("1234567890")
    (tmp_path / "large").write_text("12345678901")
    found = problems(tmp_path, TRIED % example)
    assert found == (f"services.tried.examples[0].{problem.format(here=tmp_path)}",)


def test_examples_have_ids_of_their_own(tmp_path: Path) -> None:
    twice = TRIED % (AN_EXAMPLE % "flag = true") + "[[services.tried.examples]]\n"
    again = "services.tried.examples[1].id: one is taken by another example; give it one of its own"
    assert problems(tmp_path, twice + AN_EXAMPLE % "flag = false") == (again,)
    (service,) = read(tmp_path, twice + 'id = "2"\n' + AN_EXAMPLE % "flag = false").services
    assert [example.id for example in service.examples] == ["one", "2"]


def test_an_example_has_the_values_that_a_client_would_send_and_its_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "small").write_text("small")
    rest = 'image = "data/small", band = ["K", "J"], flag = true, when = 2015-10-26T09:00:00Z'
    (service,) = read(tmp_path, TRIED % (AN_EXAMPLE % rest)).services
    (example,) = service.examples
    assert example.values == {
        "ra": ("1",),
        "image": (str(tmp_path / "data" / "small"),),
        "band": ("K", "J"),
        "flag": ("true",),
        "when": ("2015-10-26T09:00:00Z",),
    }


@pytest.mark.parametrize(
    ("title", "identifier"),
    [
        ("Messier 31, in K", "messier-31-in-k"),
        ("  Größe!  ", "groe"),
        ("Éta Carinæ (η)", "eta-carin"),
        ("2MASS", "2mass"),
    ],
)
def test_the_id_of_an_example_follows_from_its_title(title: str, identifier: str) -> None:
    assert Example(title=title).id == identifier


def test_functions_have_examples_with_files_below_where_their_module_is_found() -> None:
    example = Example(title="This file", parameters={"file": "tests/test_config.py"})
    service = make_service(sized, examples=[example])
    assert service.examples[0].values == {"file": (__file__,)}


def sized(file: Path) -> int:
    """How many bytes a file has."""
    return file.stat().st_size


def test_a_duration_of_retention_is_so_many_days_whatever_the_calendar_says(tmp_path: Path) -> None:
    text = '[retention]\nowners = "6mo"\nhistories = "2y"\narchive = "monthly"\n'
    retention = read(tmp_path, text + SERVICE).retention
    assert (retention.owners_kept, retention.histories_kept) == (timedelta(days=180), timedelta(days=730))
    assert retention.is_set
    nothing = read(tmp_path, SERVICE).retention
    assert (nothing.owners_kept, nothing.histories_kept, nothing.is_set) == (None, None, False)
