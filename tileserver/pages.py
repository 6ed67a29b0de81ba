"""PLACEHOLDER by the lead: to be overwritten by its owner."""
from __future__ import annotations
import secrets
from typing import Any
def new_nonce() -> str:
    return secrets.token_urlsafe(16)
def headers(nonce: str) -> dict[str, str]:
    return {"content-security-policy": content_security_policy(nonce), "cache-control": "no-store"}
def content_security_policy(nonce: str) -> str:
    return "default-src 'none'"
def map_page(**k: Any) -> str:
    return "<p>map"
def canvas_page(title: str, description: str, udfs: list[Any], base: str, nonce: str) -> str:
    return "<p>" + ", ".join(u.name for u in udfs)
def home_page(version: str, tokens: list[str], nonce: str) -> str:
    return "<p>tileserver"
