"""The command line: every command takes ``--workspace`` and ``--json``, and ends with 0, 1 or 2.

Errors go to standard error as one line without a traceback; what a command makes goes to standard output.
"""

from tileserver.cli.base import main
from tileserver.cli.canvases import canvas_group
from tileserver.cli.machine import cache_group, doctor
from tileserver.cli.serving import demo, init, serve
from tileserver.cli.tokens import shared_token_group, token_group
from tileserver.cli.udfs import udf_group
from tileserver.cli.vault import secret_group

for _part in (
    *(serve, demo, init, canvas_group, udf_group, token_group, shared_token_group, secret_group),
    *(cache_group, doctor),
):
    main.add_command(_part)

__all__ = ["main"]
