"""gRPC: the Open Inference Protocol as `tritonclient.grpc` and KServe speak it."""
