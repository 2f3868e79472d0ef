"""The tab alone in a page of its own, for use without a WebUI."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from lora_ext.errors import BadInput, Problem
from lora_ext.ui.form import SCRIPT
from lora_ext.ui.service import Service
from lora_ext.ui.tab import build

ROOT = Path(__file__).parents[2]
SCRIPTS = (
    "lora_ext.js",
    "lora_ext_said.js",
    "lora_ext_reply.js",
    "lora_ext_chart.js",
    "lora_ext_train.js",
    "lora_ext_pictures.js",
    "lora_ext_pictures_told.js",
    "lora_ext_pictures_order.js",
    "lora_ext_pictures_grid.js",
    "lora_ext_pictures_chosen.js",
    "lora_ext_pictures_acts.js",
    "lora_ext_pictures_tools.js",
    "lora_ext_settings.js",
    "lora_ext_goal.js",
    "lora_ext_exchange.js",
    "lora_ext_choose.js",
    "lora_ext_choose_sheet.js",
    "lora_ext_choose_viewer.js",
    "lora_ext_choose_pick.js",
)
"""The first offers what the others use."""

LANGUAGES = ("zh_CN", "zh_TW", "ru_RU", "ja_JP")

ASSETS = {
    **{name: ROOT / "javascript" / name for name in SCRIPTS},
    **{f"{name}.json": ROOT / "localizations" / f"{name}.json" for name in LANGUAGES},
    "style.css": ROOT / "style.css",
    "language.js": Path(__file__).with_name("language.js"),
}
"""What a WebUI loads by itself from the extension's folder, and what stands for its own choice of language."""

LOCAL = "127.0.0.1"


def serve(service: Service, mount: Callable[[FastAPI], None], port: int) -> None:
    """Show the tab at http://127.0.0.1:`port` until interrupted. `mount` adds the job's routes to the app."""
    uvicorn.run(application(service, mount), host=LOCAL, port=port, log_level="warning")


def application(service: Service, mount: Callable[[FastAPI], None]) -> FastAPI:
    """The app behind `serve`: our routes first, then gradio, which takes every other path."""
    for path in ASSETS.values():
        if not path.is_file():
            raise BadInput(Problem(str(path), "the page needs this file", fix="Run from a full copy of the project."))
    app = FastAPI()
    # A page of another site that had its name point here must not reach the job.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[LOCAL, "localhost"])
    for name, path in ASSETS.items():
        app.add_api_route(f"/lora-ext/v1/assets/{name}", _sender(path), methods=["GET"], include_in_schema=False)
    mount(app)
    return gr.mount_gradio_app(app, _page(service), path="/", **_look(gr.mount_gradio_app))


def _sender(path: Path) -> Callable[[], FileResponse]:
    def send() -> FileResponse:
        return FileResponse(path, headers={"Cache-Control": "no-cache"})

    return send


def _page(service: Service) -> gr.Blocks:
    tab = build(service)
    with gr.Blocks(title="LoRA training", analytics_enabled=False, **_look(gr.Blocks)) as page:
        gr.HTML(_HEAD)
        tab.render()
        page.load(None, None, None, **{SCRIPT: _loader()})
    page.queue()
    return page


_HEAD = """
<div class="lora-ext-top"><h1 class="lora-ext-title">Train a LoRA</h1><div class="lora-ext-language"></div></div>
""".strip()


def _look(taker: Callable[..., object]) -> dict[str, gr.themes.Base]:
    """A theme with the system's own fonts (gradio's asks the internet), for what takes one in this gradio."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return {"theme": theme} if "theme" in inspect.signature(taker).parameters else {}


def _loader() -> str:
    scripts = json.dumps([f"lora-ext/v1/assets/{name}" for name in SCRIPTS])
    style, language = (json.dumps(f"lora-ext/v1/assets/{name}") for name in ("style.css", "language.js"))
    return f"""() => {{
        if (document.getElementById("lora_ext_style")) return;
        const style = document.createElement("link");
        style.id = "lora_ext_style";
        style.rel = "stylesheet";
        style.href = {style};
        document.head.append(style);
        const load = (address) => {{
            const script = document.createElement("script");
            script.async = false; // in this order
            script.src = address;
            document.head.append(script);
            return script;
        }};
        const others = () => {scripts}.forEach(load);
        const first = load({language});
        first.onload = () => window.loraExtLanguage.then(others); // they are to speak it from their first word
        first.onerror = others;
    }}"""
