"""The login of an institution, a real one on loopback: who gets in, as whom, and every wrong turn that leads nowhere."""

from __future__ import annotations

import base64
import html
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import flask
import httpx
import pytest
from browsing import PASSWORD, House, Visitor, settings_of
from identity_server import CLIENT, KEY, SECRET, IdentityServer, serve_identities, sign
from joserfc.jwk import OctKey, RSAKey

from volumetool.errors import ConfigError
from volumetool.portal.access.institution import MOST_BYTES, Institution, Members
from volumetool.portal.queries import Database
from volumetool.portal.serve import serve
from volumetool.portal.settings import PortalSettings, read_settings

Parameters = dict[str, str]


@pytest.fixture(scope="module")
def server() -> Iterator[IdentityServer]:
    """Serve an institution."""
    with serve_identities() as served:
        yield served


@pytest.fixture(scope="module")
def lab(server: IdentityServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Serve a portal that takes the institution's login, from everybody whose group is em."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "secret").write_text(f"{SECRET}\n")
    members = {"claim": "groups", "value": "em"}
    oidc = {"issuer": server.issuer, "client_id": CLIENT, "client_secret_file": folder / "secret", "accounts": members}
    given = settings_of(folder, oidc=oidc)
    given["roots"] = [*given["roots"], {"path": folder / "lab", "accounts": ["grace"]}]
    settings = PortalSettings(**given)
    with serve(settings) as served:
        server.callbacks.add(f"{served.url}/login/institution/callback")
        admin = Visitor(served.url).join(str(served.invitation), "ada")
        yield House(served.url, folder, Database(settings), admin)


@pytest.fixture(autouse=True)
def honest(server: IdentityServer) -> Iterator[None]:
    """Let the institution be honest at the start of each test."""
    server.plain()
    yield
    server.plain()


def depart(visitor: Visitor, path: str = "/login/institution", **form: str) -> str:
    """Begin; return where the browser is sent."""
    if visitor.token is not None:
        form["form_token"] = visitor.form_token
    page = visitor.ask("POST", path, form)
    found = re.search(r'content="0; url=([^"]+)"', page.text)
    assert found is not None, page.text
    return html.unescape(found[1])


def travel(visitor: Visitor, path: str = "/login/institution", **form: str) -> Parameters:
    """Begin, log in at the institution, and return what it gives back."""
    sent = httpx.get(depart(visitor, path, **form), timeout=60)
    assert sent.status_code == 302, sent.text
    return dict(parse_qsl(urlsplit(sent.headers["location"]).query))


def arrive(visitor: Visitor, given: Parameters) -> httpx.Response:
    """Come back."""
    return visitor.get(f"/login/institution/callback?{urlencode(given)}")


def test_who_was_invited_joins_logs_out_and_in_again(lab: House, server: IdentityServer) -> None:
    link, visitor = lab.admin.invite("operator"), Visitor(lab.url)
    server.person = {"sub": "mary-1780", "email": "someone@elsewhere.example"}
    assert arrive(visitor, travel(visitor, f"{link}/institution", name="Mary")).status_code == 303
    account = lab.database.account("mary")
    assert account is not None
    assert (account.role, account.password) == ("operator", None)
    assert Visitor(lab.url).get(link).status_code == 404
    first = visitor.token
    assert visitor.send("/logout").status_code == 303
    assert visitor.token is None
    assert arrive(visitor, travel(visitor)).status_code == 303
    assert visitor.token not in (None, first)
    assert "mary" in visitor.get("/").text
    assert visitor.log_in("mary").status_code == 403


def test_what_is_asked_is_what_the_standard_wants(lab: House) -> None:
    asked = dict(parse_qsl(urlsplit(depart(Visitor(lab.url))).query))
    assert (asked["response_type"], asked["scope"], asked["code_challenge_method"]) == ("code", "openid", "S256")
    assert asked["redirect_uri"] == f"{lab.url}/login/institution/callback"
    assert min(len(asked[name]) for name in ("state", "nonce", "code_challenge")) >= 43
    again = dict(parse_qsl(urlsplit(depart(Visitor(lab.url))).query))
    assert all(asked[name] != again[name] for name in ("state", "nonce", "code_challenge"))


def test_an_address_of_mail_is_nobody(lab: House, server: IdentityServer) -> None:
    lab.newcomer("emmy")
    server.person = {"sub": "unknown", "email": "emmy", "preferred_username": "emmy", "email_verified": True}
    visitor = Visitor(lab.url)
    assert arrive(visitor, travel(visitor)).status_code == 403
    assert visitor.token is None


def test_everybody_of_the_claim_gets_an_account_and_a_name_that_nobody_has(lab: House, server: IdentityServer) -> None:
    lab.newcomer("sofia")
    for subject, wish, name in (("s1", "sofia", "sofia-2"), ("s2", "grace", "grace-2"), ("s3", "../-", "member")):
        server.person = {"sub": subject, "preferred_username": wish, "groups": ["em", "other"]}
        visitor = Visitor(lab.url)
        assert arrive(visitor, travel(visitor)).status_code == 303
        account = lab.database.account_of(server.issuer, subject)
        assert account is not None
        assert (account.name, account.role) == (name, "user")


def test_a_link_is_made_by_who_is_logged_in_and_forgotten_but_for_the_last(lab: House, server: IdentityServer) -> None:
    visitor = lab.newcomer("rosa")
    server.person = {"sub": "rosa-1871"}
    assert arrive(visitor, travel(visitor, "/account/identities")).headers["location"] == "/account"
    other = Visitor(lab.url)
    assert arrive(other, travel(other)).status_code == 303
    account = lab.database.account("rosa")
    assert account is not None
    (identity,) = lab.database.identities(account.id)
    thief = lab.newcomer("theo")
    assert arrive(thief, travel(thief, "/account/identities")).status_code == 409
    assert thief.send(f"/account/identities/{identity.id}/end").status_code == 404
    assert other.send(f"/account/identities/{identity.id}/end").status_code == 303
    assert arrive(Visitor(lab.url, others=dict(thief.others)), travel(thief)).status_code == 403


def test_the_only_way_into_an_account_is_not_forgotten(lab: House, server: IdentityServer) -> None:
    server.person = {"sub": "only", "groups": ["em"], "preferred_username": "lise"}
    visitor = Visitor(lab.url)
    arrive(visitor, travel(visitor))
    account = lab.database.account("lise")
    assert account is not None
    (identity,) = lab.database.identities(account.id)
    assert visitor.send(f"/account/identities/{identity.id}/end").status_code == 409


def test_a_link_ends_with_the_login_that_asked_for_it(lab: House, server: IdentityServer) -> None:
    visitor = lab.newcomer("tina")
    server.person = {"sub": "not-tina"}
    given = travel(visitor, "/account/identities")
    visitor.send("/logout")
    assert arrive(visitor, given).status_code == 403
    assert lab.database.account_of(server.issuer, "not-tina") is None


def test_a_disabled_account_stays_out(lab: House, server: IdentityServer) -> None:
    server.person = {"sub": "late", "groups": ["em"], "preferred_username": "late"}
    visitor = Visitor(lab.url)
    arrive(visitor, travel(visitor))
    account = lab.database.account("late")
    assert account is not None
    lab.admin.send(f"/people/{account.id}/disable")
    assert arrive(visitor, travel(Visitor(lab.url), "/login/institution")).status_code == 403
    other = Visitor(lab.url)
    assert arrive(other, travel(other)).status_code == 403
    assert other.token is None


def test_names_are_looked_at_before_somebody_is_sent_away_and_after(lab: House, server: IdentityServer) -> None:
    link = lab.admin.invite()
    for name, told in (("ada", "is taken"), ("x", "A name has")):
        answer = Visitor(lab.url).ask("POST", f"{link}/institution", {"name": name})
        assert answer.status_code == 422
        assert told in answer.text
    visitor = Visitor(lab.url)
    server.person = {"sub": "slow"}
    given = travel(visitor, f"{link}/institution", name="vera")
    lab.newcomer("vera")
    assert arrive(visitor, given).status_code == 409
    assert Visitor(lab.url).get(link).status_code == 200


def without(name: str) -> Callable[[Parameters], Parameters]:
    return lambda given: {key: value for key, value in given.items() if key != name}


BACK: dict[str, Callable[[Parameters], Parameters]] = {
    "another state": lambda given: given | {"state": "another"},
    "no state": without("state"),
    "another code": lambda given: given | {"code": "another"},
    "no code": without("code"),
    "another institution": lambda given: given | {"iss": "https://mallory.example"},
    "no institution": without("iss"),
    "an error": lambda given: given | {"error": "access_denied"},
}


@pytest.mark.parametrize("turn", BACK)
def test_who_comes_back_otherwise_than_sent_is_not_let_in(lab: House, turn: str) -> None:
    visitor = Visitor(lab.url)
    answer = arrive(visitor, BACK[turn](travel(visitor)))
    assert answer.status_code == 403
    assert "was not accepted" in answer.text
    assert visitor.token is None


def test_a_way_back_is_gone_once_by_the_browser_that_was_sent(lab: House, server: IdentityServer) -> None:
    server.person = {"sub": "once", "groups": ["em"]}
    visitor, thief = Visitor(lab.url), Visitor(lab.url)
    given, mine = travel(visitor), travel(thief)
    assert arrive(Visitor(lab.url), given).status_code == 403
    assert arrive(thief, given).status_code == 403
    assert arrive(thief, mine | {"code": given["code"]}).status_code == 403  # PKCE: another's code in one's own way back
    assert arrive(visitor, given).status_code in (303, 403)  # the provider may have ended the code that a thief showed
    again = Visitor(lab.url)
    given = travel(again)
    kept = Visitor(lab.url, others=dict(again.others))
    assert arrive(again, given).status_code == 303
    assert arrive(kept, given).status_code == 403
    doubled = Visitor(lab.url)
    asked = urlencode(travel(doubled))
    assert doubled.get(f"/login/institution/callback?{asked}&state=x").status_code == 403


def unsigned(claims: dict[str, Any]) -> str:
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({"alg": "none"}, claims))
    return f"{'.'.join(parts)}."


