"""The platform's routes, below ``/server/v1``: what the Python client of Fused asks for besides shared UDFs.

All of them need an access token, but for those that say otherwise.
"""

from __future__ import annotations

from typing import Final

from tileserver.platform import canvases, registry, running, saved, sessions, stored_secrets, tokens
from tileserver.platform.running import SHARED_ROUTES, make_runs

__all__ = ["ROUTES", "SHARED_ROUTES", "make_runs"]

# Below the platform's root.
ROUTES: Final = (
    *running.ROUTES,
    *saved.ROUTES,
    *stored_secrets.ROUTES,
    *sessions.ROUTES,
    *registry.ROUTES,
    *canvases.ROUTES,
    *tokens.ROUTES,
)
