"""Accounts: who gets one, how a login begins, and everything that ends it."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
from argon2 import PasswordHasher
from browsing import PASSWORD, House, Visitor
from sqlalchemy import update

from volumetool.portal.accounts import check_password
from volumetool.portal.queries import now
from volumetool.portal.tables import Login


def is_in(visitor: Visitor) -> bool:
    return visitor.get("/").status_code == 200


def test_an_invitation_makes_one_account_and_logs_it_in(house: House) -> None:
    link = house.admin.invite()
    assert is_in(Visitor(house.url).join(link, "bea"))
    assert Visitor(house.url).get(link).status_code == 404
    assert Visitor(house.url).ask("POST", link, {"name": "second", "password": PASSWORD}).status_code == 404


@pytest.mark.parametrize(
    ("name", "password", "told"),
    [
        ("ada", PASSWORD, "is taken"),
        ("x", PASSWORD, "A name has"),
        ("a/../b", PASSWORD, "A name has"),
        ("carl", "short", "A password has"),
        ("carl", "carl carl carl", "does not hold the name"),
        ("carl", "my Password 12345", "nor volumetool or password"),
        ("carl", "qwertyuiop12", "in lists of common ones"),
        ("carl", "ILoveYou1234", "in lists of common ones"),
        ("carl", "correcthorsebatterystaple", "in lists of common ones"),
    ],
)
def test_what_is_wrong_with_a_new_account_is_said_and_the_invitation_stays(
    house: House, name: str, password: str, told: str
) -> None:
    link = house.admin.invite()
    answer = Visitor(house.url).ask("POST", link, {"name": name, "password": password})
    assert answer.status_code == 422
    assert told in answer.text
    assert Visitor(house.url).get(link).status_code == 200


def test_a_login_takes_a_new_cookie_whatever_the_browser_had(house: House) -> None:
    house.newcomer("dora")
    visitor = Visitor(house.url, token="chosen-by-somebody-else")
    assert visitor.log_in("dora").status_code == 303
    assert visitor.token != "chosen-by-somebody-else"
    assert is_in(visitor)
    assert not is_in(Visitor(house.url, token="chosen-by-somebody-else"))


def test_the_database_knows_no_token_and_no_password(house: House) -> None:
    visitor = house.newcomer("edna")
    stored = house.stored()
    assert "edna" in stored
    assert visitor.token is not None
    assert visitor.token not in stored
    assert PASSWORD not in stored


def test_a_logout_ends_the_login_on_the_server(house: House) -> None:
    visitor = house.newcomer("finn")
    copy = Visitor(house.url, token=visitor.token)
    left = visitor.send("/logout")
    assert (left.status_code, left.headers["clear-site-data"]) == (303, '"cache", "storage"')
    assert visitor.token is None
    assert not is_in(copy)


def test_a_new_password_ends_all_logins(house: House) -> None:
    visitor, other = house.newcomer("gwen"), Visitor(house.url)
    other.log_in("gwen")
    assert visitor.send("/account/password", password="wrong wrong wrong", new="another long one").status_code == 422
    assert visitor.send("/account/password", password=PASSWORD, new="another long one").status_code == 303
    assert not is_in(visitor)
    assert not is_in(other)
    assert other.log_in("gwen").status_code == 403
    assert other.log_in("gwen", "another long one").status_code == 303


def test_a_disabled_account_is_out_at_once_and_comes_back_when_it_is_enabled(house: House) -> None:
    visitor = house.newcomer("hugo")
    account = house.database.account("hugo")
    assert account is not None
    assert house.admin.send(f"/people/{account.id}/disable").status_code == 303
    assert not is_in(visitor)
    assert visitor.log_in("hugo").status_code == 403
    house.admin.send(f"/people/{account.id}/enable")
    assert visitor.log_in("hugo").status_code == 303


@pytest.mark.parametrize("column", ["seen", "began"])
def test_a_login_ends_when_it_is_idle_and_when_it_is_old(house: House, column: str) -> None:
    visitor = house.newcomer(f"ida{column}")
    account = house.database.account(f"ida{column}")
    assert account is not None
    with house.database.engine.begin() as connection:
        old = {column: now() - timedelta(days=30)}
        connection.execute(update(Login).where(Login.account_id == account.id).values(**old))
    assert not is_in(visitor)


def test_one_login_can_be_ended_from_another_and_nobody_elses(house: House) -> None:
    visitor, other, stranger = house.newcomer("jana"), Visitor(house.url), house.newcomer("kurt")
    other.log_in("jana")
    account = house.database.account("jana")
    assert account is not None
    newest = house.database.logins(account.id)[0].id
    assert stranger.send(f"/account/logins/{newest}/end").status_code == 404
    assert is_in(other)
    assert visitor.send(f"/account/logins/{newest}/end").status_code == 303
    assert not is_in(other)
    assert is_in(visitor)


def test_a_hash_of_other_parameters_is_made_anew_by_the_next_login_which_ends_no_other(house: House) -> None:
    visitor = house.newcomer("old-hand")
    account = house.database.account("old-hand")
    assert account is not None
    assert account.password is not None
    former = PasswordHasher(time_cost=2, memory_cost=128, parallelism=1).hash(PASSWORD)
    house.database.replace_hash(account.id, account.password, former)
    assert check_password(house.database, "old-hand", "not that one") is None
    assert house.database.account("old-hand").password == former
    assert check_password(house.database, "old-hand", PASSWORD) is not None
    anew = house.database.account("old-hand").password
    assert "m=64,t=1,p=1" in anew  # as the tests have it
    house.database.replace_hash(account.id, former, former)  # it is another one meanwhile
    assert check_password(house.database, "old-hand", PASSWORD) is not None
    assert house.database.account("old-hand").password == anew
    assert visitor.get("/account").status_code == 200


def test_after_ten_wrong_passwords_the_right_one_waits_too(house: House) -> None:
    house.newcomer("lena")
    visitor = Visitor(house.url)

    def try_once(password: str) -> httpx.Response:
        return visitor.log_in("lena", password)

    assert {try_once("wrong").status_code for _ in range(10)} == {403}
    assert try_once(PASSWORD).status_code == 403
    refused = [deed for deed in house.database.deeds() if (deed.what, deed.target) == ("password refused", "lena")]
    assert len(refused) == 10  # what is not even tried is not kept, or anybody could fill the database


def test_what_people_do_stands_in_the_audit_log(house: House) -> None:
    house.newcomer("mira").send("/logout")
    deeds = [(deed.who, deed.what) for deed in house.database.deeds(10)]
    assert ("mira", "joined") in deeds
    assert ("mira", "logout") in deeds
