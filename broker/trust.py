"""Whom the broker believes: one secret, and the keys and credentials that come from it.

nats-server runs in its operator mode. It trusts one key, the operator's; the operator signs what each account
is, and an account's key signs who its users are. All these keys are derived from the operator's own, the one
secret of a node beside the seeds of principals: whoever has it can be anybody, and it never leaves the node.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

from .jwt import KeyKind, Signer, signer_in
from .keys import KeyFileError, new_seed, secret_in

OPERATOR_FILE: Final = "operator.nk"

_ANY_NUMBER: Final = -1
_UNLIMITED: Final = dict.fromkeys(("subs", "data", "payload"), _ANY_NUMBER)
_CREDENTIALS: Final = """\
-----BEGIN NATS USER JWT-----
{token}
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""


class Trust:
    """The keys of a broker. Those of accounts and of Writ's own users are found again by name."""

    def __init__(self, operator: Signer) -> None:
        self.operator = operator
        self.account = cache(self._account)
        self.user = cache(self._user)

    @classmethod
    def in_directory(cls, keys: Path) -> Trust:
        """From `operator.nk` in a directory, made at first use. Raises KeyFileError."""
        path = keys / OPERATOR_FILE
        seed = secret_in(path, lambda: new_seed(KeyKind.OPERATOR))
        try:
            return cls(signer_in(seed.decode()))
        except ValueError as error:
            raise KeyFileError(
                f"key file {path} does not hold an operator's seed (SO...): {error}; with another one every "
                "principal keeps its key, but the broker's data belong to accounts that nobody can name"
            ) from error

    def _account(self, name: str) -> Signer:
        return self._derived(KeyKind.ACCOUNT, name)

    def _user(self, name: str) -> Signer:
        return self._derived(KeyKind.USER, name)

    def _derived(self, kind: KeyKind, name: str) -> Signer:
        label = f"writ {kind.name.lower()} {name}".encode()
        return Signer(kind, hmac.digest(self.operator.secret, label, hashlib.sha256))

    @cached_property
    def operator_token(self) -> str:
        """What the configuration says of the operator."""
        claims = {"type": "operator", "version": 2, "system_account": self.account(SYSTEM_ACCOUNT).public}
        return self.operator.token({"sub": self.operator.public, "name": "writ", "nats": claims}, 1)

    def account_token(self, name: str, claims: Mapping[str, Any], issued_s: int) -> str:
        """What an account is; `claims` as in the specification, unlimited where they do not say so."""
        limits = {
            **_UNLIMITED,
            **dict.fromkeys(("imports", "exports", "conn", "leaf"), _ANY_NUMBER),
            "wildcards": True,
            **claims.get("limits", {}),
        }
        whole = {**claims, "limits": limits, "type": "account", "version": 2}
        return self.operator.token({"sub": self.account(name).public, "name": name, "nats": whole}, issued_s)

    def user_token(
        self,
        account: str,
        public: str,
        claims: Mapping[str, Any],
        issued_s: int,
        expires_s: int | None = None,
    ) -> str:
        """Who a user of an account is, by its public key; without `expires_s` for ever."""
        whole = {**_UNLIMITED, **claims, "type": "user", "version": 2}
        token: dict[str, Any] = {"sub": public, "nats": whole}
        if expires_s is not None:
            token["exp"] = expires_s
        return self.account(account).token(token, issued_s)

    def credentials(self, account: str, name: str, claims: Mapping[str, Any], issued_s: int) -> str:
        """The file with which one of Writ's own users logs in, whoever answers for logins or not."""
        user = self.user(name)
        token = self.user_token(account, user.public, claims, issued_s)
        return _CREDENTIALS.format(token=token, seed=user.seed)


SYSTEM_ACCOUNT: Final = "SYS"
