"""The IANA time zones, from the tzdata wheel, so that every machine knows the same ones."""

from functools import cache
from importlib.resources import files


@cache
def zones() -> frozenset[str]:
    return frozenset((files("tzdata") / "zones").read_text(encoding="ascii").split())
