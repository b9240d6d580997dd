"""HTTP/2 (RFC 9113) and HPACK (RFC 7541) without I/O: bytes in, method calls out, for both roles.

Why they are our own: docs/adr/0008-http2.md.
"""
