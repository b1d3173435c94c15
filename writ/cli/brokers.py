"""`writ broker`: what a broker that is not started by Writ needs to know of it."""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path

from .output import next_steps, print_json
from .reach import directory_of
from .usage import CommandError


def broker(args: Namespace) -> int:
    """Writes the file that the broker's configuration includes, and the keys that belong to it."""
    from writ.broker.accounts import render_trust
    from writ.broker.doors import prepare, write_credentials
    from writ.broker.keys import KeyFileError
    from writ.broker.owned import BrokerError, write
    from writ.broker.trust import Trust

    path = Path(args.file)
    try:
        directory = prepare(directory_of(args))
        trust = Trust.in_directory(directory / "keys")
        write_credentials(directory, trust)
        write(path, render_trust(trust, int(time.time())))
        path.chmod(0o644)  # it holds no secret, and the broker is another user
    except (BrokerError, KeyFileError) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error
    if args.json:
        print_json({"file": str(path.resolve()), "keys": str(directory / "keys")})
        return 0
    print(f"wrote {path}, for every server of the broker; the keys to it are in {directory / 'keys'}")
    next_steps("writ up --broker-url nats://HOST:4222")
    return 0
