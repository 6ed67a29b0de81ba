"""What posted code has left behind, once its access token is no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tileserver.access import Access
from tileserver.tidying import tidy


def leave(state: Path, *folders: str) -> None:
    for name in folders:
        (state / name).mkdir(parents=True)
        (state / name / "file").write_text("x")


def test_folders_of_unknown_tokens_are_deleted(tmp_path: Path) -> None:
    """Working folders and caches, those of code added to a canvas, too; canvases and tokens keep theirs."""
    leave(tmp_path, "posted/old", "posted/new", "posted/doctor")
    leave(tmp_path, "udf-cache/@old", "udf-cache/@old.city", "udf-cache/@new.city", "udf-cache/city")

    assert tidy(tmp_path, lambda: {"new"}) == 3

    assert sorted(path.name for path in (tmp_path / "posted").iterdir()) == ["doctor", "new"]
    assert sorted(path.name for path in (tmp_path / "udf-cache").iterdir()) == ["@new.city", "city"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """What it leads to is somebody else's."""
    leave(tmp_path, "elsewhere", "state/posted/new")
    (tmp_path / "state/posted/old").symlink_to(tmp_path / "elsewhere")

    assert tidy(tmp_path / "state", lambda: {"new"}) == 0
    assert (tmp_path / "elsewhere/file").exists()


def test_revoking_a_token_deletes_what_its_code_kept(tmp_path: Path) -> None:
    """By the command, of this token only."""
    access = Access(tmp_path / ".tileserver")
    first, _ = access.create_token("first")
    second, _ = access.create_token("second")
    access.close()
    leave(tmp_path / ".tileserver", f"posted/{first}", f"posted/{second}", f"udf-cache/@{first}")

    command = [sys.executable, "-m", "tileserver", "token", "revoke", first, "--workspace", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)

    assert [path.name for path in (tmp_path / ".tileserver/posted").iterdir()] == [second]
    assert list((tmp_path / ".tileserver/udf-cache").iterdir()) == []
