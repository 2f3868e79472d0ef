"""What the cards page and programs ask for over HTTP.

`/lora-ext/v1/page/card...` is for the page's script, which knows the page key. `/sdapi/v1/loras` and
`/sdapi/v1/refresh-loras` are the builtin's; ours stand before them and answer in the same words.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request
from fastapi.params import Depends
from fastapi.responses import JSONResponse
from modules import images, infotext_utils, sd_models, shared
from starlette.concurrency import run_in_threadpool

from lora_ext.errors import BadInput, Problem
from lora_ext.hosts import sidecar
from lora_ext.hosts.block_norms import block_norms
from lora_ext.hosts.card import Card, notes_place
from lora_ext.hosts.card_html import preview_url
from lora_ext.hosts.card_info import card_info, changed_notes, hash_rows
from lora_ext.hosts.file_hashes import hashes_of
from lora_ext.hosts.webui.builtin import Builtin
from lora_ext.hosts.webui.cards import PAGE_KEY, CardsPage, Metadata
from lora_ext.hosts.webui.live import of
from lora_ext.hosts.webui.settings import builtin_wanted

PREFIX = "/lora-ext/v1/page/card"
KEY_HEADER = "x-lora-ext-key"
LONGEST = 1 << 20  # characters of a request
AT_ONCE = 200  # cards whose markup is asked for
NO_STORE = {"Cache-Control": "no-store"}

Body = dict[str, object]


def add_routes(app: FastAPI, page: CardsPage, dependencies: Sequence[Depends] = ()) -> None:
    """Add the routes before the app's own ones; `dependencies` guard those for programs."""
    answers = Answers(page)
    app.router.routes[:] = [r for r in app.router.routes if not _ours(r)]
    others = list(app.router.routes)
    asked: Mapping[str, Callable[[Card, Body], object]] = {
        "info": answers.info,
        "notes": answers.save_notes,
        "preview": answers.replace_preview,
        "hashes": answers.hashes,
        "norms": answers.norms,
    }
    for path, answer in asked.items():
        app.add_api_route(f"{PREFIX}/{path}", _Door(page, answer).open, methods=["POST"], include_in_schema=False)
    many = _DoorOfMany(page, answers.info)
    app.add_api_route(f"{PREFIX}/markup", many.open, methods=["POST"], include_in_schema=False)
    newest = _DoorOfNone(page, answers.info)
    app.add_api_route(f"{PREFIX}/view", newest.open, methods=["POST"], include_in_schema=False)
    app.add_api_route("/sdapi/v1/loras", answers.loras, methods=["GET"], dependencies=list(dependencies))
    app.add_api_route("/sdapi/v1/refresh-loras", answers.refresh, methods=["POST"], dependencies=list(dependencies))
    added = app.router.routes[len(others) :]
    app.router.routes[:] = [*added, *others]


def _ours(route: object) -> bool:
    return isinstance(getattr(getattr(route, "endpoint", None), "__self__", None), (_Door, Answers))


class _Door:
    """One route for the page's script: key, card, then the answer in a thread of its own."""

    def __init__(self, page: CardsPage, answer: Callable[[Card, Body], object]) -> None:
        self._page = page
        self._answer = answer

    async def open(self, request: Request) -> JSONResponse:
        """POST a JSON object with the card's `name`; 403 without the page's key, 404 without a card."""
        given = request.headers.get(KEY_HEADER, "")
        if not secrets.compare_digest(given.encode(), PAGE_KEY.encode()):
            return _refused(403, Problem("", "this request does not come from the page", fix="Reload the page."))
        raw = await request.body()
        try:
            body = await request.json() if len(raw) <= LONGEST else None
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return _refused(422, Problem("", "the request is no JSON object"))
        try:
            return JSONResponse(await run_in_threadpool(self._call, body), headers=NO_STORE)
        except LookupError:
            return _refused(404, Problem(str(body.get("name")), "there is no such LoRA", fix="Refresh the page."))
        except BadInput as e:
            return _refused(422, *e.problems)

    def _call(self, body: Body) -> object:
        card = next((card for card in self._page.shown() if card.name == body.get("name")), None)
        if card is None:
            raise LookupError(body.get("name"))
        return self._answer(card, body)


