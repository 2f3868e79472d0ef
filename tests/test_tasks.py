"""tasks.py: what it installs, when it does not, and what it says when it cannot."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import tasks


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have been run; making an environment only touches its Python."""
    commands: list[list[str]] = []

    def run(words: Sequence[str | Path]) -> int:
        commands.append([str(word) for word in words])
        return 0

    def make(folder: Path, python: Path) -> None:
        commands.append(["make", str(folder), str(python)])
        for name in ("bin/python", "Scripts/python.exe"):
            (folder / name).parent.mkdir(parents=True)
            (folder / name).touch()

    monkeypatch.setattr(tasks, "ROOT", tmp_path)
    monkeypatch.setattr(tasks, "run", run)
    monkeypatch.setattr(tasks, "make", make)
    monkeypatch.setattr(tasks, "quiet", lambda words: "")
    monkeypatch.setattr(tasks.shutil, "which", lambda name: None)
    monkeypatch.setenv("CHROMIUM", "")
    return commands


def test_the_first_demo_installs_and_the_second_does_not(ran: list[list[str]], tmp_path: Path) -> None:
    assert tasks.main(["demo"]) == 0
    assert [words[0] for words in ran[:1]] == ["make"]
    assert any(words[1:4] == ["-m", "pip", "install"] and "demo.txt" in words[-1] for words in ran)
    assert ran[-1][1:] == ["-m", "demo.run"]
    del ran[:]
    assert tasks.main(["demo", "--steps", "3"]) == 0
    assert [words[1:] for words in ran] == [["-m", "demo.run", "--steps", "3"]]


def test_changed_requirements_are_installed_again(
    ran: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements = tmp_path / "requirements"
    requirements.mkdir()
    (requirements / "demo.txt").write_text("a")
    monkeypatch.setattr(tasks, "REQUIREMENTS", requirements)
    tasks.main(["demo"])
    del ran[:]
    (requirements / "demo.txt").write_text("b")
    tasks.main(["demo"])
    assert ran[0][1:4] == ["-m", "pip", "install"]
    assert len(ran) == 2  # the environment itself is kept


def test_a_failed_install_is_not_taken_for_done(ran: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "run", lambda words: int("pip" in [str(word) for word in words]))
    assert tasks.main(["demo"]) == 2
    assert tasks.main(["demo"]) == 2


def test_ui_adds_gradio(ran: list[list[str]]) -> None:
    tasks.main(["demo", "--ui"])
    assert any("ui.txt" in words[-1] for words in ran)
    assert ran[-1][1:] == ["-m", "demo.run", "--ui"]


def test_pictures_need_the_suites_browser(ran: list[list[str]]) -> None:
    tasks.main(["pictures", "--output", "here"])
    assert any("test.txt" in words[-1] for words in ran)
    assert ran[-1][1:] == ["-m", "docs.screenshots", "--output", "here"]


def test_the_whole_suite(ran: list[list[str]]) -> None:
    assert tasks.main(["test"]) == 0
    modules = [words[2] for words in ran if words[1:2] == ["-m"]]
    assert modules[-4:] == ["ruff", "ruff", "mypy", "pytest"]
    assert "playwright" in modules  # no browser was found
    assert any("no-deps.txt" in words[-1] and "--no-deps" in words for words in ran)


def test_a_browser_on_the_machine_is_taken(ran: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.shutil, "which", lambda name: "/bin/chrome" if name == "google-chrome" else None)
    tasks.main(["test"])
    assert tasks.os.environ["CHROMIUM"] == "/bin/chrome"
    assert not any("playwright" in words for words in ran)


def test_words_for_pytest_are_handed_on(ran: list[list[str]]) -> None:
    tasks.main(["test", "tests/cli", "-k", "size", "-x"])
    assert ran[-1][1:] == ["-m", "pytest", "tests/cli", "-k", "size", "-x"]
    assert not any("ruff" in words for words in ran)


def test_a_failing_step_fails_the_task(ran: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in ("ruff", "mypy", "pytest"):
        monkeypatch.setattr(tasks, "run", lambda words, broken=broken: 3 * (broken in [str(word) for word in words]))
        assert tasks.main(["test"]) == 3


def test_host_pins_use_python_3_10(ran: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "python310", lambda: Path("/three/ten"))
    assert tasks.main(["test", "--host-pins"]) == 0
    assert ran[0][0] == "make"
    assert ran[0][1].endswith(".venv-pins")
    assert ran[0][2] == str(Path("/three/ten"))
    assert not any("ruff" in words for words in ran)


def test_without_python_3_10_it_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tasks, "candidates310", lambda: iter([["no-such-python"], [sys.executable, "-c", "0;"]]))
    monkeypatch.setattr(tasks, "quiet", lambda words: None)
    assert tasks.main(["test", "--host-pins"]) == 2
    assert "needs Python 3.10" in capsys.readouterr().err


def test_webui_needs_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("", str(tmp_path)):
        monkeypatch.setenv("WEBUI_DIR", folder)
        assert tasks.main(["test", "--webui"]) == 2
        assert "WEBUI_DIR" in capsys.readouterr().err


def test_webui_runs_the_hosts_tests(ran: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "launch.py").touch()
    monkeypatch.setenv("WEBUI_DIR", str(tmp_path))
    assert tasks.main(["test", "--webui"]) == 0
    assert ran[-1][1:] == ["-m", "pytest", "tests/hosts"]


def test_requirement_files_name_no_place_to_install_from() -> None:
    files = sorted(tasks.REQUIREMENTS.glob("*.txt"))
    assert {"demo.txt", "ui.txt", "test.txt", "host-pins.txt", "no-deps.txt"} <= {path.name for path in files}
    for path in files:
        text = path.read_text(encoding="utf8")
        assert "://" not in text
        assert "--index" not in text
        assert "--extra-index" not in text


def test_both_sets_pin_torch() -> None:
    assert "torch==2.13.0" in (tasks.REQUIREMENTS / "demo.txt").read_text()
    assert "torch==2.1.2" in (tasks.REQUIREMENTS / "host-pins.txt").read_text()
