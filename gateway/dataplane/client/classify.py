"""Which lane a request takes, and whether whoever asks may: settled when its head is complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.dataplane.client.asgi import DISCOVERY, MODELS, ControlCall
from gateway.dataplane.client.refusal import Refusal
from gateway.dataplane.exchange.exchange import Exchange
from gateway.dataplane.request.routing import find_route
from gateway.dataplane.tracing import traced
from gateway.errors import TurnoutError
from gateway.http.fields import SESSION

if TYPE_CHECKING:
    from gateway.dataplane.client.protocol import ClientProtocol
    from gateway.dataplane.request.head import Head
    from gateway.dataplane.snapshot import RoutePlan


def lane(client: ClientProtocol, head: Head) -> Exchange | ControlCall | Refusal:
    """An exchange for what matches a route, an ASGI call below ``/-/``, an error answer for all else."""
    worker, tracing = client.worker, client.snapshot.tracing
    if client.surplus:
        head.close = True
    if head.path.startswith(b"/-/"):
        return ControlCall(client, worker, head)
    try:
        if client.control_only:
            raise TurnoutError(
                "unknown_route", "This port serves the control API; the dashboard is at /-/dashboard/."
            )
        if client.surplus:
            raise TurnoutError("too_many_connections", retry_after=1.0)
        route = find_route(client.snapshot, head)
        if route.condition is not None and route.condition.models and _lists_models(head):
            return ControlCall(client, worker, head)
        admit(client, head, route)
        if head.upgrade and worker.tunnels_full:
            raise TurnoutError("too_many_websockets", retry_after=1.0)
        if head.length > route.body_limit:
            raise TurnoutError(
                "body_too_large",
                f"The body has more than the {route.body_limit} bytes that this route takes.",
            )
    except TurnoutError as error:
        listed = _lists_models(head) and not client.control_only
        if error.code == "unknown_route" and (listed or head.path in DISCOVERY):
            return ControlCall(client, worker, head)
        if error.code == "unknown_route" and head.path == b"/" and _may_know(client):
            error = TurnoutError("unknown_route", "No route matches '/'; the dashboard is at /-/dashboard/.")
        if tracing is not None:
            tracing.begins(head, admitted=False)
        return Refusal(client, head, error)
    if tracing is not None and tracing.begins(head):
        return traced(client, head, route)
    return Exchange(client, worker, head, route)


def _lists_models(head: Head) -> bool:
    """Whether it asks for the models of all routes, which no single route can tell."""
    return head.path == MODELS and head.method in (b"GET", b"HEAD")


def _may_know(client: ClientProtocol) -> bool:
    """Whether the dashboard is on this port, and clients without a key may be told so."""
    return not (client.control_only or client.data_only) and client.snapshot.authenticator.open


def admit(client: ClientProtocol, head: Head, route: RoutePlan) -> None:
    """Names the principal of ``head``. Raises TurnoutError unless it may use the route now.

    Where the body's model leads to one of several routes, one that it may use is enough: the route itself is
    checked when it is known.
    """
    authenticator = client.snapshot.authenticator
    credential = head.credential
    if authenticator.open:
        near = client.near and not head.proxied and not head.old
        principal = authenticator.visitor(head.method, head.host, head.kept, near=near)
    else:
        principal = authenticator.principal(credential, client.worker.wall())
    head.principal = principal
    if head.kept and SESSION in head.kept.get(b"cookie", b""):
        head.drop_sessions()
    if credential is not None:
        head.set_credentials(openly=authenticator.open)
    if not principal.infer:
        raise TurnoutError("forbidden", "The key may not infer; use one with the scope 'infer'.")
    if principal.routes is not None:
        by_model = route.condition is not None and route.condition.models
        for candidate in client.snapshot.candidates(head.path) if by_model else ():
            if principal.serves(candidate.name):
                route = candidate
                break
        head.admit(route.name)
    if principal.bucket is not None:
        wait = principal.bucket.take(client.now)
        if wait:
            raise TurnoutError("rate_limited", retry_after=wait)
