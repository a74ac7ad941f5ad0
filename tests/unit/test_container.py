"""What is shipped for containers agrees with the code: the manifest's configuration, its probes, and its patience."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest

from highlanderd.config import Configuration, load
from tests.support.processes import ROOT

CONTAINER = ROOT / "packaging" / "container"
MANIFEST = (CONTAINER / "kubernetes.yaml").read_text("utf-8")
IMAGE = (CONTAINER / "Containerfile").read_text("utf-8")


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    """What the manifest's pods run by, on a node with a long name."""
    found = re.search(r"^  highlander\.toml: \|\n((?:    .*\n|\n)+)", MANIFEST, re.MULTILINE)
    assert found is not None
    (tmp_path / "dsn").write_text("postgresql://highlander@db1/ops")
    file = tmp_path / "highlander.toml"
    file.write_text(dedent(found[1]).replace("/etc/highlander/", f"{tmp_path}/"))
    return load(file, {"KUBERNETES_NODE": "ip-10-0-1-17.eu-central-1.compute.internal"}).configuration


def test_the_manifests_configuration_is_valid(configuration: Configuration) -> None:
    assert configuration.daemon.node.startswith("ip-10")
    assert list(configuration.programs) == ["beat"]


def test_the_probes_ask_what_the_daemon_answers(configuration: Configuration) -> None:
    routes = (ROOT / "highlanderd" / "listeners" / "health.py").read_text("utf-8")
    probes = re.findall(r"httpGet: \{path: (\S+), port: metrics\}", MANIFEST)
    assert probes == ["/healthz", "/readyz"]
    assert all(f'"{path}"' in routes for path in probes)
    port = configuration.metrics.listen.rpartition(":")[2]
    assert f"containerPort: {port}" in MANIFEST


def test_a_pod_gets_the_time_that_its_programs_need_to_stop(configuration: Configuration) -> None:
    grace = re.search(r"terminationGracePeriodSeconds: (\d+)", MANIFEST)
    assert grace is not None
    longest = max(program.stop_timeout for program in configuration.programs.values())
    assert int(grace[1]) >= longest + configuration.postgres.lease


def test_image_and_manifest_name_one_user() -> None:
    users = {*re.findall(r"(?:runAsUser|runAsGroup|fsGroup): (\d+)", MANIFEST), *re.findall(r"USER (\d+)", IMAGE)}
    assert len(users) == 1


def test_the_image_is_made_of_what_there_is() -> None:
    for path in re.findall(r"/source/(\S+)", IMAGE):
        assert (ROOT / path).exists()
