"""Signatures of events for a sink, by Standard Webhooks: https://www.standardwebhooks.com"""

import hmac
from base64 import b64encode
from collections.abc import Sequence


def make_signature_headers(event_id: str, body: bytes, secrets: Sequence[bytes], *, timestamp: int) -> dict[str, str]:
    """The headers that sign one attempt; none without a secret. `timestamp` is in seconds since 1970.

    There is one signature for each secret, so that a receiver that has any of them accepts the event.
    """
    if not secrets:
        return {}
    signed = b"%s.%d.%s" % (event_id.encode(), timestamp, body)
    signatures = (b64encode(hmac.digest(secret, signed, "sha256")).decode() for secret in secrets)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
