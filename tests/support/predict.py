"""The least configuration that serves: one route, which the gateway answers itself since its backend is nowhere."""

PREDICT = """\
backends: {models: {url: "http://127.0.0.1:1"}}
routes:
  predict:
    match: {path: /predict}
    variants: {v1: {backend: models}}
    policy: {type: single, variant: v1}
    fallback: [{respond: {status: 200, text: sound}}]
"""
