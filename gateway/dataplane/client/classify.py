"""Which kind of request has come, and whether the client may make it: decided when its head is complete."""

from __future__ import annotations

from gateway.auth.principal import Principal
from gateway.dataplane.base import ClientConnection, PipelinedRequest
from gateway.dataplane.client.asgi import DISCOVERY, MODELS, ControlCall
from gateway.dataplane.client.refusal import Refusal
from gateway.dataplane.exchange.exchange import Exchange
from gateway.dataplane.request.head import Head
from gateway.dataplane.request.routing import find_route, nearest
from gateway.dataplane.snapshot import RoutePlan
from gateway.dataplane.tracing import begin_trace
from gateway.errors import TurnoutError
from gateway.http.fields import SESSION


def classify(client: ClientConnection, head: Head) -> PipelinedRequest:
    """Returns an exchange for what matches a route, an ASGI call below ``/-/``, an error response for all else."""
    snapshot = client.snapshot
    tracing = snapshot.tracing
    if client.surplus:
        head.close = True
    if head.path[:3] == b"/-/":  # a third of the cost of startswith
        return ControlCall(client, head)
    try:
        if client.role == "control":
            raise TurnoutError(
                "unknown_route", "This port serves the control API; the dashboard is at /-/dashboard/."
            )
        if client.surplus:
            raise TurnoutError("too_many_connections", retry_after=1.0)
        route = find_route(snapshot, head)
        if route.condition is not None and route.condition.models and _lists_models(head):
            return ControlCall(client, head)
        admit(client, head, route)
        if head.upgrade and client.runtime.tunnels_full:
            raise TurnoutError("too_many_websockets", retry_after=1.0)
        # Before any of it is read; one in chunks is counted as it comes.
        if head.length > route.body_limit:
            raise TurnoutError(
                "body_too_large",
                f"The body has more than the {route.body_limit} bytes that this route takes.",
            )
    except TurnoutError as error:
        listed = _lists_models(head) and client.role != "control"
        if error.code == "unknown_route" and (listed or head.path in DISCOVERY):
            return ControlCall(client, head)
        if error.code == "unknown_route" and head.path == b"/" and _may_know(client):
            error = TurnoutError("unknown_route", "No route matches '/'; the dashboard is at /-/dashboard/.")
        elif error.code == "unknown_route" and client.role != "control" and _may_read(client, head):
            error = TurnoutError("unknown_route", nearest(snapshot, head))
        if tracing is not None:
            begin_trace(tracing, head, admitted=False)
        return Refusal(client, head, error)
    if tracing is not None:
        begin_trace(tracing, head, admitted=True)
    return Exchange(client, head, route)


def _lists_models(head: Head) -> bool:
    """Whether it asks for the models of all routes, which no single route can tell."""
    return head.path == MODELS and head.method in (b"GET", b"HEAD")


def _may_know(client: ClientConnection) -> bool:
    """Whether the dashboard is on this port, and clients without a key may know so."""
    return client.role == "all" and client.snapshot.authenticator.open


def _may_read(client: ClientConnection, head: Head) -> bool:
    """Whether it may know the names and paths of routes without a key, as at ``GET /-/routes``."""
    try:
        return client.snapshot.authenticator.open and _visitor(client, head).may("read")
    except TurnoutError:
        return False


def _visitor(client: ClientConnection, head: Head) -> Principal:
    """The principal where no key is needed. Raises TurnoutError for what only a page of another site sends."""
    # A proxy on this machine makes every client look local; some speak HTTP/1.0 and add no field.
    near = client.forwarding.near and not head.proxy_fields and not head.http10
    return client.snapshot.authenticator.visitor(head.method, head.host, head.kept, near=near)


def admit(client: ClientConnection, head: Head, route: RoutePlan) -> None:
    """Sets the principal of ``head``.

    Raises:
        TurnoutError: The principal may not use the route now.

    Where the body's model leads to one of several routes, one that it may use is enough: the route itself is
    checked when it is known.
    """
    authenticator, credentials = client.snapshot.authenticator, head.credentials
    if authenticator.open:
        principal = _visitor(client, head)
    else:
        presented = credentials.presented() if credentials is not None else None
        principal = authenticator.principal(presented, client.runtime.wall())
    head.principal = principal
    cookies = head.kept.get(b"cookie")
    if cookies is not None and cookies.find(SESSION) >= 0:  # "in" tries bytes as a number first
        head.drop_sessions()
    if credentials is not None and (authenticator.open or credentials.key is not None):
        head.lines = head.lines + credentials.onward(openly=authenticator.open)
    if not principal.infer:
        raise TurnoutError("forbidden", "The key may not infer; use one with the scope 'infer'.")
    if principal.routes is not None:
        by_model = route.condition is not None and route.condition.models
        for candidate in client.snapshot.candidates(head.path) if by_model else ():
            if principal.serves(candidate.name):
                route = candidate
                break
        head.admit(route.name)
    # Last: a request that its key may not make takes nothing from the bucket.
    if principal.bucket is not None:
        wait = principal.bucket.take(client.now)
        if wait:
            raise TurnoutError("rate_limited", retry_after=wait)
