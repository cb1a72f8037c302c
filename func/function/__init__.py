"""The package that kn func imports: it calls `new`."""

from user_service.entrypoints.kn import new

__all__ = ["new"]
