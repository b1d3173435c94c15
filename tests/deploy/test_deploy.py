"""What is shipped to run Writ with is taken by the programs that it is for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from tests.acceptance.cluster import Cluster
from writ.broker.keys import load_or_create
from writ.broker.owned import server_binary
from writ.cli.parser import parse

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
INCLUDE = re.compile(r'^include "\./(.+)"$', re.MULTILINE)
VARIABLE = re.compile(r"^[^#\n]*\$(WRIT_\w+)", re.MULTILINE)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The configurations beside a trust file, as a server finds them, with certificates."""
    root = tmp_path_factory.mktemp("deploy")
    cluster = Cluster(root / "brokers", root / "node")
    cluster.prepare()
    shutil.copy(DEPLOY / "kubernetes" / "kubernetes.conf", cluster.root)
    cluster.secure()
    far = load_or_create(root / "far.nk")
    cluster.more |= {
        "WRIT_LEAF_REMOTES": '["tls://a.example:7422", "tls://b.example:7422"]',
        "WRIT_LEAF_SEED": (root / "far.nk").read_text().strip(),
        "WRIT_LEAF_USER": far.public,
    }
    return cluster


@pytest.mark.parametrize(
    "name",
    [
        *("single.conf", "single-tls.conf", "single-hub.conf", "cluster.conf", "cluster-tls.conf"),
        *("cluster-hub.conf", "leaf.conf", "kubernetes.conf"),
    ],
)
def test_the_broker_takes_its_configuration(prepared: Cluster, name: str) -> None:
    """`nats-server -t` has no objection; it is given what the heads of the files name, and no more."""
    wanted = variables(name) | {"WRIT_BROKER_ACCOUNTS"}
    given = {key: value for key, value in prepared.environment(0).items() if key in wanted}
    assert given.keys() == wanted
    command = (str(server_binary()), "-t", "-c", str(prepared.root / name))
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WRIT_")}
    done = subprocess.run(command, env=clean | given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    del given["WRIT_BROKER_NAME"]
    done = subprocess.run(command, env=clean | given, capture_output=True, text=True, check=False)
    assert done.returncode != 0, "what is missing is noticed before the server starts"


def variables(name: str) -> set[str]:
    """What a configuration, with all that it includes, takes from the environment."""
    path = next(found for found in (DEPLOY / "broker" / name, DEPLOY / "kubernetes" / name) if found.exists())
    text = path.read_text()
    found = set(VARIABLE.findall(text))
    for included in INCLUDE.findall(text):
        found |= set() if included == "trust.conf" else variables(included)
    return found


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_the_units(unit: Path, tmp_path: Path) -> None:
    # The programs are not installed here, and the environment is: only what they are is replaced.
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^(After|Wants)=.*\n", "", text, flags=re.MULTILINE)
    copy = tmp_path / unit.name.replace("@", "@x")
    copy.write_text(text)
    done = subprocess.run(("systemd-analyze", "verify", copy), capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if copy.name in line]
    assert not said, said
    assert "NoNewPrivileges=yes" in text
    assert "ProtectSystem=strict" in text


def test_the_environment_of_the_service_has_all_that_the_broker_needs() -> None:
    lines = (DEPLOY / "systemd" / "broker.env").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert variables("cluster-tls.conf") | {"WRIT_BROKER_ACCOUNTS"} <= given.keys()
    assert (DEPLOY / "broker" / given["WRIT_BROKER_CONFIG"]).is_file()


def test_the_compose_file_holds_together() -> None:
    """Each service has what its program takes; nothing names what is not there."""
    document = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = cast("dict[str, dict[str, Any]]", document["services"])
    brokers = [each for name, each in services.items() if name.startswith("broker-")]
    assert len({each["environment"]["WRIT_BROKER_NAME"] for each in brokers}) == 3
    for broker in brokers:
        assert variables("cluster.conf") | {"WRIT_BROKER_ACCOUNTS"} <= broker["environment"].keys()
    for service in services.values():
        assert set(service.get("depends_on", ())) <= services.keys()
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert source in document["volumes"] or (DEPLOY / source).exists()
    for name in ("node", "orchestrator"):
        assert parse(services[name]["command"]) is not None


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_the_kubernetes_objects_hold_together() -> None:
    """Kustomize builds them; the brokers have all that their configuration names, probes and a budget."""
    built = subprocess.run(("kubectl", "kustomize", str(DEPLOY)), capture_output=True, text=True, check=True)
    objects = [each for each in yaml.safe_load_all(built.stdout) if each]
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for each in objects:
        by_kind.setdefault(each["kind"], []).append(each)
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]
        for kind in ("StatefulSet", "Deployment")
        for each in by_kind[kind]
    }
    labels = [pod["metadata"]["labels"] for pod in pods.values()]
    for budget in by_kind["PodDisruptionBudget"]:
        assert budget["spec"]["selector"]["matchLabels"] in labels
    container = pods["writ-broker"]["spec"]["containers"][0]
    given = {each["name"] for each in container["env"]}
    assert variables("kubernetes.conf") | {"WRIT_BROKER_ACCOUNTS"} <= given
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
    files = by_kind["ConfigMap"][0]["data"]
    included = {name for text in files.values() for name in INCLUDE.findall(text)}
    assert included - {"trust.conf"} <= files.keys()
    for name, pod in pods.items():
        (only,) = pod["spec"]["containers"]
        assert only["securityContext"]["readOnlyRootFilesystem"], name
        if name != "writ-broker":
            assert parse(only["args"]) is not None
        mounted = {each["name"] for each in only["volumeMounts"]}
        claimed = {"data", "views"}
        assert mounted <= {each["name"] for each in pod["spec"]["volumes"]} | claimed, name
