"""Everything that may crash or hang runs in a `Worker`: building, running and timing code."""

from codesign.worker.process import UNLOADABLE, Failure, Reply, Worker, worker_environment

__all__ = ["UNLOADABLE", "Failure", "Reply", "Worker", "worker_environment"]
