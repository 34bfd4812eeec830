"""The login of an institution (OpenID Connect): what the operator says of it, and whom it says somebody is.

The rules are those of OpenID Connect Core 1.0, section 3.1 (authorization code), RFC 7636 (PKCE), RFC 9207 (the issuer in the
answer) and RFC 9700 (best practice); the signature and the claims of tokens are checked by joserfc and authlib.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from requests.adapters import HTTPAdapter

from volumetool.errors import ConfigError
from volumetool.listening.gate import is_loopback
from volumetool.version import __version__

SECRET = "VOLUMETOOL_OIDC_SECRET"  # noqa: S105  (the variable's name)
"""Environment variable of the secret that the institution gave to the portal."""

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
"""Signatures that are believed: those that the institution alone can make, which excludes none and shared secrets."""

LEEWAY = 30
"""Seconds by which two clocks may differ."""

MOST_BYTES, MOST_SECONDS = 2**18, 10
"""Of an answer of the institution."""

_WAIT = 5
"""Seconds until it begins to answer, and between two parts of an answer."""


class Members(BaseModel):
    """A claim by which everybody of an institution has an account.

    Attributes
    ----------
    claim, value : str
        Name of the claim, and what it holds; of `email` the end, with the @, of an address that the institution has verified.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    claim: str = Field(min_length=1)
    value: str = Field(min_length=2)

    @model_validator(mode="after")
    def _whole_domain(self) -> Members:
        if self.claim == "email" and not self.value.startswith("@"):
            raise ValueError(f"value {self.value!r} of the claim email is no domain; write it with its @, such as @example.org")
        return self

    def include(self, claims: Mapping[str, Any]) -> bool:
        """Return whether somebody with these claims is one of them."""
        held = claims.get(self.claim)
        if self.claim == "email":
            verified = claims.get("email_verified") is True
            return verified and isinstance(held, str) and held.lower().endswith(self.value.lower())
        return held == self.value or (isinstance(held, list) and self.value in held)


class Institution(BaseModel):
    """What the operator says of the institution whose login is taken.

    Attributes
    ----------
    issuer : str
        Its URL, to the letter as it says it itself.
    client_id : str
        Name that it gave to the portal.
    client_secret_file : Path, optional
        File of the secret that it gave to the portal; by default the secret is in the environment, and there may be none.
    name : str, optional
        What it is called on the pages.
    scopes : tuple of str
        What is asked of it.
    hosts : tuple of str
        Other hosts that its own description may name.
    accounts : str or Members
        Who gets an account.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    issuer: str
    client_id: str = Field(min_length=1)
    client_secret_file: Path | None = None
    name: str | None = None
    scopes: tuple[str, ...] = ("openid",)
    hosts: tuple[str, ...] = ()
    accounts: Literal["by invitation"] | Members = "by invitation"

    @field_validator("scopes")
    @classmethod
    def _openid(cls, scopes: tuple[str, ...]) -> tuple[str, ...]:
        if "openid" not in scopes:
            raise ValueError(f"scopes {list(scopes)} are without openid, which says who somebody is")
        return scopes

    @model_validator(mode="after")
    def _encrypted(self) -> Institution:
        parts = urlsplit(self.issuer)
        if not self.reaches(self.issuer) or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(f"issuer {self.issuer!r} is not https://HOST or https://HOST/PATH")
        return self

    def reaches(self, url: object) -> bool:
        """Return whether a URL is the institution's own, or of a host that was named: by https, on loopback by http too."""
        own = urlsplit(self.issuer)
        try:
            parts = urlsplit(url if isinstance(url, str) else "")
            host = parts.hostname
            parts.port  # noqa: B018  (it raises where it is no number)
        except ValueError:
            return False
        if host is None or "@" in parts.netloc:
            return False
        if parts.scheme == "http":
            return is_loopback(host) and parts.netloc == own.netloc
        return parts.scheme == "https" and (parts.netloc == own.netloc or parts.netloc in self.hosts)

    @property
    def title(self) -> str:
        """What it is called on the pages."""
        return self.name or str(urlsplit(self.issuer).hostname)

    def secret(self) -> str | None:
        """Return the secret that it gave to the portal, None where there is none.

        Raises
        ------
        ConfigError
            ``config.file``: its file cannot be read.
        """
        if self.client_secret_file is None:
            return os.environ.get(SECRET) or None
        try:
            return self.client_secret_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                "config.file",
                f"the client's secret in {self.client_secret_file} cannot be read: {error}",
                hint=f"see `client_secret_file` in the settings, or put it into the environment variable {SECRET}",
            ) from error


class NotBelieved(Exception):  # noqa: N818  (no fault of the program)
    """An answer of the institution that says of nobody who they are; its text says why."""


@dataclass(frozen=True)
class Subject:
    """Somebody, as an institution knows them.

    Attributes
    ----------
    issuer, subject : str
        Name for ever.
    claims : mapping
        What else it says.
    """

    issuer: str
    subject: str
    claims: Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """What is known here of somebody who is being asked by the institution, and nobody else knows.

    Attributes
    ----------
    state, nonce, verifier : str
        Random words: of the way back, of the token, and of the code (PKCE).
    endpoints : mapping
        The institution's description of itself.
    """

    state: str
    nonce: str
    verifier: str
    endpoints: Mapping[str, Any]


