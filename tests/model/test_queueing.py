"""The choice of the next job, and what is told of the others: of a situation that is given."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uws.model import QueueSettings, Service
from uws.model.queueing import Line, Running, Situation, Spot, fullness

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def service(name: str, **fields: Any) -> Service:
    return Service(name=name, title=name, command=["true"], **fields)


def line(owner: str | None, waited: float = 1, *, of: str = "a", jobs: int = 1) -> Line:
    return Line(of, owner, f"{of}-{owner}", ago(waited), jobs)


def runs(owner: str | None, seconds: float = 0, *, of: str = "a") -> Running:
    return Running(of, owner, ago(seconds))


def situation(*lines: Line, running: tuple[Running, ...] = (), **fields: Any) -> Situation:
    services = {name: service(name, max_running=9) for name in ("a", "b")}
    return Situation(**{"now": NOW, "services": services, "lines": lines, "running": running, **fields})


def test_without_anything_in_the_way_the_job_that_waits_longest_is_started() -> None:
    chosen = situation(line("ada", 1), line("bob", 3), line(None, 2, of="b")).next()
    assert chosen == line("bob", 3)
    assert situation().next() is None


def test_one_that_is_to_be_passed_over_is() -> None:
    assert situation(line("ada", 1), line("bob", 3)).next(but={"a-bob"}) == line("ada", 1)
    more = msgspec.structs.replace(line("bob", 3, jobs=4), behind=(("b2", ago(2)), ("b3", ago(1))))
    chosen = situation(line("ada", 1), more).next(but={"a-bob", "a-ada"})
    assert chosen == Line("a", "bob", "b2", ago(2), 3, (("b3", ago(1)),))
    after = situation(more).after(chosen)
    assert [(each.job_id, each.jobs) for each in after.lines] == [("b3", 2)]
    assert situation(line("ada", 1), more).next(but={"a-bob", "b2", "b3"}) == line("ada", 1)


def test_of_a_line_all_are_started_that_may_as_far_as_they_are_known() -> None:
    behind = (("second", ago(2)), ("third", ago(1)))
    now, started = situation(msgspec.structs.replace(line("ada", 3, jobs=5), behind=behind)), []
    while (first := now.next()) and first.job_id:
        started.append((first.job_id, first.queued, first.jobs))
        now = now.after(first)
    assert started == [("a-ada", ago(3), 5), ("second", ago(2), 4), ("third", ago(1), 3)]
    assert first == Line("a", "ada", "", ago(1), 2)  # to be looked up
    assert [job.job_id for job in now.running] == ["a-ada", "second", "third"]
    waits_longest = msgspec.structs.replace(first, queued=ago(9))
    assert situation(line("bob"), waits_longest).next() == waits_longest  # and no other's turn comes before
    alone = line("ada")
    assert situation(alone).after(alone).next() is None


def test_priority_comes_before_what_was_used_and_that_before_the_time_of_waiting() -> None:
    services = {"a": service("a"), "b": service("b", priority=-1)}
    lines = line("ada", 9), line("bob", 1), line("cleo", 99, of="b")
    assert situation(*lines, services=services, used={"ada": 2.0, "bob": 1.0}).next() == line("bob", 1)
    assert situation(*lines, services=services).next() == line("ada", 9)


def test_what_runs_counts_and_each_start_for_a_second_at_least() -> None:
    lines = line("ada", 9), line("bob", 1)
    assert situation(*lines, running=(runs("ada", 0),)).next() == line("bob", 1)
    assert situation(*lines, running=(runs("ada", 5),), used={"bob": 4.0}).next() == line("bob", 1)
    assert situation(*lines, running=(runs("ada", 5),), used={"bob": 6.0}).next() == line("ada", 9)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"settings": QueueSettings(max_running=2)}, "2 jobs running, at most 2 allowed"),
        ({"settings": QueueSettings(max_running=3)}, None),
        ({"services": {"a": service("a")}}, "1 job of a running, at most 1 allowed"),
        ({"settings": QueueSettings(max_running_per_owner=1)},
         "2 jobs of the same owner running, at most 1 allowed"),
        ({"services": {"a": service("a", max_running=9, max_running_per_owner=1)}},
         "1 job of a of the same owner running, at most 1 allowed"),
        ({"services": {}}, "a is not offered now"),
        ({"paused": {None, "a"}}, "the queue is paused"),
        ({"paused": {"a"}}, "the queue of a is paused"),
        ({"paused": {"b"}}, None),
    ],
)  # fmt: skip
def test_what_keeps_a_job_from_being_started_is_told_in_words(
    fields: dict[str, Any], reason: str | None
) -> None:
    now = situation(line("ada"), running=(runs("ada"), runs("ada", of="b")), **fields)
    assert now.reason(Spot("a", "ada")) == (reason or "to be started next")
    assert (now.next() is None) is bool(reason)


def test_limits_of_an_owner_do_not_concern_another() -> None:
    settings = QueueSettings(max_running_per_owner=1)
    lines = line("ada", 9), line("bob"), line(None)
    now = situation(*lines, running=(runs("ada"), runs(None)), settings=settings)
    assert now.next() == line("bob")
    assert now.reason(Spot("a", None)) == "1 job of the same owner running, at most 1 allowed"


def test_places_are_those_of_owners_that_take_turns() -> None:
    now = situation(line("ada", 3, jobs=3), line("bob", 2, jobs=2), line(None, 9, of="b", jobs=7))
    order = {("ada", 0): 1, ("bob", 0): 2, ("ada", 1): 3, ("bob", 1): 4, ("ada", 2): 5}
    for (owner, before), place in order.items():
        assert now.place(Spot("a", owner, before)) == place
    assert now.place(Spot("a", "cleo")) == 3, "one that would join now"
    assert now.reason(Spot("a", "bob", 1)) == "3 jobs to be started first"


def test_a_start_is_predicted_by_what_runs_what_goes_first_and_the_slots() -> None:
    services = {"a": service("a", max_running=2)}
    now = situation(line("ada", jobs=9), running=(runs("x", 30), runs("x", 70)), services=services)
    starts = [now.start(Spot("a", "ada", before), 100) for before in range(4)]
    assert starts == [later(30), later(70), later(130), later(170)]
    idle = situation(line("ada", jobs=9), running=(runs("x", 30),), services=services)
    assert [idle.start(Spot("a", "ada", n), 100) for n in range(3)] == [NOW, later(70), later(100)]
    overdue = situation(line("ada"), running=(runs("x", 300), runs("x", 70)), services=services)
    assert overdue.start(Spot("a", "ada"), 100) == NOW


def test_of_several_limits_the_last_to_let_a_job_go_decides_when_it_starts() -> None:
    settings = QueueSettings(max_running=4, max_running_per_owner=1)
    now = situation(line("ada", jobs=3), running=(runs("ada", 40), runs("bob", 10)), settings=settings)
    assert [now.start(Spot("a", "ada", n), 100) for n in range(2)] == [later(60), later(160)]
    assert now.start(Spot("a", "cleo"), 100) == NOW


def test_after_a_limit_was_lowered_enough_must_end_first() -> None:
    services = {"a": service("a", max_running=1)}
    now = situation(line("ada"), running=(runs("x", 90), runs("x", 20)), services=services)
    assert now.start(Spot("a", "ada"), 100) == later(80)


def test_nobody_can_tell_when_a_paused_job_starts_or_one_in_ten_thousand_years() -> None:
    assert situation(line("ada"), paused={"a"}).start(Spot("a", "ada"), 1) is None
    assert situation(line("ada"), services={}).start(Spot("a", "ada"), 1) is None
    endless = situation(line("ada", jobs=10**9), running=(runs("x"),), services={"a": service("a")})
    assert endless.start(Spot("a", "ada", 10**8), 10**6) is None


_owners = st.sampled_from(["ada", "bob", None])
_names = st.sampled_from(["a", "b", "gone"])
_most = st.none() | st.integers(1, 3)


@given(
    lines=st.dictionaries(st.tuples(_names, _owners), st.integers(1, 3)),
    running=st.lists(st.tuples(_names, _owners), max_size=4),
    most=st.tuples(_most, _most, _most, st.integers(1, 3), st.integers(1, 3)),
    paused=st.sets(st.sampled_from([None, "a", "b"])),
)
def test_starting_one_after_the_other_never_exceeds_a_limit_and_ends_when_all_others_have_a_reason(
    lines: dict[tuple[str, str | None], int],
    running: list[tuple[str, str | None]],
    most: tuple[int | None, int | None, int | None, int, int],
    paused: set[str | None],
) -> None:
    node, per_owner, here, a, b = most
    services = {
        "a": service("a", max_running=a, max_running_per_owner=here),
        "b": service("b", max_running=b),
    }
    settings = QueueSettings(max_running=node, max_running_per_owner=per_owner)
    waiting, now_running = dict(lines), list(running)
    now = situation(
        *(
            line(owner, of=name, jobs=jobs)
            for (name, owner), jobs in waiting.items()
        ),
        running=tuple(runs(owner, of=name) for name, owner in now_running),
        services=services, settings=settings, paused=paused,
    )  # fmt: skip
    while (chosen := now.next()) is not None:
        place = chosen.service, chosen.owner
        now = now.after(chosen)
        now_running.append(place)
        waiting[place] -= 1
        waiting = {where: jobs for where, jobs in waiting.items() if jobs}
        assert {(each.service, each.owner): each.jobs for each in now.lines} == waiting
        assert None not in paused
        assert chosen.service not in paused
        by_service, by_owner = Counter(n for n, _ in now_running), Counter(o for _, o in now_running)
        assert len(now_running) <= (node or 99)
        assert by_owner[chosen.owner] <= (per_owner or 99)
        assert by_service[chosen.service] <= {"a": a, "b": b}[chosen.service]
        assert chosen.service == "b" or now_running.count(place) <= (here or 99)
    for name, owner in waiting:
        assert "first" not in now.reason(Spot(name, owner))
        assert "next" not in now.reason(Spot(name, owner))


def test_a_node_keeps_room_for_jobs_that_it_is_about_to_start() -> None:
    coming = Running("a", "bob", NOW, "a-bob", "x")
    now = situation(line("ada"), services={"a": service("a", max_running=1)})
    assert now.on("x").next() == line("ada")
    assert now.on("x", [coming]).next() is None
    assert now.on("y", [coming]).next() == line("ada")


@pytest.mark.parametrize(
    ("queued", "reason"),
    [
        ({}, None),
        ({"a": 1, "b": 1}, None),
        ({"a": 2}, "2 jobs of a of the same owner queued, at most 2 allowed"),
        ({"a": 1, "b": 2}, "3 jobs of the same owner queued, at most 3 allowed"),
    ],
)
def test_a_queue_is_full_for_an_owner_by_the_service_or_by_all(
    queued: dict[str, int], reason: str | None
) -> None:
    limited = service("a", max_queued_per_owner=2)
    assert fullness(limited, 3, queued) == reason
    assert fullness(service("a"), None, queued) is None
