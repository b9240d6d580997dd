"""A node's own counters of its rows, from an OTLP export of metrics."""

from __future__ import annotations

from typing import Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

COUNTERS_PATH: Final = "/-/engines/counters"
NODE: Final = "x-turnout-node"
"""Request header with the name of the node, which what it sends does not say itself."""


def counters(export: bytes) -> tuple[int, int]:
    """Rows delivered and lost since the node's start. A counter that is still zero is not exported.

    Raises ValueError if ``export`` is not an OTLP export of metrics.
    """
    try:
        parsed = ExportMetricsServiceRequest.FromString(export)
    except Exception as error:  # protobuf's own class of errors depends on its implementation
        raise ValueError("the body is not an OTLP export of metrics in protobuf") from error
    found = {
        metric.name: sum(point.as_int for point in metric.sum.data_points)
        for resource in parsed.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    return found.get("delivered", 0), found.get("lost", 0)


def export(delivered: int, lost: int) -> bytes:
    """An export of metrics, which `counters` reads."""
    made = ExportMetricsServiceRequest()
    metrics = made.resource_metrics.add().scope_metrics.add().metrics
    for name, value in (("delivered", delivered), ("lost", lost)):
        metrics.add(name=name).sum.data_points.add(as_int=value)
    return bytes(made.SerializeToString())