class _Bounded(HTTPAdapter):
    """Reaches the institution alone, follows nothing, and reads answers of a bounded size in a bounded time."""

    def __init__(self, institution: Institution) -> None:
        super().__init__()
        self._institution = institution

    def send(self, request: requests.PreparedRequest, **given: Any) -> requests.Response:  # type: ignore[override]
        """Send a request of a session."""
        if not self._institution.reaches(request.url):
            raise NotBelieved("it names an address that is not its own")
        until = time.monotonic() + MOST_SECONDS
        answer = super().send(request, **(given | {"stream": True, "timeout": _WAIT}))
        body = b""
        for part in answer.iter_content(2**14):
            body += part
            if len(body) > MOST_BYTES or time.monotonic() > until:
                answer.close()
                raise NotBelieved("its answer is too long, or takes too long")
        if answer.is_redirect:
            raise NotBelieved("it leads to another address")
        answer._content = body
        return answer


class Provider:
    """The institution, as the portal speaks with it.

    Parameters
    ----------
    institution : Institution
        What the operator says of it.
    callback : str
        The portal's own URL to which it sends browsers back.
    """

    def __init__(self, institution: Institution, callback: str) -> None:
        self.institution = institution
        self._secret = institution.secret()
        self._callback = callback

    def describe(self) -> dict[str, Any]:
        """Return the institution's description of itself (OpenID Connect Discovery 1.0).

        Raises
        ------
        NotBelieved
            It cannot be had, is of somebody else, or does without PKCE.
        """
        place = f"{self.institution.issuer.rstrip('/')}/.well-known/openid-configuration"
        with self._session() as session:
            found = _read(session.get(place, withhold_token=True))
        if found.get("issuer") != self.institution.issuer:
            raise NotBelieved("it calls itself otherwise than the settings of this portal do")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not self.institution.reaches(found.get(name)):
                raise NotBelieved(f"its {name} is not at an address of its own")
        if "S256" not in found.get("code_challenge_methods_supported", ["S256"]):
            raise NotBelieved("it does not take the proof (PKCE, S256) that this portal sends")
        return found

    def url(self, question: Question) -> str:
        """Return where a browser is sent."""
        with self._session() as session:
            made = session.create_authorization_url(
                question.endpoints["authorization_endpoint"],
                state=question.state,
                nonce=question.nonce,
                code_verifier=question.verifier,
            )
        return str(made[0])

    def answered(self, question: Question, given: Mapping[str, str]) -> Subject:
        """Return whom the institution says somebody is, who came back with some parameters.

        Raises
        ------
        NotBelieved
            It says so of nobody, or in a way that anybody could.
        """
        told = given.get("iss")
        if told not in (None, self.institution.issuer) or (
            told is None and question.endpoints.get("authorization_response_iss_parameter_supported") is True
        ):
            raise NotBelieved("the answer is of another institution")
        if "error" in given:
            raise NotBelieved("it did not let you in")
        if not given.get("code"):
            raise NotBelieved("the answer has no code")
        with self._session() as session:
            methods = question.endpoints.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
            if self._secret is not None and "client_secret_basic" not in methods:
                session.token_endpoint_auth_method = "client_secret_post"  # noqa: S105  (a method's name)
            told_tokens = session.fetch_token(
                question.endpoints["token_endpoint"],
                grant_type="authorization_code",
                code=given["code"],
                code_verifier=question.verifier,
            )
            keys = _read(session.get(question.endpoints["jwks_uri"], withhold_token=True))
            return self._subject(question, told_tokens, keys)

    def _subject(self, question: Question, tokens: Mapping[str, Any], keys: Mapping[str, Any]) -> Subject:
        usable = [key for key in keys.get("keys", ()) if key.get("kty") in ("RSA", "EC") and key.get("use", "sig") == "sig"]
        token = jwt.decode(str(tokens.get("id_token", "")), KeySet.import_key_set({"keys": usable}), list(ALGORITHMS))
        claims = CodeIDToken(
            token.claims,
            token.header,
            {"iss": {"essential": True, "value": self.institution.issuer}, "sub": {"essential": True}},
            {"nonce": question.nonce, "client_id": self.institution.client_id, "access_token": tokens.get("access_token")},
        )
        claims.validate(leeway=LEEWAY)
        if claims["aud"] not in (self.institution.client_id, [self.institution.client_id]):
            raise NotBelieved("the token is for another program")
        if not 0 < len(claims["sub"]) <= 255:  # OpenID Connect Core 1.0, section 2
            raise NotBelieved("the token names nobody")
        return Subject(self.institution.issuer, claims["sub"], dict(claims))

    @contextmanager
    def _session(self) -> Iterator[OAuth2Session]:
        session = OAuth2Session(
            self.institution.client_id,
            self._secret,
            scope=" ".join(self.institution.scopes),
            redirect_uri=self._callback,
            code_challenge_method="S256",
        )
        session.headers["User-Agent"] = f"volumetool/{__version__}"
        for scheme in ("https://", "http://"):
            session.mount(scheme, _Bounded(self.institution))
        try:
            with session:
                yield session
        except requests.RequestException as error:
            raise NotBelieved(f"it cannot be reached ({type(error).__name__})") from error
        except AuthlibBaseError as error:
            raise NotBelieved("it does not take the code") from error
        except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise NotBelieved(f"its answer does not hold ({type(error).__name__})") from error


def _read(answer: requests.Response) -> dict[str, Any]:
    if answer.status_code != 200:
        raise NotBelieved(f"it answers {answer.status_code}")
    found = answer.json()
    if not isinstance(found, dict):
        raise NotBelieved("its answer is no description")
    return found
