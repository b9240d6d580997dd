"""The few calls to a Kubernetes API server that the engine needs."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path
from typing import Any, Final

import httpx

from gateway.config.files import certificates
from gateway.config.kubernetes import KubernetesConfig
from gateway.engines.kubernetes.http_route import MANAGER

Json = dict[str, Any]

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod has the token, the CA and the namespace of its service account."""
TIMEOUT_S: Final = 5.0


class ApiServerError(Exception):
    """The API server refused a call, or did not respond (``status`` 0); the message says what to do."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ApiServer:
    """A client of one API server. The pod's token and the CA are read for each call: the kubelet renews them."""

    def __init__(self, config: KubernetesConfig, account: Path = ACCOUNT) -> None:
        self._config = config
        self._account = account
        self._client: httpx.AsyncClient | None = None
        self._trusted: str | None = None

    @property
    def url(self) -> str:
        """Where the API server is. Raises ApiServerError outside a pod."""
        if self._config.server is not None:
            return self._config.server.rstrip("/")
        host, port = (
            os.environ.get("KUBERNETES_SERVICE_HOST"),
            os.environ.get("KUBERNETES_SERVICE_PORT", "443"),
        )
        if not host:
            raise ApiServerError(0, "this is not a pod of the cluster; write 'engines.NAME.server'")
        return f"https://{f'[{host}]' if ':' in host else host}:{port}"

    def namespace(self) -> str:
        """The engine's namespace, by default the pod's."""
        if self._config.namespace is not None:
            return self._config.namespace
        try:
            return (self._account / "namespace").read_text().strip()
        except OSError:
            return "default"

    async def get(self, namespace: str, name: str) -> Json:
        """Get an HTTPRoute. Raises ApiServerError."""
        return await self._call("GET", namespace, name)

    async def patch(self, namespace: str, name: str, operations: list[Json]) -> Json:
        """Apply a JSON Patch to an HTTPRoute. Raises ApiServerError: 409 or 422 if it is not as it was read."""
        return await self._call("PATCH", namespace, name, operations)

    async def close(self) -> None:
        """Close the connections; a later call opens others."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _call(self, method: str, namespace: str, name: str, body: list[Json] | None = None) -> Json:
        path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes/{name}"
        headers, params = {"accept": "application/json"}, {}
        if body is not None:
            headers["content-type"] = "application/json-patch+json"
            params = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
        try:
            url, token, client = self.url, await asyncio.to_thread(self._token), await self._connected()
        except (OSError, ValueError) as error:
            raise ApiServerError(0, f"the credentials for the API server cannot be read: {error}") from None
        if token:
            headers["authorization"] = f"Bearer {token}"
        try:
            response = await client.request(method, url + path, headers=headers, params=params, json=body)
            found = response.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise ApiServerError(
                0, f"the API server does not respond: {error or type(error).__name__}"
            ) from None
        if response.is_success and isinstance(found, dict):
            return found
        said = found.get("message") if isinstance(found, dict) else None
        raise ApiServerError(
            response.status_code, _explained(response.status_code, f"{namespace}/{name}", said)
        )

    def _token(self) -> str:
        """The bearer token; empty if a server is configured without one. Raises OSError."""
        if self._config.server_token is not None or self._config.server is not None:
            return self._config.server_token or ""
        return (self._account / "token").read_text().strip()

    async def _connected(self) -> httpx.AsyncClient:
        """The client, made again when the CA has changed. Raises OSError."""
        trusted = await asyncio.to_thread(self._ca)
        if self._client is None or trusted != self._trusted:
            context = ssl.create_default_context(cadata=trusted)
            last, made = self._client, httpx.AsyncClient(verify=context, timeout=TIMEOUT_S, trust_env=False)
            # Replaced before it is closed: another call must neither use the last one nor make a third.
            self._client, self._trusted = made, trusted
            if last is not None:
                await last.aclose()
            return made
        return self._client

    def _ca(self) -> str | None:
        """The trusted CAs in PEM; None for those of the system. Raises OSError."""
        path = self._config.ca
        if path is None:
            if self._config.server is not None:
                return None
            path = str(self._account / "ca.crt")
        found = certificates(path)
        if not found:  # else the system's would be trusted
            raise OSError(f"{path} holds no certificates")
        return found


def _explained(status: int, name: str, said: object) -> str:
    if status == 401:
        return f"the API server does not accept the token: {said}"
    if status == 403:
        return f"{name}: may not be read and patched; bind the chart's Role to the service account ({said})"
    if status == 404:
        return f"{name}: there is no such HTTPRoute; create it, or correct 'httproute' ({said})"
    return f"{name}: the API server responded {status}: {said}"
