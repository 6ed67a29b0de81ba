"""``python -m tileserver``."""

from tileserver.cli import main

main()
