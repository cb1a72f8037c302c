"""kn func's contract: a package of this name with `new`."""

from user_service.entrypoints.kn import new

__all__ = ["new"]
