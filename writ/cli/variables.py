"""`writ env`: where the node is, for other programs."""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from pathlib import Path

from .reach import find


def env(args: Namespace) -> int:
    """Shell variables to `eval`. NATS_NKEY is also what the `nats` tool reads."""
    place = find(args)
    variables = {
        "NATS_URL": place.url,
        "NATS_NKEY": str(Path(place.creds).resolve()) if place.creds else "",
        "WRIT_TENANT": place.tenant,
        "WRIT_PRINCIPAL": place.principal,
    }
    if args.json:
        print(json.dumps(variables))
    else:
        for name, value in variables.items():
            print(f"export {name}={shlex.quote(value)}")
    return 0
