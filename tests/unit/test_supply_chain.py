"""What others' work the project is built from: named exactly, and told."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"

# The parts of the CycloneDX 1.5 schema that the bill uses.
COMPONENT = {
    "type": "object",
    "required": ["type", "name", "version", "purl", "bom-ref", "hashes"],
    "additionalProperties": False,
    "properties": {
        "type": {"const": "library"},
        "bom-ref": {"type": "string", "minLength": 1},
        "name": {"type": "string", "pattern": "^[a-z0-9._-]+$"},
        "version": {"type": "string", "minLength": 1},
        "scope": {"enum": ["required", "optional", "excluded"]},
        "purl": {"type": "string", "pattern": "^pkg:pypi/[a-z0-9._-]+@[^@]+$"},
        "hashes": {
            "type": "array",
            "minItems": 1,
            "uniqueItems": True,
            "items": {
                "type": "object",
                "required": ["alg", "content"],
                "additionalProperties": False,
                "properties": {
                    "alg": {"const": "SHA-256"},
                    "content": {"type": "string", "pattern": "^[a-f0-9]{64}$"},
                },
            },
        },
        "licenses": {
            "type": "array",
            "minItems": 1,
            "items": {
                "oneOf": [
                    {
                        "type": "object",
                        "required": ["expression"],
                        "additionalProperties": False,
                        "properties": {"expression": {"type": "string", "minLength": 1}},
                    },
                    {
                        "type": "object",
                        "required": ["license"],
                        "additionalProperties": False,
                        "properties": {
                            "license": {"type": "object", "required": ["name"]},
                        },
                    },
                ]
            },
        },
        "properties": {"type": "array", "items": {"required": ["name", "value"]}},
    },
}
BILL = {
    "type": "object",
    "required": ["bomFormat", "specVersion", "version", "components"],
    "additionalProperties": False,
    "properties": {
        "bomFormat": {"const": "CycloneDX"},
        "specVersion": {"const": "1.5"},
        "serialNumber": {"type": "string", "pattern": "^urn:uuid:[0-9a-f-]{36}$"},
        "version": {"const": 1},
        "metadata": {"type": "object"},
        "components": {"type": "array", "uniqueItems": True, "items": COMPONENT},
        "dependencies": {"type": "array", "items": {"required": ["ref", "dependsOn"]}},
    },
}


def bill_of_materials(**environment: str) -> str:
    """From a fresh process, whose hashes of text are others."""
    words = [sys.executable, str(ROOT / "scripts" / "sbom")]
    ran = subprocess.run(
        words, capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return ran.stdout


@pytest.fixture(scope="module")
def bill() -> dict:
    return json.loads(bill_of_materials(PYTHONHASHSEED="1"))


def test_the_bill_is_a_cyclonedx_document(bill: dict) -> None:
    jsonschema.validate(bill, BILL)


def test_the_bill_has_the_packages_of_the_lock_with_all_their_hashes(bill: dict) -> None:
    text = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^([a-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE)
    components = {(one["name"], one["version"]): one for one in bill["components"]}
    assert set(components) == set(pins)
    listed = Counter(each["content"] for one in components.values() for each in one["hashes"])
    assert listed == Counter(re.findall(r"sha256:([0-9a-f]{64})", text))
    (depends,) = bill["dependencies"]
    assert depends["dependsOn"] == sorted(one["purl"] for one in components.values())
    without = {name for (name, _), one in components.items() if "licenses" not in one}
    elsewhere = {name for (name, _), one in components.items() if one["scope"] == "optional"}
    assert without <= elsewhere  # Packages of another system are not here to be asked.


def test_two_runs_give_the_same_bill(bill: dict) -> None:
    assert bill_of_materials(PYTHONHASHSEED="2") == bill_of_materials(PYTHONHASHSEED="3")


def test_the_hosted_run_does_what_the_own_one_does() -> None:
    document = yaml.safe_load(WORKFLOW.read_text())
    steps = document["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1].endswith('/../scripts/test"')
    assert document["permissions"] == {"contents": "read"}


def test_every_action_is_named_by_its_commit() -> None:
    used = re.findall(r"uses: (.+)", WORKFLOW.read_text())
    assert used
    for line in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_commands_of_the_hosted_run_exist() -> None:
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    for words in (step["run"].split() for job in jobs for step in job["steps"] if "run" in step):
        script = words[1] if words[0].endswith("python") else words[0]
        assert os.access(ROOT / script, os.X_OK), script


def test_images_are_pinned_again_by_tag() -> None:
    pinned = runpy.run_path(str(ROOT / "scripts" / "pin-images"))["pinned"]
    digests = {"python:3.12.14-slim-bookworm": "sha256:" + "a" * 64, "a/b:v1": "sha256:" + "b" * 64}
    text = (
        "FROM python:3.12.14-slim-bookworm AS build\n"
        f"FROM python:3.12.14-slim-bookworm@sha256:{'0' * 64}\n"
        "  image: gridtokenx-node:latest\n"
        "    image: a/b:v1\n"
    )
    once = pinned(text, digests.__getitem__)
    assert once == (
        f"FROM python:3.12.14-slim-bookworm@sha256:{'a' * 64} AS build\n"
        f"FROM python:3.12.14-slim-bookworm@sha256:{'a' * 64}\n"
        "  image: gridtokenx-node:latest\n"
        f"    image: a/b:v1@sha256:{'b' * 64}\n"
    )
    assert pinned(once, digests.__getitem__) == once


def test_the_real_files_are_read_by_it() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "pin-images"))
    asked: list[str] = []

    def digest(image: str) -> str:
        asked.append(image.partition(":")[0])
        return "sha256:" + "c" * 64

    for path in script["FILES"]:
        text = path.read_text()
        assert script["pinned"](text, digest).count("c" * 64) == text.count("@sha256:")
    assert asked == ["python", "python", "prom/prometheus"]


def test_advisories_are_asked_for_both_locks_by_a_tool_of_its_own(tmp_path: Path) -> None:
    """The tool itself is stood in for: no test asks the network."""
    copy = tmp_path / "scripts" / "audit-dependencies"
    copy.parent.mkdir()
    copy.write_text((ROOT / "scripts" / "audit-dependencies").read_text())
    version = re.search(r"^version=(\S+)$", copy.read_text(), re.MULTILINE)
    assert version is not None
    tool = tmp_path / ".venv-audit" / "bin" / "pip-audit"
    tool.parent.mkdir(parents=True)
    (tmp_path / ".venv-audit" / "version").write_text(version[1] + "\n")
    tool.write_text('#!/bin/sh\necho "$@"\ncase "$*" in *test.lock*) exit 1;; esac\n')
    tool.chmod(0o755)
    ran = subprocess.run(["sh", str(copy), "--strict"], capture_output=True, text=True, check=False)
    assert ran.returncode == 1  # One of the two has found something.
    locks = ("requirements.lock", "requirements-test.lock")
    assert ran.stdout.splitlines() == [
        f"--disable-pip --require-hashes --requirement {lock} --strict" for lock in locks
    ]
