from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sysconfig
import tomllib

import pytest

from tests import audit, deployment

LOCKS = sorted((deployment.ROOT / "requirements").glob("*.lock"))


def test_what_was_skipped_does_not_count_as_looked_at() -> None:
    skipped = {"name": "torch", "skip_reason": "Dependency not found"}
    sound = {"name": "numpy", "version": "2.0", "vulns": []}
    flawed = {"name": "pillow", "version": "9.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["11.3"]}]}
    assert audit.verdict({"dependencies": [skipped]}) == (0, [])
    assert audit.verdict({"dependencies": [skipped, sound, flawed]}) == (
        2,
        ["pillow 9.0: PYSEC-1, fixed in 11.3"],
    )


@pytest.mark.parametrize(
    ("answers", "code", "words"),
    [
        ([None, None], 0, "NOTHING was audited"),
        ([{"dependencies": [{"name": "a", "skip_reason": "x"}]}, None], 0, "NOTHING was audited"),
        (
            [None, {"dependencies": [{"name": "a", "version": "1", "vulns": []}]}],
            0,
            "osv: 1 of 1 packages looked at",
        ),
        (
            [{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "V", "fix_versions": []}]}]}],
            1,
            "a 1: V, fixed in nothing yet",
        ),
    ],
)
def test_only_what_was_found_fails(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answers: list[object],
    code: int,
    words: str,
) -> None:
    left = iter(answers)
    monkeypatch.setattr(audit, "ask", lambda locks, service: next(left))
    assert audit.main() == code
    assert words in capsys.readouterr().out


def test_all_that_ships_is_audited() -> None:
    assert sorted(audit.LOCKS) == LOCKS
    dockerfile = (deployment.ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert set(re.findall(r"requirements/([\w.]+lock)", dockerfile)) <= {lock.name for lock in audit.LOCKS}


@pytest.mark.parametrize("name", ["light.lock", "runtime.lock"])
def test_traces_can_be_switched_on_in_the_images(name: str) -> None:
    extra = tomllib.loads((deployment.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = {re.split("[><=~]", entry)[0] for entry in extra["project"]["optional-dependencies"]["traces"]}
    text = (deployment.ROOT / "requirements" / name).read_text(encoding="utf-8")
    assert wanted <= set(re.findall(r"^([a-z0-9-]+)==", text, flags=re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_locked_package_has_hashes(lock: pathlib.Path) -> None:
    text = lock.read_text(encoding="utf-8")
    packages = re.findall(
        r"^\S+==[^\n]*\\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", text, flags=re.MULTILINE
    )
    assert len(packages) == len(re.findall(r"^[^\s#]", text, flags=re.MULTILINE)) > 0
    assert "://" not in re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)


@pytest.mark.slow
def test_the_bill_of_materials_names_every_package(tmp_path: pathlib.Path) -> None:
    makefile = (deployment.ROOT / "Makefile").read_text(encoding="utf-8")
    line = re.search(r"\$\(BIN\)/(cyclonedx-py .*)$", makefile, flags=re.MULTILINE)
    assert line is not None
    arguments = line[1].replace("$(SBOM)", str(tmp_path / "sbom.json")).split()
    program = pathlib.Path(sysconfig.get_path("scripts")) / arguments[0]
    subprocess.run(
        [str(program), *arguments[1:]], cwd=deployment.ROOT, check=True, capture_output=True, timeout=120
    )
    bill = json.loads((tmp_path / "sbom.json").read_text())
    lock = (deployment.ROOT / "requirements/runtime.lock").read_text(encoding="utf-8")
    pinned = set(re.findall(r"^([a-z0-9-]+)==(\S+)", lock, flags=re.MULTILINE))
    assert {(part["name"], part["version"]) for part in bill["components"]} == pinned
    assert bill["metadata"]["component"]["name"] == "listing-dedup"
