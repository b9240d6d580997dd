"""What goes wrong with weights of HTTPRoutes: races, conflicts, refusals, an absent API server, old credentials."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from gateway.config.kubernetes import KubernetesConfig
from gateway.engines.kubernetes.api_server import ApiServer as Client
from gateway.engines.kubernetes.api_server import ApiServerError
from gateway.engines.kubernetes.http_route import APPLIED, PARTS
from gateway.engines.nodes import SILENT_S
from tests.e2e.test_tls import Issuer
from tests.engines.cluster import PLACE, World, http_route, world
from tests.support.api_server import ApiServer

HALF = {"v1": 0.5, "v2": 0.5}
Json = dict[str, Any]


async def test_a_status_that_changes_meanwhile_does_not_keep_a_write_from_succeeding() -> None:
    async with world() as it:
        races = iter(range(2))

        def race() -> None:
            if next(races, None) is not None:
                it.server.controller(*PLACE, Accepted=("True", f"Race{next(races, 9)}", ""))

        it.server.before_patch = race
        it.publish(HALF)
        await it.step()
        assert it.weights == {"digits-v1": 500_000, "digits-v2": 500_000}


async def test_backends_that_moved_between_reading_and_writing_get_their_own_weights() -> None:
    async with world() as it:

        def swap(found: Json) -> None:
            found["spec"]["rules"][0]["backendRefs"].reverse()

        def race() -> None:
            it.server.before_patch = lambda: None
            it.server.update(*PLACE, swap, "kubectl-edit")

        it.server.before_patch = race
        it.publish({"v1": 0.9, "v2": 0.1})
        await it.step()
        assert it.weights == {"digits-v2": 100_000, "digits-v1": 900_000}


def reset(found: Json) -> None:
    for ref, weight in zip(found["spec"]["rules"][0]["backendRefs"], (1, 0), strict=True):
        ref["weight"] = weight


async def test_weights_that_another_manager_changed_are_not_fought_over() -> None:
    async with world() as it:
        it.publish(HALF)
        await it.accepted()
        it.server.update(*PLACE, reset, "helm")
        it.publish({"v1": 0.4, "v2": 0.6})
        one = await it.accepted(10)
        assert it.weights == {"digits-v1": 1, "digits-v2": 0}
        assert it.state == "refused"
        assert "prod/digits: helm changed the weights at" in it.node.refused
        assert "remove the annotation 'turnout/applied', or write 'force_conflicts: true'" in it.node.refused
        assert one.changes[-1].epoch == 0, "what is recorded is what is in effect"

        def consent(found: Json) -> None:
            del found["metadata"]["annotations"][APPLIED]

        it.server.update(*PLACE, consent, "kubectl-annotate")
        await it.accepted(10)
        assert it.weights["digits-v2"] == 600_000
        assert (it.state, it.node.refused) == ("accepted", "")


def manifest(it: World, weights: dict[str, int] | None = None) -> Json:
    """What a repository holds, with ``weights`` or, as with Argo's RespectIgnoreDifferences, those of the cluster."""
    found = http_route(weights=weights)
    if weights is None:
        found["spec"] = it.found["spec"]
    return found


async def test_argo_that_respects_the_weights_changes_nothing() -> None:
    async with world() as it:
        it.publish(HALF)
        await it.accepted()
        for shares in ({"v1": 0.4, "v2": 0.6}, {"v1": 1.0, "v2": 0.0}):
            it.server.apply(*PLACE, manifest(it), "argocd-controller", force=True)
            it.publish(shares)
            one = await it.accepted()
            assert (it.state, it.node.refused) == ("accepted", "")
            assert it.weights == {f"digits-{v}": round(share * PARTS) for v, share in shares.items()}
            assert one.changes[-1].epoch == it.published["digits"].epoch


async def test_flux_that_applies_its_own_weights_is_named_and_what_it_wrote_is_recorded() -> None:
    async with world() as it:
        it.publish(HALF)
        await it.accepted()
        it.server.apply(*PLACE, manifest(it, {"v1": 3, "v2": 1}), "kustomize-controller", force=True)
        one = await it.step(10)
        assert it.weights == {"digits-v1": 3, "digits-v2": 1}
        assert it.state == "refused"
        assert "kustomize-controller changed the weights" in it.node.refused
        assert one.changes[-1].weights == {0: {"v1": 3, "v2": 1}}
        it.publish({"v1": 1.0, "v2": 0.0}, "error_rate failed")
        await it.step()
        assert it.weights == {"digits-v1": PARTS, "digits-v2": 0}, "a rollback is written once"
        it.server.apply(*PLACE, manifest(it), "kustomize-controller", force=True)
        it.server.controller(*PLACE)
        await it.step(10)
        assert (it.state, it.node.refused) == ("accepted", ""), "it leaves the weights alone now"


