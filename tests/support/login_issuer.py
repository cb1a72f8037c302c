"""An issuer at which persons sign in: OpenID Connect's authorization code flow with PKCE, for public clients."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import uuid4

from support.http_server import serving_http
from support.issuer import Issuer

CLIENT_ID: Final = "user-service-admin"


@dataclass
class Login:
    """Signs everyone in as the person `subject`. `errors` are what it answers in place of a code or a token."""

    tokens: Issuer
    subject: str = "person-1"
    scope: str = "users:read users:write"
    errors: dict[str, str] = field(default_factory=dict)
    state: str | None = None
    has_refresh: bool = False
    is_open: bool = True
    lifetime_seconds: int = 300
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    refresh_tokens: set[str] = field(default_factory=set)
    granted: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.tokens.url

    def document(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
        }

    def authorize(self, query: dict[str, str]) -> str:
        """Where the browser is sent to."""
        assert query["response_type"] == "code"
        assert query["client_id"] == CLIENT_ID
        assert query["code_challenge_method"] == "S256"
        answer = {"state": self.state or query["state"], "iss": self.url}
        if "authorize" in self.errors:
            answer |= {"error": "access_denied", "error_description": self.errors["authorize"]}
        else:
            code = uuid4().hex
            self.codes[code] = query
            answer["code"] = code
        return f"{query['redirect_uri']}?{urlencode(answer)}"

    def exchange(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """The status and the document for a code and its verifier, or for a refresh token; each is used once."""
        if "token" in self.errors:
            return 400, {"error": "invalid_grant", "error_description": self.errors["token"]}
        if form["grant_type"] == "refresh_token":
            known = form["refresh_token"] in self.refresh_tokens
            self.refresh_tokens.discard(form["refresh_token"])
        else:
            asked = self.codes.pop(form["code"], None)
            digest = sha256(form["code_verifier"].encode()).digest()
            challenge = urlsafe_b64encode(digest).rstrip(b"=").decode()
            known = asked is not None and (asked["code_challenge"], asked["redirect_uri"], asked["client_id"]) == (
                challenge,
                form["redirect_uri"],
                form["client_id"],
            )
        if not known:
            return 400, {"error": "invalid_grant"}
        self.granted.append(form["grant_type"])
        claims = self.tokens.claims()
        token = self.tokens.token(sub=self.subject, scope=self.scope, exp=claims["iat"] + self.lifetime_seconds)
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": self.lifetime_seconds}
        if self.has_refresh:
            answer["refresh_token"] = uuid4().hex
            self.refresh_tokens.add(answer["refresh_token"])
        return 200, answer


@contextmanager
def login_issuer() -> Iterator[Login]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
            if path == "/authorize":
                self.send_response(302)
                self.send_header("Location", login.authorize({name: values[0] for name, values in query.items()}))
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif path == "/keys":
                self.reply(200, login.tokens.key_set())
            elif login.is_open:
                self.reply(200, json.dumps(login.document()).encode())
            else:
                self.reply(503, b"{}")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            status, document = login.exchange({name: values[0] for name, values in parse_qs(body).items()})
            self.reply(status, json.dumps(document).encode())

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Access-Control-Allow-Origin", self.headers.get("Origin", "null"))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    login = Login(Issuer(server.server_address[1]))
    login.tokens.add_key()
    with serving_http(server):
        yield login
