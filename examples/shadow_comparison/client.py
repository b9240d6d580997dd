"""Send 200 numbers from 0 to 1."""

import httpx

with httpx.Client(base_url="http://127.0.0.1:8080") as client:
    for number in range(200):
        client.post("/classify", json={"x": number / 200}).raise_for_status()
