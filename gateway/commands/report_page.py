"""The page of ``turnout report``: a pure function of its document; one HTML file without scripts and resources."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from gateway.commands.report_document import canonical
from gateway.commands.report_figures import guardrails, judged, metrics, segments, shadows, verdict
from gateway.commands.report_text import (
    NONE,
    Content,
    Html,
    kind_of,
    loss,
    number,
    share,
    table,
    tag,
    time,
    words,
)

Json = dict[str, Any]

MAX_STEPS: Final = 60
"""Steps of the history on the page; the data have all."""
SIGNERS: Final = ("Model owner", "Reviewer", "Auditor")
META: Final = Html(
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    """<meta http-equiv="content-security-policy" content="default-src 'none'; style-src 'unsafe-inline'">"""
)
STYLE: Final = """
:root{color-scheme:light}
body{font:14px/1.45 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:190mm;margin:2em auto;padding:0 1em}
h1{font-size:1.7em;margin:0 0 .4em}h2{font-size:1.2em;margin:1.6em 0 .4em;break-after:avoid}
p{margin:.4em 0}ul{margin:.3em 0;padding-left:1.2em}svg{display:block}
code{font:.9em ui-monospace,monospace;overflow-wrap:anywhere}small{font-size:.9em;color:#555}
table{border-collapse:collapse;width:100%;margin:.5em 0}caption{text-align:left;color:#555;break-after:avoid}
th,td{text-align:left;vertical-align:top;padding:.25em .8em .25em 0;border-bottom:1px solid #ddd}
td:nth-child(n+4),td:last-child{overflow-wrap:anywhere}.n{white-space:nowrap}
thead th,.facts th,tbody th small{color:#555;font-weight:400}thead th{border-color:#999}
th[scope=rowgroup]{padding-top:.9em}tr:has([scope=rowgroup]){break-after:avoid}
tr{break-inside:avoid}tbody tr:first-child{break-before:avoid}
.pass{color:#0a6b35}.fail,.error{color:#a3161b}
.result{border:1px solid #999;border-left:5px solid #333;padding:.5em 1em;margin:1em 0}
.result p:first-child{font-size:1.15em;font-weight:600}
.sign{break-inside:avoid}.sign td{height:3.5em}.sign th{width:18%}.sign th:last-child{width:30%}
@media(max-width:600px){section{overflow-x:auto}}
@page{size:A4;margin:15mm 14mm 18mm;@bottom-left{content:"SHA-256 HASH";font:7pt monospace}
@bottom-right{content:counter(page) " of " counter(pages);font:8pt sans-serif}}
@media print{body{font-size:9pt;margin:0;max-width:none;padding:0}a{color:inherit;text-decoration:none}}
"""
"""HASH is replaced: each printed sheet names the data that it is of."""


def page(document: Json) -> str:
    """The HTML text of ``document``."""
    data = f"{canonical(document)}\n".encode()
    digest = hashlib.sha256(data).hexdigest()
    title = f"Report on the route {document['route']}"
    style = tag("style", Html(STYLE.replace("HASH", digest)))
    sections = [tag("section", tag("h2", name), parts) for name, parts in _sections(document)]
    body = [
        tag("h1", title),
        _facts(document, digest, data),
        _result(document),
        sections,
        _signatures(digest),
    ]
    head = tag("head", META, tag("title", f"{title}, {time(document['made'])}"), style)
    return f'<!doctype html>\n<html lang="en">{head}{tag("body", tag("main", body))}</html>\n'


def _sections(found: Json) -> Iterator[tuple[str, Content]]:
    yield "Versions", _versions(found)
    yield "Traffic", _traffic(found)
    if found["rollout"] is not None or found["guardrails"] is not None:
        yield "Guardrails", guardrails(found)
    yield "Metrics", metrics(found)
    if found["contextual"] is not None:
        yield "By segment", segments(found)
    if found["agreement"]:
        yield "Shadows", shadows(found)
    yield "Alarms", _alarms(found)
    yield "History", _history(found)
    yield (
        "What this rests on, and what was not tested",
        tag("ul", [tag("li", one) for one in found["limits"]]),
    )


# The head --------------------------------------------------------------------------------------------------
def _facts(found: Json, digest: str, data: bytes) -> Html:
    config, rollout, begin = found["configuration"], found["rollout"], found["first_decision"]
    url = f"data:application/json;base64,{base64.b64encode(data).decode()}"
    link = tag("a", "the data of this page (JSON)", href=url, download=f"{found['route']}-report.json")
    author = f" by {config['author']} at {time(config['time'])}" if config["time"] is not None else ""
    bound = f"; decisions after {time(found['since'])}" if found["since"] is not None else ""
    period = f"{time(begin)} to {time(found['as_of'])}" if begin is not None else "no decision yet"
    facts = {
        "Policy": found["policy"] + (f": {_phase(rollout)}" if rollout is not None else ""),
        "Period": period + bound,
        "Configuration": f"revision {config['revision']}{author}; epoch {found['epoch']}",
        "Gateway": f"{found['gateway']}, Turnout {found['version']}",
        "Made": time(found["made"]) + (f" with the key {found['made_by']}" if found["made_by"] else ""),
        "SHA-256": [tag("code", digest), " of ", link],
    }
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", fact)) for name, fact in facts.items()]
    return tag("table", rows, class_="facts")


def _phase(rollout: Json) -> str:
    stage = f"stage {rollout['stage'] + 1}" if rollout["phase"] == "canary" else rollout["phase"]
    return f"{words(rollout['state'])}, {stage}"


def _result(found: Json) -> Html:
    return tag("div", [tag("p", line) for line in _conclusions(found)], class_="result")


def _conclusions(found: Json) -> Iterator[str]:
    rollout, stop, candidate = found["rollout"], found["stop"], found["candidate"]
    if rollout is not None:
        given = share(found["allocation"].get(candidate, 0.0))
        state = words(rollout["state"]).capitalize()
        yield f"{state}: {candidate} has {given} of the traffic; baseline {found['baseline']}."
        reasons = "; ".join(found["verdict"]["reasons"])
        yield f"Verdict: {found['verdict']['verdict']}{f' ({reasons})' if reasons else ''}."
    if stop is not None and stop["winner"] is not None:
        kind, lead = kind_of(found["metric"] or "", found["metrics"]), stop["lead"]
        ahead = (
            f", ahead of {lead['over']} by at most about {loss(lead['shrunk'], kind)} (observed: "
            f"{loss(lead['difference'], kind)}, biased upwards since the winner was selected)"
            if lead is not None
            else ""
        )
        yield f"The stop rule: {stop['winner']} has won ({words(stop['state'])}, by {stop['by']}){ahead}."
    for metric, one in found["standings"].items():
        best = f"{one['leader']} is best" if one["leads"] else "no variant is shown to be best"
        yield f"{metric}: {best}{', ' + one['last'] + ' is worst' if one['trails'] else ''}."
    for name, one in (found["agreement"] or {}).items():
        yield f"The shadow {name} agrees in {share(one['rate'])} of {number(one['compared'])} responses."
    if found["contextual"] is not None:
        yield "Which variant is best depends on the features of the request."
    elif rollout is None and not found["standings"] and not found["agreement"]:
        yield "Nothing is compared: no metric has values of two variants."


# Versions and traffic --------------------------------------------------------------------------------------
def _versions(found: Json) -> Iterator[Html]:
    config, shadows, engine = found["configuration"]["route"], found["shadows"] or {}, found["engine"]
    rows = []
    for name in found["variants"]:
        roles = [role for role in ("baseline", "candidate") if found[role] == name]
        given = f"copies: {share(shadows[name])}" if name in shadows else share(found["allocation"].get(name))
        version = _version(config["variants"].get(name) or {}) if config is not None else "not read"
        addresses = ", ".join(f"{a['address']} ({a['state']})" for a in found["health"].get(name, ()))
        rows.append([name, ", ".join(roles) or NONE, given, version or NONE, addresses or NONE])
    yield table("When this page was made", ["Variant", "Role", "Share", "Version", "Addresses"], rows)
    if config is not None:
        yield tag(
            "p", "Policy as configured: ", tag("code", json.dumps(config["policy"], ensure_ascii=False))
        )
    if engine is not None:
        states = ", ".join(f"{node['node']} {node['state']}" for node in engine["nodes"]) or "none"
        yield tag("p", f"Served by the engine {engine['engine']} ({engine['type']}); nodes: {states}.")


def _version(variant: Json) -> str:
    parts = [*filter(None, [variant.get("backend")]), *variant.get("urls", ())]
    parts += [f"{key} {part}" for key, part in variant.get("rewrite", {}).items()]
    parts += [f"sets {name}" for name in variant.get("headers", ())]
    if variant.get("payload") is not None:
        parts.append(f"payload {json.dumps(variant['payload'], ensure_ascii=False)}")
    return ", ".join(map(str, parts))


def _traffic(found: Json) -> Iterator[Html]:
    variants, ratio = found["variants"], found["sample_ratio"]
    total = sum(one["assigned"] for one in variants.values())
    counts = ("assigned", "expected", "served", "errors", "fallbacks")
    rows = [
        [name, share(one["assigned"] / total if total else None), *(number(one[key]) for key in counts)]
        for name, one in variants.items()
    ]
    caption = f"{number(total)} decisions; expected: the sum of their propensities"
    yield table(caption, ["Variant", "Share", *(key.capitalize() for key in counts)], rows)
    yield tag("p", tag("b", f"Sample-ratio check: {ratio['result']}."), f" {ratio['message']}")
    if len(variants) > 1 and found["traffic"]:
        rows = [_moment(bucket, variants) for bucket in found["traffic"]]
        yield table("Shares over time; in brackets: as allocated", ["From", "Requests", *variants], rows)


def _moment(bucket: Json, names: Iterable[str]) -> list[Content]:
    shown = {name: bucket["variants"][name] for name in names if name in bucket["variants"]}
    cells = [
        f"{share(shown[name]['share'])} ({share(shown[name]['allocated'])})" if name in shown else NONE
        for name in names
    ]
    return [time(bucket["start"]), number(sum(one["assigned"] for one in shown.values())), *cells]


# What happened ---------------------------------------------------------------------------------------------
def _alarms(found: Json) -> Html:
    every = [*found["alarms"], *(found["gateway_alarms"] or ())]
    if not every:
        return tag("p", "None stands, and none is in the history.")
    rows = [
        [
            time(one.get("since")),
            time(one["until"]) if one.get("until") else "stands",
            one["code"],
            one["message"],
        ]
        for one in every
    ]
    return table("Of the route and of the whole gateway", ["Since", "Until", "Alarm", "When raised"], rows)


def _history(found: Json) -> Iterator[Html]:
    steps = found["history"]
    rows = [[time(step["time"]), *_step(step, found["metrics"])] for step in steps[:MAX_STEPS]]
    caption = "Newest first, with the evidence as it stood"
    yield table(caption, ["Time", "Step", "By", "Reason and evidence"], rows)
    if len(steps) > MAX_STEPS:
        yield tag("p", f"{len(steps) - MAX_STEPS} earlier steps are in the data.")


def _step(step: Json, declared: Json) -> tuple[str, str, Content]:
    """What happened, who took the step, and why."""
    kind, data = step["kind"], step["data"]
    by, why = data.get("actor") or data.get("by") or data.get("author") or NONE, data.get("reason", "")
    weight = f" at {share(data['weight'])}" if data.get("weight") is not None else ""
    if kind == "rollout" and "target" in data:
        what = " → ".join(dict.fromkeys(words(data[end]) for end in ("source", "target") if data.get(end)))
        what, by = f"{what}, candidate{weight}", data.get("actor") or "the rollout"
    elif kind == "winner":
        what = f"winner {data.get('winner') or NONE}: {words(data.get('state'))}"
    elif kind in ("note", "config"):
        what = "note" if kind == "note" else f"configuration revision {data['revision']}"
        why = data.get("text", "")
    else:
        about = [data.get(key) for key in ("action", "variant", "code")]
        what = " ".join([words(kind), *(words(one) for one in about if one is not None)]) + weight
        why = why or data.get("message", "")
    found = data.get("evidence") or ()
    kept = [one for one in ([found] if isinstance(found, dict) else found) if one.get("verdict")]
    evidence = [tag("li", _evidence(one, declared)) for one in kept]
    return what[:1].upper() + what[1:], by, [why, tag("ul", evidence) if evidence else None]


def _evidence(one: Json, declared: Json) -> Content:
    one = {"unit": "requests", "reason": "", **one}  # earlier builds recorded neither
    limit, estimate, _ = judged(one, declared)
    why = f" ({one['reason']})" if one["reason"] else ""
    about = f", limit {limit}, {number(one['samples'])} {one['unit']}{why}"
    return [f"{one['metric']}: ", verdict(one), ", ", estimate, about]


def _signatures(digest: str) -> Html:
    text = tag("p", "The data of this page have the SHA-256 ", tag("code", digest), ".")
    header = ["Role", "Name", "Decision", "Date", "Signature"]
    lines = table("Signed for these data", header, [[who, "", "", "", ""] for who in SIGNERS])
    return tag("section", tag("h2", "Signatures"), text, lines, class_="sign")
