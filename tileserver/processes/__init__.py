"""Several web processes that are one server (``http_workers``).

A supervisor holds the listening socket and forks the web processes. One of them, the owner, is the whole
application; the others hand to it what they can't answer themselves. So there is one pool, one queue, one
table of runs under way and one writer of the cache, and nothing has to be locked between processes.
"""

from tileserver.processes.acceptor import Acceptor
from tileserver.processes.door import Door
from tileserver.processes.relay import Relay
from tileserver.processes.supervisor import Place, Supervisor

__all__ = ["Acceptor", "Door", "Place", "Relay", "Supervisor"]
