"""Every call of the control API. Routes, checks, /-/openapi.json and the test of the docs come from here."""

from __future__ import annotations

from typing import Final

from gateway.control import answers, questions
from gateway.control.calls import LOOPBACK, OPEN, Call
from gateway.control.config_calls import YAML, read_config, read_history, restore, write_config
from gateway.control.dashboard_calls import asset, home, login, login_form, logout, session, to_home
from gateway.control.event_calls import recent_events, stream_events
from gateway.control.feedback import report_rewards
from gateway.control.health_calls import healthz, metrics, readyz
from gateway.control.record_calls import list_outcomes, read_decision
from gateway.control.route_calls import list_routes, read_route, read_series, steer
from gateway.control.verdict_calls import flagger_hook, read_verdict

_HTML: Final = "text/html"
_STORE: Final = ("store_unavailable",)

CALLS: Final = (
    Call(
        "POST",
        "/-/feedback",
        "feedback",
        report_rewards,
        "Report rewards",
        answers.FeedbackAnswer,
        "One reward, or up to 10000 under `items`. Answered once everything accepted is durable. The same again is a "
        "duplicate, another value for the same decision and metric an update, null a retraction. What is refused is "
        "listed by its index; the others count.",
        body=questions.Feedback,
        errors=("bad_json", "invalid", "body_too_large", *_STORE),
    ),
    Call("GET", "/-/healthz", OPEN, healthz, "Whether the process lives", answers.Health),
    Call(
        "GET",
        "/-/readyz",
        OPEN,
        readyz,
        "Whether requests can be served",
        answers.Health,
        errors=("not_ready", "draining"),
    ),
    Call(
        "GET",
        "/-/metrics",
        "metrics",
        metrics,
        "Figures for Prometheus",
        "text/plain",
        "From the loopback interface no key is needed.",
        unless=LOOPBACK,
    ),
    Call("GET", "/-/routes", "read", list_routes, "All routes, in short", answers.RouteList, errors=_STORE),
    Call(
        "GET",
        "/-/routes/{route}",
        "read",
        read_route,
        "One route: how its variants compare",
        answers.RouteReport,
        "At most about a second old. A part that does not apply is null.",
        query=questions.RouteQuery,
        errors=("not_found", "invalid", *_STORE),
    ),
    Call(
        "GET",
        "/-/routes/{route}/series",
        "read",
        read_series,
        "The same over time",
        answers.Series,
        "In buckets; those without any decision or reward are left out.",
        query=questions.SeriesQuery,
        errors=("not_found", "invalid", *_STORE),
    ),
    Call(
        "POST",
        "/-/routes/{route}/rollout",
        "steer",
        steer,
        "Steer a rollout",
        answers.Rollout,
        body=questions.RolloutStep,
        errors=("bad_json", "invalid", "not_found", "conflict", *_STORE),
    ),
    Call(
        "GET",
        "/-/routes/{route}/verdict",
        "read",
        read_verdict,
        "A rollout as one verdict",
        answers.VerdictAnswer,
        "For Argo Rollouts' web provider and other controllers: pass once every stage has passed, fail when the "
        "rollout was rolled back or a guardrail is broken, error when it could not be looked at.",
        query=questions.VerdictQuery,
        errors=("not_found", "invalid", *_STORE),
    ),
    Call(
        "POST",
        "/-/hooks/flagger/{route}/{hook}",
        "read",
        flagger_hook,
        "Answer a Flagger webhook",
        answers.VerdictAnswer,
        "200 lets Flagger go on, 409 holds it back and says why. The body is not looked at.",
        errors=("not_found", "conflict", *_STORE),
    ),
    Call(
        "GET",
        "/-/config",
        "config",
        read_config,
        "The configuration in force",
        YAML,
        query=questions.ConfigQuery,
        headers=("if-none-match",),
        answers=("etag", "x-revision"),
        errors=("not_found", *_STORE),
    ),
    Call(
        "PUT",
        "/-/config",
        "config",
        write_config,
        "Replace the configuration",
        answers.RevisionAnswer,
        "Validated first; a text with a fault is refused whole, with every fault, and changes nothing.",
        body=YAML,
        headers=("if-match",),
        answers=("etag", "x-revision"),
        errors=(
            "bad_request",
            "invalid",
            "precondition_required",
            "precondition_failed",
            "body_too_large",
            *_STORE,
        ),
    ),
    Call(
        "GET",
        "/-/config/history",
        "config",
        read_history,
        "Earlier configurations",
        answers.History,
        query=questions.HistoryQuery,
        errors=_STORE,
    ),
    Call(
        "POST",
        "/-/config/restore",
        "config",
        restore,
        "Put an earlier configuration into force",
        answers.RevisionAnswer,
        body=questions.Restore,
        headers=("if-match",),
        answers=("etag", "x-revision"),
        errors=("bad_json", "invalid", "not_found", "precondition_required", "precondition_failed", *_STORE),
    ),
    Call(
        "GET",
        "/-/outcomes",
        "read",
        list_outcomes,
        "The record, newest first",
        answers.Outcomes,
        query=questions.OutcomeQuery,
        errors=("invalid", *_STORE),
    ),
    Call(
        "GET",
        "/-/decisions/{decision_id}",
        "read",
        read_decision,
        "What is known of one decision",
        answers.DecisionAnswer,
        errors=("not_found", "invalid", *_STORE),
    ),
    Call(
        "GET",
        "/-/events",
        "read",
        stream_events,
        "What happens, as it happens",
        "text/event-stream",
        "Server-sent events: allocation changes, rollout steps, ejections, revisions, alarms. The `data` of each "
        "is an `EventShape`. Without `Last-Event-ID` and `after` the stream begins now.",
        query=questions.EventQuery,
        headers=("last-event-id",),
        errors=("invalid", *_STORE),
    ),
    Call(
        "GET",
        "/-/events/recent",
        "read",
        recent_events,
        "What happened last",
        answers.EventList,
        query=questions.RecentQuery,
        errors=("invalid", *_STORE),
    ),
    Call("GET", "/-/dashboard", OPEN, to_home, "The way to the dashboard", "", status=308),
    Call(
        "GET",
        "/-/dashboard/",
        OPEN,
        home,
        "The dashboard",
        _HTML,
        "Without a login the browser is sent to the form.",
    ),
    Call("GET", "/-/dashboard/login", OPEN, login_form, "The dashboard's form for a key", _HTML),
    Call(
        "POST",
        "/-/dashboard/login",
        OPEN,
        login,
        "Log in to the dashboard",
        "",
        "From a form the answer is a redirect. The cookie is good for twelve hours of reading; with `steer` also for "
        "changes, until 15 minutes after the last one.",
        body=questions.Login,
        status=204,
        errors=("bad_json", "invalid", "unauthenticated", "forbidden", "body_too_large", *_STORE),
    ),
    Call("POST", "/-/dashboard/logout", OPEN, logout, "Log out of the dashboard", "", status=204),
    Call("GET", "/-/dashboard/session", "read", session, "Who is logged in", answers.Session),
    Call("GET", "/-/dashboard/{name:path}", OPEN, asset, "A file of the dashboard", _HTML, documented=False),
)
