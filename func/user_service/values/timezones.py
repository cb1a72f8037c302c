"""The IANA time zones of the tzdata wheel, so that all machines accept the same ones."""

from functools import cache
from importlib.resources import files


@cache
def zones() -> frozenset[str]:
    return frozenset((files("tzdata") / "zones").read_text(encoding="ascii").split())