def shared(secret: str | bytes) -> Callable[[dict[str, Any]], str]:
    return lambda claims: sign(claims, OctKey.import_key(secret), alg="HS256")


STRANGER = RSAKey.generate_key(2048, {"kid": "one"})
TOKENS: dict[str, Callable[[dict[str, Any]], str]] = {
    "another nonce": lambda claims: sign(claims | {"nonce": "another"}),
    "no nonce": lambda claims: sign(without("nonce")(claims)),
    "another issuer": lambda claims: sign(claims | {"iss": "https://mallory.example"}),
    "an issuer with a slash": lambda claims: sign(claims | {"iss": claims["iss"] + "/"}),
    "another audience": lambda claims: sign(claims | {"aud": "another"}),
    "an audience more": lambda claims: sign(claims | {"aud": [CLIENT, "another"], "azp": CLIENT}),
    "no audience": lambda claims: sign(without("aud")(claims)),
    "another party": lambda claims: sign(claims | {"azp": "another"}),
    "expired": lambda claims: sign(claims | {"exp": int(time.time()) - 60}),
    "without an end": lambda claims: sign(without("exp")(claims)),
    "of tomorrow": lambda claims: sign(claims | {"iat": int(time.time()) + 86400}),
    "of another access token": lambda claims: sign(claims | {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}),
    "nobody": lambda claims: sign(without("sub")(claims)),
    "an empty name": lambda claims: sign(claims | {"sub": ""}),
    "a number": lambda claims: sign(claims | {"sub": 7}),
    "a long name": lambda claims: sign(claims | {"sub": "a" * 256}),
    "alg none": unsigned,
    "no signature": lambda claims: sign(claims).rpartition(".")[0] + ".",
    "another signature": lambda claims: sign(claims, STRANGER),
    "an unknown key": lambda claims: sign(claims, STRANGER, kid="two"),
    "the public key as a secret": shared(KEY.as_pem(private=False)),
    "the client's secret": shared(SECRET),
    "no token": lambda claims: "",  # noqa: ARG005
    "no JSON": lambda claims: "a.b.c",  # noqa: ARG005
}