class _DoorOfMany(_Door):
    """The route for the markup of up to `AT_ONCE` cards: `names` -> `cards`, markup by name."""

    def _call(self, body: Body) -> object:
        names = body.get("names")
        wanted = {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()
        if not 0 < len(wanted) <= AT_ONCE:
            raise BadInput(Problem("names", "no names of cards, or too many", f"1 to {AT_ONCE}"))
        return {"cards": _printable(self._page.markup(wanted))}


class _DoorOfNone(_Door):
    """The route that tells how old a page's cards are: `view`, the number of the last look at the folders."""

    def _call(self, body: Body) -> object:
        return {"view": self._page.cards.library.view.number}


class Answers:
    """The answers; everything in them is plain text for the script to show as text."""

    def __init__(self, page: CardsPage) -> None:
        self._page = page
        self._library = page.cards.library
        self._measuring = threading.Lock()

    def info(self, card: Card, body: Body) -> object:
        """All that is known without reading the file whole."""
        path = card.file.path
        picture = f"{path[: path.rindex('.')]}.{shared.opts.samples_format}"
        info = card_info(card, self._library.memory)
        return _printable({**info, "preview": preview_url(card), "picture": picture})

    def save_notes(self, card: Card, body: Body) -> object:
        """Write what the user changed into the sidecar; everything else in it stays."""
        given = body.get("notes")
        changes = changed_notes(card, given if isinstance(given, dict) else {})
        if changes:
            sidecar.write(notes_place(card), changes)
            self._library.refresh()
        return {"changed": sorted(changes)}

    def replace_preview(self, card: Card, body: Body) -> object:
        """Make a picture of the gallery the card's; `image` is the path that the page has it from."""
        try:
            image = infotext_utils.image_from_url_text({"is_file": True, "name": str(body.get("image"))})
        except (AssertionError, OSError) as e:
            raise BadInput(Problem("preview", "this is no picture of the gallery", got=str(e))) from e
        text, _ = images.read_info_from_image(image)
        target = Path(card.file.path).with_suffix(f".{shared.opts.samples_format}")
        temporary = target.with_name(f".{target.stem}.{secrets.token_hex(8)}{target.suffix}")
        try:
            images.save_image_with_geninfo(image, text, os.fspath(temporary))
            os.replace(temporary, target)
        except OSError as e:
            raise BadInput(Problem(str(target), "the picture could not be written", got=e.strerror or str(e))) from e
        finally:
            temporary.unlink(missing_ok=True)
        self._library.refresh()
        fresh = next((one for one in self._page.shown() if one.name == card.name), card)
        return {"preview": preview_url(fresh)}

    def hashes(self, card: Card, body: Body) -> object:
        """Read the file whole."""
        found = hashes_of(Path(card.file.path), self._library.memory)
        return {"rows": hash_rows(found) if found else []}

    def norms(self, card: Card, body: Body) -> object:
        """How strongly each block of the loaded model is changed. One file at a time."""
        model = sd_models.model_data.sd_model
        if model is None:
            raise BadInput(Problem("", "no checkpoint is loaded"))
        with self._measuring:
            live = of(model)
            network = self._library.load(card.file.path.replace("\\", "/"), live.names).network
            found = block_norms(network, live.table, live.tensors)
        return {"blocks": [[bar.block, bar.norm, bar.layers] for bar in found]}

    def loras(self) -> JSONResponse:
        """Every LoRA, in the builtin's words."""
        networks = Builtin.find().networks
        if builtin_wanted() and networks is not None:
            entries = list(networks.available_networks.values())
            rows = [(e.name, e.alias, e.filename, e.metadata) for e in entries]
        else:
            cards = self._page.shown()
            rows = [(c.name, c.facts.alias or c.name, c.file.path, dict(Metadata(c.file.path))) for c in cards]
        keys = ("name", "alias", "path", "metadata")
        return JSONResponse([_printable(dict(zip(keys, row, strict=True))) for row in rows])

    def refresh(self) -> None:
        """Look at the folders again."""
        if builtin_wanted() and (networks := Builtin.find().networks) is not None:
            networks.list_available_networks()
        try:
            self._page.refresh()
        except OSError as e:
            raise HTTPException(500, f"the LoRA folders cannot be listed: {e}") from e


def _refused(status: int, *problems: Problem) -> JSONResponse:
    return JSONResponse({"problems": [_printable(str(p)) for p in problems]}, status_code=status)


def _printable(value: object) -> object:
    """The value with texts that JSON can carry: halves of characters become question marks."""
    if isinstance(value, str):
        return value.encode("utf8", "replace").decode("utf8")
    if isinstance(value, Mapping):
        return {_printable(key): _printable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_printable(one) for one in value]
    return value