async def test_a_rollback_is_written_over_a_conflict_and_once() -> None:
    async with world() as it:
        it.publish(HALF)
        await it.accepted()

        def more(found: Json) -> None:
            for ref in found["spec"]["rules"][0]["backendRefs"]:
                ref["weight"] = 7

        it.server.update(*PLACE, more, "helm")
        await it.step(10)
        it.publish({"v1": 1.0, "v2": 0.0}, "error_rate failed")
        await it.step()
        assert it.weights == {"digits-v1": PARTS, "digits-v2": 0}
        it.server.update(*PLACE, more, "helm")
        await it.step(10)
        assert it.weights == {"digits-v1": 7, "digits-v2": 7}
        assert it.state == "refused"


async def test_with_force_conflicts_weights_are_written_again_once_a_minute() -> None:
    async with world(options=", force_conflicts: true") as it:
        it.publish(HALF)
        await it.accepted()
        it.server.update(*PLACE, reset, "helm")
        await it.step(10)
        assert it.weights["digits-v2"] == 0
        assert "helm changed the weights" in it.node.refused
        await it.step(60)
        assert it.weights["digits-v2"] == 500_000


async def test_a_webhook_that_changes_the_weights_is_seen_in_the_response() -> None:
    async with world() as it:
        it.server.admit = reset
        it.publish(HALF)
        one = await it.step()
        assert one.changes[-1].weights == {0: {"v1": 1, "v2": 0}}
        assert one.changes[-1].epoch == 0
        assert it.state == "refused"


async def test_what_a_controller_refuses_is_told() -> None:
    async with world() as it:
        it.publish(HALF)
        await it.step()
        it.server.controller(*PLACE, ResolvedRefs=("False", "BackendNotFound", "no Service digits-v2"))
        await it.step()
        assert it.node.refused == "prod/digits: example.com/controller: BackendNotFound: no Service digits-v2"
        assert it.state == "refused"


async def test_what_the_api_server_refuses_is_told_with_a_remedy() -> None:
    async with world() as it:
        it.publish(HALF)
        it.server.allowed = {"get"}
        await it.step()
        assert "prod/digits: may not be read and patched; bind the chart's Role" in it.node.refused
        it.server.allowed = {"get", "patch"}
        del it.server.objects[PLACE]
        await it.step()
        assert "there is no such HTTPRoute; create it, or correct 'httproute'" in it.node.refused
        it.server.create(http_route())
        await it.accepted()
        assert it.state == "accepted"


async def test_an_api_server_that_is_away_is_silent_after_some_time_and_then_followed_again() -> None:
    async with world() as it:
        it.publish(HALF)
        await it.accepted()
        it.server.stop()
        it.publish({"v1": 0.4, "v2": 0.6})
        await it.step(SILENT_S - 5)
        assert it.state == "behind"
        await it.step(10)
        assert it.state == "silent"
        assert "the API server does not respond" in it.node.refused
        it.server.start()
        await it.accepted()
        assert (it.state, it.weights["digits-v2"]) == ("accepted", 600_000)


async def test_a_clock_that_is_set_back_holds_no_look_up() -> None:
    async with world() as it:
        it.publish(HALF)
        await it.accepted()
        it.now -= 3600
        it.server.update(*PLACE, reset, "helm")
        async with asyncio.timeout(60):  # of the event loop's clock
            one = await it.routes.look("digits", it.now + 7200, it.published["digits"])
            assert one.changes[-1].weights == {0: {"v1": 1, "v2": 0}}
            it.now -= 3600
            it.server.update(*PLACE, lambda found: None, "helm")
            reads = one.read_at
            await it.step(1)
        assert one.read_at < reads


async def test_a_route_that_is_removed_while_the_api_server_responds_fails_no_other() -> None:
    async with world() as it:
        it.publish(HALF)
        await it.accepted()
        it.publish({"v1": 0.4, "v2": 0.6})

        def remove() -> None:
            it.document = it.document.model_copy(update={"routes": {}})

        it.server.before_patch = remove
        await it.step()
        assert "'digits' was removed meanwhile" in it.node.refused


