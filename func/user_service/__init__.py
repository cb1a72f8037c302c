"""User Service: the user directory of a microservice backend."""

__version__ = "0.1.0"
