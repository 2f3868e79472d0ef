"""A real WebUI for the tests that need one: the folder of a stable-diffusion-webui that starts comes in WEBUI_DIR."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from webui_server import Server, webui_folder

from demo.pictures import write_pictures
from demo.random_base import make

FAMILIES = ("sd1", "sdxl", "sd2")


@pytest.fixture(scope="session")
def webui_python() -> Path:
    """The WebUI's Python: WEBUI_PYTHON, or that of its venv."""
    inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    python = Path(os.environ.get("WEBUI_PYTHON", "") or webui_folder() / "venv" / inside)
    assert python.is_file(), f"no Python at {python}; set WEBUI_PYTHON"
    return python


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-image's astronaut, chelsea, coffee and rocket with captions."""
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, 128)
    return folder


@pytest.fixture(scope="session")
def base_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Shrunken random checkpoints that the WebUI loads by their yaml."""
    webui_folder()
    folder = tmp_path_factory.mktemp("checkpoints")
    made = [make(family, folder / f"{family}.safetensors") for family in FAMILIES]
    others = [make(family, folder / f"{family}-other.safetensors", seed=3) for family in ("sd1", "sdxl")]
    return [*made, *others, make("sd1", folder / "sd1-inpainting.safetensors", seed=5, inpainting=True)]


@pytest.fixture(scope="session")
def server(webui_python: Path, base_checkpoints: list[Path], tmp_path_factory: pytest.TempPathFactory):
    """One WebUI for all tests, started as users start it, with our extension and the tests' probe."""
    running = Server(webui_folder(), webui_python, tmp_path_factory.mktemp("webui"), base_checkpoints)
    yield running
    running.stop()
