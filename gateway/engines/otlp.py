"""The part of an OTLP export of logs that rows need, with bytes where OTLP declares text.

A row quotes headers, and a header may hold any byte. Protobuf refuses a whole export for one byte that is not UTF-8, so
with OTLP's own messages one client could lose the rows of all others. Bytes and text are the same on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_BYTES: Final = ""
_MESSAGES: Final[dict[str, dict[str, tuple[int, str, bool]]]] = {
    "Value": {"text": (1, _BYTES, False)},
    "Attribute": {"key": (1, _BYTES, False), "value": (2, "Value", False)},
    "Resource": {"attributes": (1, "Attribute", True)},
    "Record": {"body": (5, "Value", False)},
    "Scope": {"log_records": (2, "Record", True)},
    "ResourceLogs": {"resource": (1, "Resource", False), "scope_logs": (2, "Scope", True)},
    "Export": {"resource_logs": (1, "ResourceLogs", True)},
}
"""Message → field → (number, type, whether it is repeated), as in opentelemetry/proto/logs/v1/logs.proto."""


def _export() -> Any:
    file = FileDescriptorProto(name="turnout/rows.proto", package="turnout", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            added = message.field.add(name=field, number=number)
            added.label = (
                FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
            )
            added.type = FieldDescriptorProto.TYPE_MESSAGE if kind else FieldDescriptorProto.TYPE_BYTES
            if kind:
                added.type_name = f".turnout.{kind}"
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("turnout.Export"))


_Export: Final = _export()


def bodies(export: bytes) -> tuple[str, list[bytes]]:
    """The name of the (first) node and the body of each record.

    Raises ValueError if ``export`` is not an OTLP export of logs.
    """
    try:
        parsed = _Export.FromString(export)
    except Exception as error:  # protobuf's own class of errors depends on its implementation
        raise ValueError("the body is not an OTLP export of logs in protobuf") from error
    parts = parsed.resource_logs
    named = (a.value.text for part in parts for a in part.resource.attributes if a.key == b"node_name")
    records = (scope.log_records for part in parts for scope in part.scope_logs)
    texts = [record.body.text for some in records for record in some]
    return next(named, b"").decode("latin-1"), texts


def export(node: str, rows: Iterable[str]) -> bytes:
    """An export of logs with a record for each row, which `bodies` reads; a character of a row is a byte."""
    made = _Export()
    part = made.resource_logs.add()
    name = part.resource.attributes.add()
    name.key, name.value.text = b"node_name", node.encode("latin-1")
    records = part.scope_logs.add().log_records
    for row in rows:
        records.add().body.text = row.encode("latin-1")
    return bytes(made.SerializeToString())
