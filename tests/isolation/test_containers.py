"""As root in a container, which has not all of root's powers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up some of root's powers")
LAUNCHER = Path(__file__).parent / "contained.py"


def examined(workspace: Path) -> dict[str, Any]:
    """What the doctor says there."""
    workspace.chmod(0o755)
    told = subprocess.run(
        [
            *(sys.executable, str(LAUNCHER), str(workspace), "--"),
            *(sys.executable, "-m", "tileserver", "doctor", "--workspace", str(workspace), "--json"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(LAUNCHER.parent.parent.parent)},
    )
    assert told.returncode == 0, told.stderr
    facts: dict[str, Any] = json.loads(told.stdout)["sandbox"]
    return facts


def test_workers_have_users_of_their_own_there(tmp_path: Path) -> None:
    """Without the power to read everything, where they can read all they need without it."""
    facts = examined(tmp_path)

    assert facts["level"] == "A", facts
    assert set(facts["works"].values()) == {"yes"}
    assert not any("users of their own" in note for note in facts["notes"])


def test_connections_are_judged_there(tmp_path: Path) -> None:
    """By a supervisor that must see into its worker, without root's power to do so."""
    (tmp_path / "tileserver.toml").write_text('network = "public"\n')

    facts = examined(tmp_path)

    assert facts["level"] == "A", facts
    assert "Permission denied" in facts["attacks"]["connect to this machine"]
