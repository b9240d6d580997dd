"""The protocols' messages, built from tables; numbers as in Triton's `grpc_service.proto` and `model_config.proto`, and
in gRPC's `health.proto`. An enum is an int32 here, which is what it is on the wire."""

from __future__ import annotations

import re
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE: Final = "inference"
SERVICE: Final = "inference.GRPCInferenceService"
_MESSAGES: Final = """
ServerLiveRequest:
ServerLiveResponse: live 1 bool
ServerReadyRequest:
ServerReadyResponse: ready 1 bool
ModelReadyRequest: name 1 string, version 2 string
ModelReadyResponse: ready 1 bool
ServerMetadataRequest:
ServerMetadataResponse: name 1 string, version 2 string, extensions 3 string*
ModelMetadataRequest: name 1 string, version 2 string
TensorMetadata: name 1 string, datatype 2 string, shape 3 int64*
ModelMetadataResponse: name 1 string, versions 2 string*, platform 3 string, inputs 4 TensorMetadata*, \
outputs 5 TensorMetadata*
InferParameter: bool_param 1 bool?, int64_param 2 int64?, string_param 3 string?, double_param 4 double?, \
uint64_param 5 uint64?
ParameterEntry: key 1 string, value 2 InferParameter
InferTensorContents: bool_contents 1 bool*, int_contents 2 int32*, int64_contents 3 int64*, \
uint_contents 4 uint32*, uint64_contents 5 uint64*, fp32_contents 6 float*, fp64_contents 7 double*, \
bytes_contents 8 bytes*
InferInputTensor: name 1 string, datatype 2 string, shape 3 int64*, parameters 4 ParameterEntry*, \
contents 5 InferTensorContents
InferRequestedOutputTensor: name 1 string, parameters 2 ParameterEntry*
ModelInferRequest: model_name 1 string, model_version 2 string, id 3 string, parameters 4 ParameterEntry*, \
inputs 5 InferInputTensor*, outputs 6 InferRequestedOutputTensor*, raw_input_contents 7 bytes*
InferOutputTensor: name 1 string, datatype 2 string, shape 3 int64*
ModelInferResponse: model_name 1 string, model_version 2 string, id 3 string, outputs 5 InferOutputTensor*, \
raw_output_contents 6 bytes*
ModelStreamInferResponse: error_message 1 string, infer_response 2 ModelInferResponse
RepositoryIndexRequest: repository_name 1 string, ready 2 bool
ModelIndex: name 1 string, version 2 string, state 3 string, reason 4 string
RepositoryIndexResponse: models 1 ModelIndex*
RepositoryModelLoadRequest: repository_name 1 string, model_name 2 string, parameters 3 ParameterEntry*
RepositoryModelLoadResponse:
RepositoryModelUnloadRequest: repository_name 1 string, model_name 2 string
RepositoryModelUnloadResponse:
StatisticDuration: count 1 uint64, ns 2 uint64
InferStatistics: success 1 StatisticDuration, fail 2 StatisticDuration, queue 3 StatisticDuration, \
compute_input 4 StatisticDuration, compute_infer 5 StatisticDuration, compute_output 6 StatisticDuration, \
cache_hit 7 StatisticDuration, cache_miss 8 StatisticDuration
InferBatchStatistics: batch_size 1 uint64, compute_input 2 StatisticDuration, \
compute_infer 3 StatisticDuration, compute_output 4 StatisticDuration
ModelStatistics: name 1 string, version 2 string, last_inference 3 uint64, inference_count 4 uint64, \
execution_count 5 uint64, inference_stats 6 InferStatistics, batch_stats 7 InferBatchStatistics*
ModelStatisticsRequest: name 1 string, version 2 string
ModelStatisticsResponse: model_stats 1 ModelStatistics*
ModelInput: name 1 string, data_type 2 int32, dims 4 int64*
ModelOutput: name 1 string, data_type 2 int32, dims 3 int64*
ModelInstanceGroup: count 2 int32, gpus 3 int32*, kind 4 int32
ModelDynamicBatching: max_queue_delay_microseconds 2 uint64
ModelConfig: name 1 string, platform 2 string, max_batch_size 4 int32, input 5 ModelInput*, \
output 6 ModelOutput*, instance_group 7 ModelInstanceGroup*, dynamic_batching 11 ModelDynamicBatching, \
ensemble_scheduling 15 ModelEnsembling
ModelEnsembling: step 1 EnsembleStep*
EnsembleStep: model_name 1 string, model_version 2 int64, input_map 3 NameEntry*, output_map 4 NameEntry*
NameEntry: key 1 string, value 2 string
ModelConfigRequest: name 1 string, version 2 string
ModelConfigResponse: config 1 ModelConfig
"""
"""Message: field number type, …; ``*`` repeated, ``?`` of which at most one is set. A map is a repeated
entry of key and value, which is what it is on the wire."""
HEALTH_PACKAGE: Final = "grpc.health.v1"
HEALTH_SERVICE: Final = "grpc.health.v1.Health"
_HEALTH_MESSAGES: Final = """
HealthCheckRequest: service 1 string
HealthCheckResponse: status 1 int32
"""
_FIELD: Final = re.compile(r"(\w+) (\d+) (\w+)([*?]?)")


def _file(package: str, table: str) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"turnout/{package}.proto", package=package, syntax="proto3"
    )
    for line in table.strip().splitlines():
        name, _, fields = line.partition(":")
        message = file.message_type.add(name=name)
        if "?" in fields:
            message.oneof_decl.add(name="choice")
        for field, number, kind, mark in _FIELD.findall(fields):
            added = message.field.add(name=field, number=int(number), json_name=field)
            added.label = added.LABEL_REPEATED if mark == "*" else added.LABEL_OPTIONAL
            if kind[0].isupper():
                added.type, added.type_name = added.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                added.type = getattr(added, f"TYPE_{kind.upper()}")
            if mark == "?":
                added.oneof_index = 0
    return file


def _classes(package: str, table: str) -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()  # its own: a client in the same process has these names, too
    pool.Add(_file(package, table))
    names = [line.partition(":")[0] for line in table.strip().splitlines()]
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in names
    }


MESSAGES: Final[dict[str, Any]] = _classes(PACKAGE, _MESSAGES)
"""The message classes of the Open Inference Protocol by name."""
HEALTH_MESSAGES: Final[dict[str, Any]] = _classes(HEALTH_PACKAGE, _HEALTH_MESSAGES)
"""Those of gRPC's health protocol."""
