"""An issuer of tokens: real keys, and a real HTTP server for its key set."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from support.http_server import serving_http

AUDIENCE = "user-service"
MAKERS: dict[str, Any] = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "PS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


def make_jwk(private: Any, key_id: str) -> dict[str, Any]:
    public = private.public_key()
    if isinstance(private, rsa.RSAPrivateKey):
        jwk = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(private, ec.EllipticCurvePrivateKey):
        jwk = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        jwk = OKPAlgorithm.to_jwk(public, as_dict=True)
    return {**jwk, "kid": key_id, "use": "sig"}


class Issuer:
    """Signs tokens with any of its keys; `document` is what its server answers, `status` how."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.jwks_url = f"{self.url}/keys"
        self.private: dict[str, Any] = {}
        self.algorithms: dict[str, str] = {}
        self.document: bytes | None = None
        self.status = 200
        self.asked = 0
        self.authorization: str | None = None

    def add_key(self, algorithm: str = "ES256", key_id: str | None = None) -> str:
        key_id = key_id or f"key-{algorithm}-{len(self.private)}"
        self.private[key_id] = MAKERS[algorithm]()
        self.algorithms[key_id] = algorithm
        return key_id

    def key_set(self) -> bytes:
        if self.document is not None:
            return self.document
        return json.dumps({"keys": [make_jwk(key, key_id) for key_id, key in self.private.items()]}).encode()

    def claims(self, **others: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": "person-1", "iat": now, "exp": now + 300, **others}
        return {name: value for name, value in claims.items() if value is not ...}

    def token(self, *, key_id: str | None = None, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """A good token, except for what is said otherwise; a claim of `...` is left out."""
        key_id = key_id or next(iter(self.private))
        return jwt.encode(
            self.claims(**claims),
            self.private[key_id],
            algorithm=self.algorithms[key_id],
            headers={"kid": key_id, **(headers or {})},
        )


@contextmanager
def issuer() -> Iterator[Issuer]:
    """An issuer with one EC key, served until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked += 1
            made.authorization = self.headers.get("Authorization")
            body = made.key_set()
            self.send_response(made.status)
            if made.status in {301, 302}:
                self.send_header("Location", made.url + "/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Issuer(server.server_address[1])
    made.add_key()
    with serving_http(server):
        yield made
