"""install.py adds what is missing and moves nothing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import venv
from pathlib import Path
from types import ModuleType

import pytest

INSTALL = Path(__file__).parent.parent / "install.py"

PINS = [
    *("accelerate==0.21.0", "numpy==1.26.2", "Pillow==9.5.0", "protobuf==3.20.0", "safetensors==0.4.2"),
    *("tokenizers==0.13.3", "transformers==4.30.2", "huggingface_hub==0.36.2", "hf-xet", "requests", "httpx==0.24.1"),
    *("httpcore==0.15.0", "h11==0.12.0", "anyio==3.7.1", "pydantic==1.10.27", "fastapi==0.94.0", "starlette==0.26.1"),
    *("omegaconf==2.2.3", "antlr4-python3-runtime==4.9.3", "PyYAML==6.0.3", "setuptools==69.5.1", "filelock", "fsspec"),
    *("packaging", "regex", "tqdm", "typing_extensions", "idna", "certifi", "urllib3", "charset-normalizer"),
]
"""A1111 1.10.1's own versions of whatever diffusers or what it needs could touch; installed one by one, as they are."""


@pytest.fixture
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", INSTALL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def installed(monkeypatch: pytest.MonkeyPatch, install: ModuleType, **versions: str) -> list[list[str]]:
    """Pretend that exactly these are installed; returns the calls of pip to come."""
    calls: list[list[str]] = []
    monkeypatch.setattr(install, "version", versions.get)
    monkeypatch.setattr(install, "pip", lambda words: calls.append(words) or "")
    return calls


def test_nothing_missing_means_nothing_is_asked(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = installed(monkeypatch, install, diffusers="0.20", PyYAML="6.0", tomli="2.0")
    assert install.main() == 0 and calls == []


@pytest.mark.parametrize(
    ("torch", "transformers", "wanted"),
    [
        ("2.1.2+cu121", "4.30.2", "diffusers==0.30.3"),
        ("2.9.0", "4.48.1", "diffusers"),
        ("2.3.1", "4.46.1", "diffusers==0.30.3"),
    ],
)
def test_the_version_follows_the_host(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, torch: str, transformers: str, wanted: str
) -> None:
    calls = installed(monkeypatch, install, torch=torch, transformers=transformers, PyYAML="6", tomli="2.0")
    install.main()
    assert [words[-1] for words in calls] == [wanted]


def test_every_installed_version_is_a_constraint(install: ModuleType) -> None:
    found = set(install.constraints())
    assert f"pytest=={pytest.__version__}" in found
    assert all(line.count("==") == 1 and " " not in line for line in found)


def test_remains_of_an_old_version_are_no_constraint(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    remains = tmp_path / "~ytest-1.0.dist-info"
    remains.mkdir()
    (remains / "METADATA").write_text("Metadata-Version: 2.1\nName: pytest\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [line for line in install.constraints() if line.startswith("pytest==")] == [f"pytest=={pytest.__version__}"]


def run(python: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": "", **environment}
    return subprocess.run([python, INSTALL], capture_output=True, text=True, env=env, check=False)


def freeze(python: Path) -> set[str]:
    done = subprocess.run([python, "-m", "pip", "freeze", "--all"], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n")) - {""}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a venv with A1111's pins; of torch there is only the record that it is installed."""
    if sys.version_info >= (3, 12):
        pytest.skip("NOT TESTED: A1111's pins have no wheels for this Python; run `python tasks.py test --host-pins`")
    folder = tmp_path_factory.mktemp("host")
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    words = [python, "-m", "pip", "install", "-q", "--no-deps", "--prefer-binary", *PINS]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NOT TESTED: no venv with A1111's pins could be made (offline?): {done.stderr[-300:]}")
    where = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    library = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    for name, version in (("torch", "2.1.2+cu121"), ("torchvision", "0.16.2+cu121"), ("odd_one", "from-a-branch")):
        record = library / f"{name}-{version.replace('-', '_')}.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (record / "RECORD").write_text("")
    return python


def test_offline_it_says_what_to_do_and_lets_the_host_start(host: Path) -> None:
    before = freeze(host)
    done = run(host, PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="0", PIP_NO_CACHE_DIR="1")
    assert done.returncode == 0, done.stderr
    assert "could not install diffusers==0.30.3" in done.stdout
    assert "ERROR" in done.stdout and str(INSTALL) in done.stdout
    assert freeze(host) == before


def test_on_the_hosts_pins_nothing_is_lost_or_moved(host: Path) -> None:
    before = freeze(host)
    done = run(host)
    assert done.returncode == 0 and "could not" not in done.stdout, done.stdout
    after = freeze(host)
    assert before - after == set(), "a package was lost or moved"
    # what importlib_metadata itself asks for changes from release to release and with Python's version
    added = {line.split("==")[0] for line in after - before}
    assert {"diffusers", "importlib_metadata", "zipp"} <= added and len(added) <= 6, added
    assert "diffusers==0.30.3" in after


def test_the_second_time_no_index_is_asked(host: Path) -> None:
    done = run(host, PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
