"""Chat through the openai SDK, and report whether the user liked the reply."""

import random

import openai

import turnout

GATEWAY = "http://127.0.0.1:8080"

with turnout.Client(GATEWAY) as gateway, openai.OpenAI(base_url=f"{GATEWAY}/v1", api_key="unused") as sdk:
    turnout.attach(sdk, gateway)
    for number in range(500):
        with turnout.capture() as decisions:
            completion = sdk.chat.completions.create(
                model="assistant", messages=[{"role": "user", "content": f"Hello {number}"}]
            )
        calm = completion.choices[0].message.content.islower()
        decisions[0].reward("liked", random.random() < (0.8 if calm else 0.3))
