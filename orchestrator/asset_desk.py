"""What is asked of assets: operators set, list and remove them, workers read them for their jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from writ.schemas import commands
from writ.schemas.assets import (
    Asset,
    AssetLine,
    AssetsTold,
    AssetTold,
    AssetVersion,
    GetAsset,
    KeptAsset,
    ListAssets,
    ReadAsset,
    RemoveAsset,
)
from writ.schemas.events import ContentErased, Fact
from writ.schemas.rejections import Rejection, RejectionKind

from .decide.assets import found, read_asset, remove_asset, set_asset
from .messages import Asked
from .office import Office, encode
from .round import Round


class AssetDesk:
    """Decides by names, versions and digests. What comes and goes of values is the strongroom's."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._state = office.state
        self.verbs: dict[type[commands.Command], Callable[[Round, Asked, Any], None]] = {
            KeptAsset: self._set,
            RemoveAsset: self._remove,
            GetAsset: self._get,
            ListAssets: self._list,
            ReadAsset: self._read,
        }

    def _asset(self, asked: Asked, name: str) -> Asset | None:
        return self._state.assets.get(f"{asked.address.tenant}.{name}")

    def _set(self, round_: Round, asked: Asked, command: KeptAsset) -> None:
        start = f"{asked.address.tenant}."
        count = sum(place.startswith(start) for place in self._state.assets)
        asset = self._asset(asked, command.name)
        outcome = set_asset(asset, command, count, self._state.erased)
        if isinstance(outcome, Rejection):
            self._office.refuse(round_, asked, outcome)
            return
        self._record(round_, asked, "asset", command.name, outcome)
        if command.forget:
            self._forget(round_, asked, asset, command.reason)
        made = self._asset(asked, command.name)
        assert made is not None
        self._answer(round_, asked, command.name, made, made.newest)

    def _remove(self, round_: Round, asked: Asked, command: RemoveAsset) -> None:
        asset = self._asset(asked, command.name)
        outcome = remove_asset(asset, command.name, command.reason)
        if isinstance(outcome, Rejection):
            self._office.refuse(round_, asked, outcome)
            return
        self._record(round_, asked, "asset", command.name, outcome)
        self._forget(round_, asked, asset, command.reason)
        round_.answer(asked.send, encode(commands.Answer(None, round_.position)))

    def _forget(self, round_: Round, asked: Asked, asset: Asset | None, reason: str) -> None:
        """Erases the values of an asset, as content is erased: the keys go when that is stored."""
        for version in () if asset is None else asset.versions:
            if version.key not in self._state.erased:
                self._record(round_, asked, "subject", version.key, (ContentErased(0, reason),))

    def _get(self, round_: Round, asked: Asked, command: GetAsset) -> None:
        asset = self._asset(asked, command.name)
        meant = found(asset, command.name, command.version, self._state.erased)
        if isinstance(meant, AssetVersion) and asset is not None and asset.secret:
            reason = f"{command.name} is a secret: its value is given to jobs alone"
            meant = Rejection(RejectionKind.CONFLICT, reason, "name")
        if isinstance(meant, Rejection):
            self._office.refuse(round_, asked, meant)
            return
        assert asset is not None
        self._answer(round_, asked, command.name, asset, meant)

    def _list(self, round_: Round, asked: Asked, command: ListAssets) -> None:
        if command.name is not None:
            asset = self._asset(asked, command.name)
            versions = () if asset is None else asset.versions
            lines = [self._line(command.name, asset, each) for each in versions if asset is not None]
            told = AssetsTold(None, round_.position, tuple(lines))
        else:
            start = f"{asked.address.tenant}."
            names = sorted(
                name
                for place, asset in self._state.assets.items()
                if not asset.removed
                and place.startswith(start)
                and (name := place.removeprefix(start)) > command.after
            )
            shown = names[: command.limit]
            assets = [(name, self._state.assets[start + name]) for name in shown]
            lines = [self._line(name, asset, asset.newest) for name, asset in assets]
            told = AssetsTold(None, round_.position, tuple(lines), len(names) > len(shown))
        round_.tell(asked.send, encode(told))

    def _line(self, name: str, asset: Asset, each: AssetVersion) -> AssetLine:
        gone = each.key in self._state.erased
        return AssetLine(
            name,
            asset.secret,
            each.version,
            each.digest,
            each.size_bytes,
            each.at,
            each.by,
            each.reason,
            gone,
        )

    def _read(self, round_: Round, asked: Asked, command: ReadAsset) -> None:
        tenant, principal, verb, queue = asked.address
        job, asset = self._office.job(asked, command.id), self._asset(asked, command.name)
        policy = self._state.queue(f"{tenant}.{queue}")
        outcome = read_asset(job, policy, asset, command, principal, self._state.erased)
        if isinstance(outcome, Rejection):
            self._office.refuse(round_, asked, outcome)
            return
        assert job is not None
        assert asset is not None
        self._office.store(round_, tenant, job.key, outcome, actor=principal, cause=verb)
        meant = asset.version(command.version)
        assert meant is not None
        self._answer(round_, asked, command.name, asset, meant)

    def _answer(self, round_: Round, asked: Asked, name: str, asset: Asset, meant: AssetVersion) -> None:
        told = AssetTold(
            None, round_.position, name, asset.secret, meant.version, meant.digest, key=meant.key
        )
        round_.answer(asked.send, encode(told), verdict_only=True)

    def _record(self, round_: Round, asked: Asked, kind: str, key: str, events: tuple[Fact, ...]) -> None:
        tenant, principal, verb, _ = asked.address
        round_.record(
            *(tenant, kind, key, events), actor=principal, vouched=False, cause=verb, size_bytes=500
        )
