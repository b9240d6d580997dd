"""The models of requests and responses, one module per subject: /-/openapi.json comes from them."""