@pytest.mark.thin(2)
@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
@pytest.mark.parametrize("turn", TOKENS)
def test_a_token_that_is_not_the_institutions_own_for_this_way_lets_nobody_in(
    lab: House, server: IdentityServer, turn: str
) -> None:
    server.person = {"sub": "ada-1815", "groups": ["em"]}
    server.twist = TOKENS[turn]
    visitor = Visitor(lab.url)
    answer = arrive(visitor, travel(visitor))
    assert answer.status_code == 403
    assert "was not accepted" in answer.text
    assert visitor.token is None
    assert lab.database.account_of(server.issuer, "ada-1815") is None


def test_a_shared_secret_among_the_keys_signs_nothing(lab: House, server: IdentityServer) -> None:
    server.keys = [{"kty": "oct", "kid": "one", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"}]
    server.twist = shared("secret-secret-secret-secret-secret")
    visitor = Visitor(lab.url)
    assert arrive(visitor, travel(visitor)).status_code == 403


ELSEWHERE = "http://127.0.0.1:9/token"
WORDS: dict[str, dict[str, Any]] = {
    "another issuer": {"issuer": "https://mallory.example"},
    "codes elsewhere": {"token_endpoint": ELSEWHERE},
    "keys elsewhere": {"jwks_uri": "https://mallory.example/keys"},
    "login elsewhere": {"authorization_endpoint": "javascript:alert(1)"},
    "keys in a file": {"jwks_uri": "file:///etc/passwd"},
    "no keys": {"jwks_uri": None},
    "no PKCE": {"code_challenge_methods_supported": ["plain"]},
    "too long": {"padding": "a" * MOST_BYTES},
}


@pytest.mark.parametrize("word", WORDS)
def test_nobody_is_sent_by_a_description_that_is_not_the_institutions_own(
    lab: House, server: IdentityServer, word: str
) -> None:
    server.description = WORDS[word]
    answer = Visitor(lab.url).ask("POST", "/login/institution", {})
    assert answer.status_code == 403
    assert "was not accepted" in answer.text


@pytest.mark.thin(3)
@pytest.mark.parametrize("path", ["/token", "/keys"])
@pytest.mark.parametrize("said", ["elsewhere", "nothing", "fault", "bomb"])
def test_answers_that_lead_elsewhere_or_nowhere_let_nobody_in(lab: House, server: IdentityServer, path: str, said: str) -> None:
    says: dict[str, Callable[[], Any]] = {
        "elsewhere": lambda: flask.redirect(f"{server.issuer}/other"),
        "nothing": lambda: "<html>",
        "fault": lambda: ("{}", 500),
        "bomb": lambda: flask.Response((b" " * 2**16 for _ in range(100)), mimetype="application/json"),
    }
    visitor = Visitor(lab.url)
    given = travel(visitor)
    server.answers = {path: says[said]}
    assert arrive(visitor, given).status_code == 403
    assert visitor.token is None


def test_without_passwords_the_institution_is_the_only_way(
    server: IdentityServer, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLUMETOOL_OIDC_SECRET", SECRET)
    settings = settings_of(tmp_path, passwords=False, oidc={"issuer": server.issuer, "client_id": CLIENT})
    with serve(PortalSettings(**settings)) as served:
        server.callbacks.add(f"{served.url}/login/institution/callback")
        link = str(served.invitation).removeprefix(served.url)
        visitor = Visitor(served.url)
        assert visitor.ask("POST", link, {"name": "ada", "password": PASSWORD}).status_code == 404
        assert arrive(visitor, travel(visitor, f"{link}/institution", name="ada")).status_code == 303
        assert visitor.send("/people/invite", role="user").status_code == 200
        assert 'type="password"' not in Visitor(served.url).get("/login").text + visitor.get("/account").text
        assert Visitor(served.url).log_in("ada").status_code == 404


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"issuer": "http://idp.example.org"}, "is not https"),
        ({"issuer": "https://idp.example.org?x=1"}, "is not https"),
        ({"issuer": "https://user@idp.example.org"}, "is not https"),
        ({"scopes": ["email"]}, "without openid"),
        ({"accounts": "everybody"}, "by invitation"),
        ({"accounts": {"claim": "email", "value": "example.org"}}, "no domain"),
        ({"client_secret": "x"}, "client_secret"),
    ],
)
def test_an_institution_that_is_not_safe_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_settings(None, oidc={"issuer": "https://idp.example.org", "client_id": "x"} | given)
    with pytest.raises(ConfigError, match="nobody could log in"):
        read_settings(None, passwords=False)


def test_of_a_domain_are_addresses_that_the_institution_has_verified() -> None:
    members = Members(claim="email", value="@example.org")
    assert members.include({"email": "A@Example.org", "email_verified": True})
    for claims in ({"email": "a@example.org"}, {"email": "a@example.org.mallory.example", "email_verified": True}, {}):
        assert not members.include(claims)


def test_hosts_are_reached_that_were_named() -> None:
    institution = Institution(issuer="https://idp.example.org/realms/x", client_id="x", hosts=("keys.example.org",))
    assert institution.reaches("https://keys.example.org/a")
    for url in (
        "https://idp.example.org:444/",
        "http://idp.example.org/",
        "https://x@idp.example.org/",
        "https://a.idp.example.org",
    ):
        assert not institution.reaches(url)
