"""Request ids and W3C trace context: accepted from the caller when they are well formed, made otherwise."""

import re
from binascii import hexlify
from random import SystemRandom, getrandbits
from typing import Final

REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
TRACEPARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?"
)
PROCESS: Final = b"%08x" % SystemRandom().getrandbits(32)
# Neither the trace id nor the span id may be all zeros.
NOT_ZERO: Final = 1 << 64 | 1


def choose_request_id(given: bytes | None) -> bytes:
    """The caller's request id when it is well formed, else a new one."""
    if given is not None and REQUEST_ID.fullmatch(given):
        return given
    return PROCESS + hexlify(getrandbits(64).to_bytes(8))


def continue_trace(given: bytes | None) -> bytes:
    """The traceparent of this service's span: in the caller's trace when it is well formed, else in a new trace."""
    if given is not None and (match := TRACEPARENT.fullmatch(given)) and (match[1] != b"00" or match[4] is None):
        return b"00-%b-%016x-%b" % (match[2], getrandbits(64) | 1, match[3])
    fresh = hexlify((getrandbits(192) | NOT_ZERO).to_bytes(24))
    return b"00-%b-%b-00" % (fresh[:32], fresh[32:])
