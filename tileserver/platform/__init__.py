"""The platform's routes, below ``/server/v1``: what the Python client of Fused asks for besides shared UDFs.

All of them need an access token, but for those that say otherwise.
"""

from __future__ import annotations

from typing import Final

from tileserver.platform import registry, running, tokens
from tileserver.platform.running import SHARED_ROUTES, make_runs

__all__ = ["ROUTES", "SHARED_ROUTES", "make_runs"]

# Below the platform's root.
ROUTES: Final = (*running.ROUTES, *registry.ROUTES, *tokens.ROUTES)
