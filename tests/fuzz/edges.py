"""Every decoder and edge of Writ."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from writ.schemas.commands import CONTROL_VERBS, LEASE_VERBS

from . import engine, files, messages, of_node
from .edge import Making


def edges(directory: Path) -> Iterator[Making]:
    """All of them. Those that want a node's files, or a node, share one that runs in the directory."""
    node = of_node.Node(directory / "node")
    try:
        yield Making("submit", messages.submit)
        yield Making("lease", partial(messages.requests, "lease", LEASE_VERBS))
        yield Making("control", partial(messages.requests, "control", CONTROL_VERBS))
        yield Making("query", messages.query)
        yield Making("record", messages.record)
        yield Making("gate", messages.gate)
        yield Making("engine-submit", partial(engine.engine, "submit"))
        yield Making("engine-lease", partial(engine.engine, "lease"))
        yield Making("engine-control", partial(engine.engine, "control"))
        yield Making("apply-file", partial(files.apply_file, directory))
        yield Making("access-policy", files.access_policy)
        yield Making("jobs-file", partial(files.jobs_file, directory))
        yield Making("contexts", partial(files.saved_contexts, directory))
        yield Making("node-file", partial(files.node_file, directory))
        yield Making("key-file", partial(files.key_file, directory))
        yield Making("oidc-file", partial(files.oidc_file, directory))
        yield Making("what-if", files.what_if)
        yield Making("bundle", partial(of_node.of_bundle, directory, node))
        yield Making("proof", partial(of_node.of_proof, directory, node))
        yield Making("checkpoints", partial(of_node.of_checkpoints, directory, node))
        yield Making("public-key", partial(of_node.of_public_key, node))
        yield Making("http", partial(of_node.of_http, node))
    finally:
        node.close()