async def test_an_api_server_that_no_route_needs_is_not_silent() -> None:
    async with world() as it:
        it.server.stop()
        await it.step(2 * SILENT_S)
        assert it.state == "accepted"
        assert it.server.calls == []
        it.server.start()


async def test_in_a_pod_the_account_s_files_are_used_and_a_renewed_token_at_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    Issuer(tmp_path / "other")
    Issuer(tmp_path).issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    server = ApiServer("first", context)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    client = Client(KubernetesConfig(type="kubernetes", token="a-token-of-the-collector"), tmp_path)
    try:
        server.create(http_route())
        for name, text in {
            "token": "first\n",
            "namespace": "prod\n",
            "ca.crt": (tmp_path / "ca.pem").read_text(),
        }.items():
            (tmp_path / name).write_text(text)
        assert client.namespace() == "prod"
        assert (await client.get(*PLACE))["kind"] == "HTTPRoute"
        server.token = "second"
        with pytest.raises(ApiServerError, match="the API server does not accept the token"):
            await client.get(*PLACE)
        (tmp_path / "token").write_text("second")
        assert (await client.get(*PLACE))["kind"] == "HTTPRoute"
        (tmp_path / "ca.crt").write_text((tmp_path / "other/ca.pem").read_text())
        with pytest.raises(ApiServerError, match=r"the API server does not respond: .*certificate"):
            await client.get(*PLACE)
        for damaged in (b"", b"\xff notes, and no certificate"):
            (tmp_path / "ca.crt").write_bytes(damaged)
            with pytest.raises(ApiServerError, match=r"cannot be read: .*ca\.crt holds no certificates"):
                await client.get(*PLACE)
        (tmp_path / "ca.crt").write_bytes(b"# f\xfcr uns\n" + (tmp_path / "ca.pem").read_bytes())
        assert (await client.get(*PLACE))["kind"] == "HTTPRoute"
        (tmp_path / "token").write_bytes(b"\xff")
        with pytest.raises(ApiServerError, match="credentials for the API server cannot be read"):
            await client.get(*PLACE)
        (tmp_path / "token").write_text("second")
        (tmp_path / "ca.crt").unlink()
        with pytest.raises(ApiServerError, match=r"credentials for the API server cannot be read: .*ca\.crt"):
            await client.get(*PLACE)
    finally:
        await client.close()
        server.stop()


@pytest.mark.parametrize(
    "note",
    [
        '{"route": "digits", "epoch": Infinity, "time": 1, "weights": {}}',
        '{"route": "digits", "epoch": 1, "time": NaN, "weights": {}}',
        '{"route": "digits", "epoch": 1, "time": 1, "weights": {"0": {"v1": "x"}}}',
        "[" * 200_000,
    ],
    ids=["infinite", "no time", "text", "deep"],
)
async def test_an_annotation_that_was_edited_by_hand_is_written_anew(note: str) -> None:
    async with world() as it:
        it.publish(HALF)
        await it.accepted()
        it.server.update(
            *PLACE, lambda found: found["metadata"]["annotations"].update({APPLIED: note}), "kubectl"
        )
        it.publish({"v1": 0.0, "v2": 1.0})
        await it.accepted(10)
        assert it.weights == {"digits-v1": 0, "digits-v2": PARTS}


async def test_an_export_that_waits_while_its_engine_is_edited_still_reads_the_weights() -> None:
    """It looks at the HTTPRoutes later than the edit, which closes the connections of the engine before."""
    async with world() as it:
        it.publish(HALF)
        await it.step()
        await it.routes.close()
        it.now += 5.0
        assert (await it.routes.look("digits", it.now, None)).found is not None


async def test_the_pod_s_token_goes_to_no_other_server(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of the pod")
    server = ApiServer("of the pod")
    options = {"type": "kubernetes", "token": "a-token-of-the-collector", "server": server.url}
    client = Client(KubernetesConfig.model_validate(options), tmp_path)
    named = Client(KubernetesConfig.model_validate(options | {"server_token": "of the pod"}), tmp_path)
    try:
        server.create(http_route())
        with pytest.raises(ApiServerError, match="does not accept the token"):
            await client.get(*PLACE)
        assert (await named.get(*PLACE))["kind"] == "HTTPRoute"
    finally:
        await client.close()
        await named.close()
        server.stop()
