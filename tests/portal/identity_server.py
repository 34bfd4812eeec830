"""An institution: a server of OpenID Connect on loopback, made of authlib's server side, whose tokens can be twisted."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import flask
import pytest
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import AuthorizationCodeMixin, ClientMixin, grants
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import OpenIDCode
from joserfc import jwt
from joserfc.jwk import RSAKey
from werkzeug.serving import make_server

from volumetool.portal.access import institution

CLIENT, SECRET = "volumetool", "the-client-secret-of-this-portal"
KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})


@dataclass
class Code(AuthorizationCodeMixin):
    """An authorization code: what it was asked with."""

    code: str
    redirect_uri: str
    scope: str
    nonce: str | None
    code_challenge: str | None
    code_challenge_method: str | None

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str | None:
        return self.nonce

    def get_auth_time(self) -> None:
        return None

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


class Client(ClientMixin):
    """The portal, as it is registered."""

    client_id = CLIENT

    def __init__(self, callbacks: set[str]) -> None:
        self._callbacks = callbacks

    def get_client_id(self) -> str:
        return CLIENT

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri in self._callbacks

    def check_client_secret(self, client_secret: str) -> bool:
        return secrets.compare_digest(client_secret, SECRET)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return (method, endpoint) == ("client_secret_basic", "token")

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


@dataclass
class IdentityServer:
    """An institution that is served.

    Attributes
    ----------
    person : dict
        Claims of whoever logs in next.
    description : dict
        What it says of itself otherwise than it is.
    keys : list
        Keys that it shows.
    twist : callable
        Makes a token of claims.
    callbacks : set of str
        Where it sends browsers back to.
    answers : dict
        By path, what it answers in place of the truth.
    has_form : bool
        Whether it shows a page on which somebody logs in, as for a browser; otherwise it takes that for done.
    """

    person: dict[str, Any] = field(default_factory=lambda: {"sub": "ada-1815"})
    description: dict[str, Any] = field(default_factory=dict)
    keys: list[dict[str, Any]] = field(default_factory=lambda: [KEY.as_dict(private=False)])
    twist: Callable[[dict[str, Any]], str] | None = None
    callbacks: set[str] = field(default_factory=set)
    answers: dict[str, Callable[[], Any]] = field(default_factory=dict)
    codes: dict[str, Code] = field(default_factory=dict)
    issuer: str = ""
    has_form: bool = False

    def plain(self) -> None:
        """Let it be honest again."""
        self.description, self.twist, self.answers = {}, None, {}
        self.person, self.keys = {"sub": "ada-1815"}, [KEY.as_dict(private=False)]

    def described(self) -> dict[str, Any]:
        """Return what it says of itself."""
        told = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            "authorization_response_iss_parameter_supported": True,
        }
        return told | self.description


def sign(claims: dict[str, Any], key: Any = KEY, **header: Any) -> str:
    """Return a token of claims."""
    head = {"alg": "RS256", "kid": "one"} | header
    return jwt.encode(head, claims, key, [head["alg"]])


class Tokens(OpenIDCode):
    """Tokens of whoever logs in, twisted."""

    def __init__(self, server: IdentityServer) -> None:
        super().__init__(require_nonce=True)
        self._server = server

    def exists_nonce(self, nonce: str, request: Any) -> bool:  # noqa: ARG002
        return any(code.nonce == nonce for code in self._server.codes.values())

    def generate_user_info(self, user: dict[str, Any], scope: str) -> dict[str, Any]:  # noqa: ARG002
        return user

    def get_client_claims(self, client: Client) -> dict[str, Any]:  # noqa: ARG002
        return {"iss": self._server.issuer, "aud": CLIENT}

    def get_client_algorithm(self, client: Client) -> str:  # noqa: ARG002
        return "RS256"

    def get_encode_header(self, client: Client) -> dict[str, Any]:  # noqa: ARG002
        return {"alg": "RS256", "kid": "one"}

    def resolve_client_private_key(self, client: Client) -> Any:  # noqa: ARG002
        return KEY

    def encode_id_token(self, token: dict[str, Any], request: Any) -> str:
        claims = jwt.decode(super().encode_id_token(token, request), KEY, ["RS256"]).claims
        return (self._server.twist or sign)(claims)


def _grant(server: IdentityServer) -> tuple[type, list[Any]]:
    class CodeGrant(grants.AuthorizationCodeGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic",)

        def save_authorization_code(self, code: str, request: Any) -> None:
            given = request.payload.data
            asked = {name: given.get(name) for name in ("nonce", "code_challenge", "code_challenge_method")}
            server.codes[code] = Code(code, given["redirect_uri"], given["scope"], **asked)

        def query_authorization_code(self, code: str, client: Client) -> Code | None:  # noqa: ARG002
            return server.codes.get(code)

        def delete_authorization_code(self, authorization_code: Code) -> None:
            del server.codes[authorization_code.code]

        def authenticate_user(self, authorization_code: Code) -> dict[str, Any]:  # noqa: ARG002
            return server.person

    return CodeGrant, [Tokens(server), CodeChallenge(required=True)]


def _app(server: IdentityServer) -> flask.Flask:
    app = flask.Flask(__name__)
    authorization = AuthorizationServer(
        app,
        query_client=lambda name: Client(server.callbacks) if name == CLIENT else None,
        save_token=lambda token, request: None,  # noqa: ARG005
    )
    authorization.register_grant(*_grant(server))

    @app.before_request
    def _() -> Any:
        return server.answers[flask.request.path]() if flask.request.path in server.answers else None

    @app.get("/.well-known/openid-configuration")
    def _describe() -> Any:
        return flask.jsonify(server.described())

    @app.get("/keys")
    def _keys() -> Any:
        return flask.jsonify({"keys": server.keys})

    @app.route("/authorize", methods=["GET", "POST"])
    def _authorize() -> Any:
        if server.has_form and flask.request.method == "GET":
            return "<title>Example University</title><form method=post><button>I am who I am</button></form>"
        grant = authorization.get_consent_grant(end_user=server.person)
        answer = authorization.create_authorization_response(grant_user=server.person, grant=grant)
        answer.headers["Location"] += f"&iss={server.issuer}"  # RFC 9207
        return answer

    @app.post("/token")
    def _token() -> Any:
        return authorization.create_token_response()

    return app


@contextmanager
def serve_identities() -> Iterator[IdentityServer]:
    """Serve an institution while the block runs; the portal waits for it longer than usual, as for one on a busy machine."""
    server = IdentityServer()
    served = make_server("127.0.0.1", 0, _app(server), threaded=True)
    server.issuer = f"http://127.0.0.1:{served.server_port}"
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(institution, "_WAIT", 120)
        patch.setattr(institution, "MOST_SECONDS", 120)
        try:
            yield server
        finally:
            served.shutdown()
            thread.join()
            served.server_close()
