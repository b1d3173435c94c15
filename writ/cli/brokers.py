"""`writ broker`: what a broker that is not started by Writ needs to know of it."""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from .output import next_steps, print_json
from .reach import directory_of
from .usage import CommandError, UsageError

if TYPE_CHECKING:
    from writ.joining import Join


def join_of(args: Namespace) -> Join | None:
    """The broker to join, where one is given. Raises UsageError for what goes with that alone."""
    if args.broker_url is None:
        if args.replicas not in (None, 1) or args.placement:
            raise UsageError("--replicas and --placement are for a broker that is joined: give --broker-url")
        return None
    from writ.joining import Join

    return Join(args.broker_url, args.replicas, tuple(args.placement))


def broker(args: Namespace) -> int:
    """Writes the file that the broker's configuration includes, and the keys that belong to it."""
    from writ.broker.accounts import render_trust
    from writ.broker.doors import prepare, write_credentials
    from writ.broker.keys import KeyFileError
    from writ.broker.owned import BrokerError, write
    from writ.broker.trust import Trust
    from writ.orchestrator.backups import BackupError

    path = Path(args.file)
    try:
        if args.backup is not None:
            keys = _keys_in(Path(args.backup))
            trust = Trust.in_directory(keys)
        else:
            directory = prepare(directory_of(args))
            keys = directory / "keys"
            trust = Trust.in_directory(keys)
            write_credentials(directory, trust)
        write(path, render_trust(trust, int(time.time())))
        path.chmod(0o644)  # it holds no secret, and the broker is another user
    except (BackupError, BrokerError, KeyFileError) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error
    if args.json:
        print_json({"file": str(path.resolve()), "keys": str(keys)})
        return 0
    print(f"wrote {path}, for every server of the broker; the keys to it are in {keys}")
    restore = f"writ restore {args.backup} --broker-url nats://HOST:4222"
    next_steps("writ up --broker-url nats://HOST:4222" if args.backup is None else restore)
    return 0


def _keys_in(backup: Path) -> Path:
    """The folder of the keys that a backup has. Raises BackupError."""
    from writ.broker.trust import OPERATOR_FILE
    from writ.orchestrator.backups import BackupError, read_manifest

    for part in read_manifest(backup).parts:
        if part.name == f"keys/{OPERATOR_FILE}":
            return (backup / part.path).parent
    raise BackupError(
        f"the backup in {backup} was taken without keys: put those of the node into a directory, and name "
        "that with --dir"
    )
