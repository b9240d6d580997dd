"""All endpoints of the control API. Routes, checks, /-/openapi.json and the test of the docs come from here."""

from __future__ import annotations

from typing import Final

from gateway.control.endpoint import Endpoint
from gateway.control.handlers import (
    config,
    dashboard,
    decide,
    engines,
    events,
    feedback,
    health,
    history,
    models,
    pictures,
    record,
    rollout,
    routes,
    verdict,
)

ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    *decide.endpoints,
    *feedback.endpoints,
    *health.endpoints,
    *routes.endpoints,
    *history.endpoints,
    *pictures.endpoints,
    *rollout.endpoints,
    *verdict.endpoints,
    *config.endpoints,
    *record.endpoints,
    *events.endpoints,
    *models.endpoints,
    *engines.endpoints,
    *dashboard.endpoints,
)
