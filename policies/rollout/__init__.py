"""The life of a canary: its table of states, its guardrails, its verdicts."""
