"""`writ env`: where the node is, for other programs."""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from pathlib import Path

from .reach import find


def env(args: Namespace) -> int:
    """Shell variables to `eval`. NATS_NKEY and NATS_CA are also what the `nats` tool reads.

    WRIT_HTTP_URL and WRIT_HTTP_TOKEN_FILE are there where this machine's node serves the HTTP API.
    """
    place = find(args)
    variables = {
        "NATS_URL": place.url,
        "NATS_NKEY": str(Path(place.creds).resolve()) if place.creds else "",
        "WRIT_TENANT": place.tenant,
        "WRIT_PRINCIPAL": place.principal,
    }
    authority = Path(place.creds).resolve().with_name("ca.pem") if place.creds else None
    if authority is not None and authority.is_file():
        variables["NATS_CA"] = str(authority)
    if place.http_url is not None:
        variables |= {"WRIT_HTTP_URL": place.http_url, "WRIT_HTTP_TOKEN_FILE": place.token_path or ""}
    if args.json:
        print(json.dumps(variables))
    else:
        for name, value in variables.items():
            print(f"export {name}={shlex.quote(value)}")
    return 0
