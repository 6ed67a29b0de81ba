"""The documentation says what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from tileserver import formats
from tileserver.params import RESERVED

ROOT = Path(__file__).parent.parent


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs", ROOT / "scripts/docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["settings.md", "commands.md"])
def test_generated_pages_are_up_to_date(name: str) -> None:
    """``python scripts/docs.py`` writes them from the settings table and the commands."""
    assert (ROOT / "docs" / name).read_text() == _generator().PAGES[name]()


def test_every_format_and_reserved_name_is_documented() -> None:
    """docs/http.md, by name and by extension."""
    text = (ROOT / "docs/http.md").read_text()
    words = set(re.findall(r"[\w.]+", text))

    assert {row.name for row in formats.FORMATS.values()} <= words
    assert {
        f".{extension}"
        for row in formats.FORMATS.values()
        for extension in row.extensions
        if extension != "jpeg"
    } - words <= {f".{name}" for name in formats.FORMATS}
    assert RESERVED - {"", "fused_session_token"} <= words


def test_links_between_the_documents_lead_somewhere() -> None:
    """Files only; the README, the manual and what they point to."""
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} points to {target}"
