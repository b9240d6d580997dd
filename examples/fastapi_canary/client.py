"""Send requests, and report whether each prediction was right."""

import random
from collections import Counter

from turnout import Client

statuses: Counter[int] = Counter()
with Client("http://127.0.0.1:8080") as client:
    for _ in range(400):
        x = [random.uniform(-1, 1) for _ in range(3)]
        response = client.post("/predict", json={"x": x})
        statuses[response.status_code] += 1
        if response.is_success:
            response.decision.reward("correct", response.json()["positive"] == (sum(x) > 0))
print(dict(statuses))
