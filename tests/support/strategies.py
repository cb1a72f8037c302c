"""Strategies of hypothesis that several tests use."""

from hypothesis import strategies as st

LABEL = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,10}[A-Za-z0-9])?", fullmatch=True)
LOCAL = st.from_regex(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)?", fullmatch=True)
ASCII_ADDRESS = st.builds("{}@{}.{}".format, LOCAL, LABEL, st.sampled_from(["org", "EXAMPLE", "Co"]))
