"""The job aggregate: given events, when a wish, then events; and never off the transition table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uws import (
    ENDED,
    STARTED,
    TRANSITIONS,
    Ending,
    ExecutionDuration,
    Failure,
    IllegalPhase,
    Job,
    Lifetime,
    MissingParameters,
    Phase,
    QueueFull,
    Result,
    Service,
    StrParameter,
    UserUWSTransitions,
    UWSError,
    make_user_uws_job_class,
)
from uws.model import events as e
from uws.model.job import evolve

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
RESULT = Result(id="r", path="results/r", size=1, sha256="0" * 64, media_type="text/plain")
ENDING = Ending(exit_code=0, results=(RESULT,))


def transitions_of(**fields: Any) -> UserUWSTransitions:
    service = Service(
        name="s",
        title="S",
        command=["true"],
        execution_duration=ExecutionDuration(default=60, max=3600),
        lifetime=Lifetime(default="1d", max="10d"),
        parameters={"x": StrParameter(required=True), "y": StrParameter()},
        **fields,
    )
    return UserUWSTransitions(service, make_user_uws_job_class(service))


RULES = transitions_of()
KEEPING = transitions_of(archive=True)
HOLDING = transitions_of(when_full="hold")


def given_job(*events: e.JobEvent, rules: UserUWSTransitions = RULES) -> Job:
    created = rules.create_job(NOW, owner=None, run_id=None, parameters={"x": ("1",)}, quote=None)
    return after(None, [*created, *events])


def after(job: Job | None, events: Sequence[e.JobEvent], now: datetime = NOW) -> Job:
    for event in events:
        job = evolve(job, event, job_id="j", now=now)
    assert job is not None
    return job


QUEUED = e.JobQueued()
STARTING = e.JobStarted(declaration="d")
GIVEN: dict[Phase, tuple[e.JobEvent, ...]] = {
    Phase.PENDING: (),
    Phase.HELD: (e.JobHeld(reason="full"),),
    Phase.QUEUED: (QUEUED,),
    Phase.EXECUTING: (QUEUED, STARTING),
    Phase.SUSPENDED: (QUEUED, STARTING, e.JobSuspended()),
    Phase.UNKNOWN: (QUEUED, STARTING, e.JobLost(reason="?")),
    Phase.COMPLETED: (QUEUED, STARTING, e.JobCompleted()),
    Phase.ERROR: (QUEUED, STARTING, e.JobFailed(failure=Failure(message="no"))),
    Phase.ABORTED: (e.JobAborted(reason="asked"),),
    Phase.ARCHIVED: (e.JobAborted(reason="asked"), e.JobArchived(reason="asked")),
}
WISHES: dict[str, tuple[Callable[[UserUWSTransitions, Job], list[e.JobEvent]], frozenset[Phase]]] = {
    "setting a parameter": (
        lambda rules, job: rules.set_parameters(job, {"x": ("other",)}),
        frozenset({Phase.PENDING, Phase.HELD}),
    ),
    "setting RUNID": (lambda rules, job: rules.set_run_id(job, "r"), frozenset({Phase.PENDING, Phase.HELD})),
    "setting the duration": (
        lambda rules, job: rules.set_execution_duration(job, 7),
        frozenset({Phase.PENDING, Phase.HELD, Phase.QUEUED}),
    ),
    "setting the destruction": (
        lambda rules, job: rules.set_destruction(job, NOW + 2 * DAY, NOW),
        frozenset(Phase) - {Phase.ARCHIVED},
    ),
    "RUN": (lambda rules, job: rules.queue_job(job, None), frozenset({Phase.PENDING, Phase.HELD})),
    "RUN while the queue is full": (
        lambda rules, job: HOLDING.hold_job(job, "so many"), frozenset({Phase.PENDING, Phase.HELD}),
    ),
    "room in the queue": (lambda rules, job: rules.release_job(job, None), frozenset({Phase.HELD})),
    "ABORT": (
        lambda rules, job: rules.abort_job(job), STARTED | {Phase.PENDING, Phase.HELD, Phase.QUEUED},
    ),
    "DELETE": (lambda rules, job: rules.destroy_job(job, expired=False), frozenset(Phase)),
    "starting": (lambda rules, job: rules.start_job(job, None), frozenset({Phase.QUEUED})),
    "ending": (lambda rules, job: rules.end_job(job, ENDING), STARTED),
}  # fmt: skip


@pytest.mark.parametrize("phase", Phase)
def test_the_events_lead_to_the_phase_they_are_given_for(phase: Phase) -> None:
    assert given_job(*GIVEN[phase]).phase is phase


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("wish", WISHES)
def test_a_wish_is_granted_in_its_phases_and_refused_in_all_others(wish: str, phase: Phase) -> None:
    ask, allowed = WISHES[wish]
    job = given_job(*GIVEN[phase])
    if phase in allowed:
        assert ask(RULES, job)
    else:
        with pytest.raises(IllegalPhase) as refusal:
            ask(RULES, job)
        assert (refusal.value.job_id, refusal.value.phase) == ("j", phase)
        assert str(refusal.value).startswith(f"job j is {phase}: ")


# Given, when, then


def test_a_job_begins_pending_with_the_defaults_of_its_service() -> None:
    job = given_job()
    assert (job.phase, job.execution_duration, job.destruction) == (Phase.PENDING, 60, NOW + DAY)
    assert job.declaration == RULES.service.digest


def test_a_service_without_a_lifetime_makes_jobs_without_a_destruction_time() -> None:
    service = Service(name="s", title="S", command=["true"], lifetime=Lifetime(default=0, max=0))
    rules = UserUWSTransitions(service, make_user_uws_job_class(service))
    (created,) = rules.create_job(NOW, owner=None, run_id=None, parameters={}, quote=None)
    assert isinstance(created, e.JobCreated)
    assert created.destruction is None


def test_only_parameters_that_change_are_recorded() -> None:
    job = given_job()
    assert RULES.set_parameters(job, {"x": ("1",)}) == []
    assert RULES.set_parameters(job, {"x": ("1",), "y": ("2",)}) == [
        e.ParametersSet(parameters={"y": ("2",)})
    ]
    with_y = after(job, [e.ParametersSet(parameters={"y": ("2",)})])
    assert with_y.parameters == {"x": ("1",), "y": ("2",)}
    assert after(with_y, RULES.set_parameters(with_y, {"y": ()})).parameters == {"x": ("1",)}


def test_a_full_queue_refuses_a_job_unless_its_service_says_that_it_is_held() -> None:
    with pytest.raises(QueueFull, match="so many"):
        RULES.hold_job(given_job(), "so many")
    (held,) = HOLDING.hold_job(given_job(), "so many")
    assert held == e.JobHeld(reason="waiting for room in the queue: so many")
    assert HOLDING.hold_job(after(given_job(), [held]), "so many") == []
    with pytest.raises(MissingParameters, match="x"):
        HOLDING.hold_job(after(given_job(), [e.ParametersSet(parameters={"x": ()})]), "so many")


def test_a_held_job_is_queued_when_there_is_room_or_fails_when_it_cannot_run_any_more() -> None:
    held = given_job(e.JobHeld(reason="full"))
    assert RULES.release_job(held, NOW) == [e.JobQueued(quote=NOW)]
    (failed,) = RULES.release_job(after(held, [e.ParametersSet(parameters={"x": ()})]), NOW)
    assert isinstance(failed, e.JobFailed)
    assert failed.failure.message == "it could not be queued when there was room: required, but not given: x"


def test_a_job_that_lacks_a_parameter_is_not_queued() -> None:
    job = after(given_job(), [e.ParametersSet(parameters={"x": ()})])
    with pytest.raises(MissingParameters, match="x"):
        RULES.queue_job(job, None)


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [(NOW - DAY, NOW), (NOW + 2 * DAY, NOW + 2 * DAY), (NOW + 99 * DAY, NOW + 10 * DAY)],
)
def test_destruction_times_are_clamped(asked: datetime, allowed: datetime) -> None:
    assert RULES.set_destruction(given_job(), asked, NOW) == [e.DestructionSet(destruction=allowed)]


def test_setting_what_is_set_already_is_no_event() -> None:
    job = given_job()
    assert RULES.set_destruction(job, NOW + DAY, NOW) == []
    assert RULES.set_execution_duration(job, 60) == []


def test_aborting_what_runs_asks_for_a_stop_once() -> None:
    job = given_job(*GIVEN[Phase.EXECUTING])
    events = RULES.abort_job(job)
    assert events == [e.StopRequested(reason="abort")]
    assert RULES.abort_job(after(job, events)) == []


@pytest.mark.parametrize(
    ("reason", "phase"),
    [
        ("abort", Phase.ABORTED),
        ("duration", Phase.ABORTED),
        ("shutdown", Phase.ERROR),
        ("destroy", Phase.ABORTED),
    ],
)
def test_why_a_program_was_stopped_decides_how_its_job_ends(reason: e.StopReason, phase: Phase) -> None:
    job = given_job(*GIVEN[Phase.EXECUTING], e.StopRequested(reason=reason))
    ended = after(job, RULES.end_job(job, Ending(signal="SIGTERM", results=(RESULT,))))
    assert ended.phase is phase
    assert ended.results == (RESULT,)
    assert (ended.destroyed is not None) == (reason == "destroy")


def test_the_reason_for_a_stop_that_came_first_stands() -> None:
    job = given_job(*GIVEN[Phase.EXECUTING], e.StopRequested(reason="abort"))
    assert RULES.stop_job(job, "duration") == []
    assert RULES.stop_job(job, "shutdown") == []


def test_an_exceeded_duration_is_told_in_words() -> None:
    job = given_job(*GIVEN[Phase.EXECUTING], e.StopRequested(reason="duration"))
    assert after(job, RULES.end_job(job, ENDING)).note == "the execution duration of 60 s (1min) was exceeded"


def test_destroying_an_aborted_program_that_still_runs_destroys_it_at_its_end() -> None:
    job = given_job(*GIVEN[Phase.EXECUTING], e.StopRequested(reason="abort"))
    stopped = after(job, RULES.destroy_job(job, expired=False))
    assert after(stopped, RULES.end_job(stopped, ENDING)).destroyed


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.QUEUED, Phase.COMPLETED, Phase.ERROR, Phase.ABORTED])
def test_where_a_record_is_kept_destroying_archives(phase: Phase) -> None:
    job = given_job(*GIVEN[phase], rules=KEEPING)
    archived = after(job, KEEPING.destroy_job(job, expired=True))
    assert (archived.phase, archived.destroyed, archived.results) == (Phase.ARCHIVED, None, ())
    assert archived.note.startswith("its destruction time came")
    gone = after(archived, KEEPING.destroy_job(archived, expired=False))
    assert gone.destroyed == NOW


def test_a_failure_keeps_its_exit_code_its_signal_and_its_results() -> None:
    job = given_job(*GIVEN[Phase.EXECUTING])
    failure = Failure(message="no", type="transient", detail="x")
    ended = after(job, RULES.end_job(job, Ending(exit_code=75, failure=failure, results=(RESULT,))))
    assert (ended.phase, ended.exit_code, ended.failure) == (Phase.ERROR, 75, failure)
    assert ended.results == (RESULT,)


@pytest.mark.parametrize("stop", [None, "abort"])
@pytest.mark.parametrize("failure", [None, Failure(message="no")])
def test_what_a_program_has_used_is_told_however_its_job_ends(
    stop: e.StopReason | None, failure: Failure | None
) -> None:
    job = given_job(*GIVEN[Phase.EXECUTING], *([e.StopRequested(reason=stop)] if stop else []))
    ended = after(
        job, RULES.end_job(job, Ending(exit_code=0, failure=failure, cpu_seconds=2.5, memory_bytes=9))
    )
    assert (ended.exit_code, ended.cpu_seconds, ended.memory_bytes) == (0, 2.5, 9)


def test_a_lost_job_fails_unless_its_service_starts_it_again_which_keeps_its_place() -> None:
    job = given_job(*GIVEN[Phase.EXECUTING])
    lost = after(job, RULES.lose_job(job, (RESULT,), "it was lost"))
    assert (lost.phase, lost.failure) == (Phase.ERROR, Failure(message="it was lost", type="transient"))
    assert lost.results == (RESULT,)
    patient = transitions_of(on_lost="requeue", requeues=1)
    again = after(job, patient.lose_job(job, (), "it was lost"))
    assert (again.phase, again.queued, again.started) == (Phase.QUEUED, job.queued, None)
    assert again.note == "it was lost; waiting for start 2 of at most 2"
    started = after(again, patient.start_job(again, None))
    assert after(started, patient.lose_job(started, (), "it was lost")).phase is Phase.ERROR


def test_a_lost_job_that_was_to_be_stopped_is_not_started_again() -> None:
    job = given_job(*GIVEN[Phase.EXECUTING], e.StopRequested(reason="abort"))
    patient = transitions_of(on_lost="requeue")
    assert after(job, patient.lose_job(job, (), "it was lost")).phase is Phase.ABORTED


# Any sequence of wishes

_wishes = st.lists(
    st.one_of(
        st.sampled_from(list(WISHES)),
        st.sampled_from(["stop: duration", "stop: shutdown", "ending badly", "expiring"]),
    ),
    max_size=25,
)


def wish_events(rules: UserUWSTransitions, job: Job, wish: str) -> list[e.JobEvent]:
    match wish:
        case "stop: duration":
            return rules.stop_job(job, "duration")
        case "stop: shutdown":
            return rules.stop_job(job, "shutdown")
        case "ending badly":
            return rules.end_job(job, Ending(exit_code=1, failure=Failure(message="no")))
        case "expiring":
            return rules.destroy_job(job, expired=True)
    return WISHES[wish][0](rules, job)


@given(wishes=_wishes, archive=st.booleans())
def test_any_sequence_of_wishes_moves_along_the_table_only(wishes: list[str], archive: bool) -> None:
    rules = KEEPING if archive else RULES
    job = given_job(rules=rules)
    for number, wish in enumerate(wishes):
        before = job
        try:
            events = wish_events(rules, job, wish)
        except UWSError:
            continue
        for event in events:
            moved = after(job, [event], NOW + timedelta(seconds=number))
            assert moved.phase is job.phase or moved.phase in TRANSITIONS[job.phase], (job.phase, wish)
            assert moved.version == job.version + 1
            job = moved
        if before.phase in ENDED:
            assert job.phase in (before.phase, Phase.ARCHIVED)
            assert job.ended == before.ended
        if job.destroyed:
            return
        assert (job.ended is not None) == (job.phase in ENDED)
        assert (job.started is not None) or job.phase not in STARTED


def test_every_phase_has_its_ways_and_an_archived_job_is_missing() -> None:
    assert TRANSITIONS.keys() == set(Phase)
    assert not TRANSITIONS[Phase.ARCHIVED]
    for phase in (Phase.COMPLETED, Phase.ERROR, Phase.ABORTED):
        assert TRANSITIONS[phase] == {Phase.ARCHIVED}


def test_a_stream_that_does_not_begin_with_its_creation_is_refused() -> None:
    with pytest.raises(ValueError, match="begins with JobQueued"):
        evolve(None, QUEUED, job_id="j", now=NOW)
    created = RULES.create_job(NOW, owner=None, run_id=None, parameters={}, quote=None)
    with pytest.raises(ValueError, match="created twice"):
        after(None, created * 2)


SUBMITTED = QUEUED, e.JobSubmitted(declaration="d"), e.JobAccepted(batch_job="7", reason="Resources")


def test_a_job_that_waits_in_a_batch_system_is_queued_and_ends_when_it_is_gone_from_there() -> None:
    job = given_job(*SUBMITTED)
    assert (job.phase, job.batch_job, job.note, job.start) == (Phase.QUEUED, "7", "Resources", 3)
    assert RULES.abort_job(job) == [e.StopRequested(reason="abort")]
    assert RULES.destroy_job(job, expired=False) == [e.StopRequested(reason="destroy")]
    stopped = after(job, RULES.abort_job(job))
    assert stopped.phase is Phase.QUEUED
    (aborted,) = RULES.end_job(stopped, Ending())
    assert after(stopped, [aborted]).phase is Phase.ABORTED


def test_a_job_that_waits_in_a_batch_system_is_not_started_here_nor_changed() -> None:
    job = given_job(*SUBMITTED)
    with pytest.raises(IllegalPhase):
        RULES.start_job(job, None)
    with pytest.raises(IllegalPhase):
        RULES.submit_job(job, None)
    with pytest.raises(IllegalPhase):
        RULES.set_execution_duration(job, 7)
    assert RULES.accept_job(job, "7", "Resources") == []


def test_what_has_not_begun_is_not_completed() -> None:
    job = given_job(*SUBMITTED)
    with pytest.raises(IllegalPhase):
        RULES.end_job(job, Ending(exit_code=0))
    (failed,) = RULES.end_job(job, Ending(failure=Failure(message="Slurm could not start the job")))
    assert after(job, [failed]).phase is Phase.ERROR


def test_a_job_that_a_batch_system_has_begun_may_be_lost_sight_of_and_found() -> None:
    job = given_job(*SUBMITTED)
    job = after(job, RULES.begin_job(job, "n1", ()))
    assert (job.phase, job.host, job.start) == (Phase.EXECUTING, "n1", 3)
    job = after(job, RULES.lose_sight(job, "no answer"))
    assert (job.phase, job.note) == (Phase.UNKNOWN, "no answer")
    assert RULES.lose_sight(job, "no answer still") == []
    job = after(job, RULES.suspend_job(job, "SUSPENDED"))
    assert job.phase is Phase.SUSPENDED
    job = after(job, RULES.resume_job(job))
    assert (job.phase, job.note) == (Phase.EXECUTING, "")
    assert RULES.resume_job(job) == []


def test_what_somebody_else_has_ended_is_aborted_in_his_words() -> None:
    job = given_job(*SUBMITTED)
    (aborted,) = RULES.end_job(job, Ending(aborted="cancelled in Slurm"))
    assert isinstance(aborted, e.JobAborted)
    assert aborted.reason == "cancelled in Slurm"
