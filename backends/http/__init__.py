"""HTTP/1.1: connections on httptools, requests and responses, the listening socket."""
