"""Our page in the WebUI's Extra Networks panel, in the place of the builtin's Lora page."""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from modules import sd_models, shared, ui_extra_networks

from lora_ext.hosts.card import FAMILIES, SHORT, Card, Cards
from lora_ext.hosts.card_html import (
    FIRST,
    Look,
    card_html,
    empty_html,
    folders_html,
    foot_html,
    placeholder_html,
    preview_url,
    tree_html,
)
from lora_ext.hosts.glance import header_metadata
from lora_ext.hosts.name_index import normal
from lora_ext.hosts.webui.builtin import Builtin
from lora_ext.hosts.webui.settings import builtin_wanted
from lora_ext.layers import Family

PAGE_KEY = secrets.token_urlsafe(24)
"""In the page's markup: whoever was let in to see the page may ask for more of what it shows."""

BUILTIN_MODULE = "ui_extra_networks_lora"

Item = dict[str, object]


class CardsPage(ui_extra_networks.ExtraNetworksPage):  # type: ignore[misc]  # the host has no types
    """The page. Its items have the keys that the builtin's have, for other extensions that look at them."""

    def __init__(self, cards: Cards) -> None:
        super().__init__("Lora")
        self.cards = cards
        self.hidden: Counter[str] = Counter()

    def refresh(self) -> None:
        """The user asks for a new look at the folders."""
        before = {file.path: file.stamp for file in self.cards.library.view.listing.files}
        self.cards.library.refresh()
        after = {file.path: file.stamp for file in self.cards.library.view.listing.files}
        tell_builtin(before, after)

    def shown(self) -> tuple[Card, ...]:
        """All cards, called as the user wants LoRAs to be called."""
        aliases = getattr(shared.opts, "lora_preferred_name", "") != "Filename"
        return self.cards.all(aliases=aliases, pictures=tuple(sorted(ui_extra_networks.allowed_preview_extensions())))

    def create_item(self, name: str, index: int | None = None, enable_filter: bool = True) -> Item | None:
        """The item of one card; None when it is not there, or (with `enable_filter`) for another model."""
        card = next((card for card in self.shown() if card.name == name), None)
        if card is None or (enable_filter and not _fits(card)):
            return None
        return _item(card, index or 0)

    def list_items(self) -> Iterator[Item]:
        """Items of the cards that fit the loaded model; the others are counted."""
        self.hidden = Counter()
        for number, card in enumerate(self.shown()):
            if _fits(card):
                yield _item(card, number)
            else:
                self.hidden[card.foreign or card.version] += 1

    def read_user_metadata(self, item: Item, use_cache: bool = True) -> None:
        """The host asks before it shows one card anew: the notes may have changed."""
        if not use_cache:
            self.cards.library.refresh()
            fresh = self.create_item(str(item["name"]), enable_filter=False)
            item.update(fresh or {})

    def create_item_html(self, tabname: str, item: Item, template: str | None = None) -> str:
        """One card's markup; whatever the template, it is ours."""
        return self._html(item, card_html)

    def markup(self, names: Collection[str]) -> dict[str, str]:
        """Whole cards by name, of those that the page had placeholders for."""
        found = ((number, card) for number, card in enumerate(self.shown()) if card.name in names)
        return {card.name: self._html(_item(card, number), card_html) for number, card in found}

    def _html(self, item: Item, make: Callable[..., str]) -> str:
        card, sort_keys = item["card"], item["sort_keys"]
        assert isinstance(card, Card) and isinstance(sort_keys, Mapping)
        only = _search_only(card)
        if only and shared.opts.extra_networks_hidden_models == "Never":
            return ""
        return make(card, int(sort_keys["default"]), _look(), search_only=only)

    def create_card_view_html(self, tabname: str, *, none_message: str | None) -> str:
        """All cards; those far down as placeholders."""
        items = enumerate(self.items.values())
        found = "".join(self._html(item, card_html if at < FIRST else placeholder_html) for at, item in items)
        return found or none_message or empty_html(self.allowed_directories_for_previews())

    def create_tree_view_html(self, tabname: str) -> str:
        """Folders as a tree."""
        cards = [card for item in self.items.values() if isinstance(card := item["card"], Card)]
        listing = self.cards.library.view.listing if self.items else None
        return tree_html(listing.subfolders if listing else {}, cards, self.allowed_directories_for_previews())

    def create_dirs_view_html(self, tabname: str) -> str:
        """Folders as buttons."""
        return folders_html(list(self._folder_names()) if self.items else [], tabname)

    def create_html(self, tabname: str, *, empty: bool = False) -> str:
        """The host's pane with our cards, and a line on what is not shown."""
        view = self.cards.library.view.number if not empty else 0  # before: what is found meanwhile is not in the pane
        pane: str = super().create_html(tabname, empty=empty)
        if empty:
            return pane + foot_html(PAGE_KEY, {}, ())
        problems = (*self.cards.library.view.listing.problems, *self.cards.sidecars.problems())
        return pane + foot_html(PAGE_KEY, self.hidden, map(str, problems), view)

    def allowed_directories_for_previews(self) -> list[str]:
        """The LoRA folders."""
        return [str(folder) for folder in self.cards.library.folders]

    def create_user_metadata_editor(self, ui: object, tabname: str) -> NoEditor:
        """The info window is made by the page's script."""
        return NoEditor()

    def _folder_names(self) -> Iterator[str]:
        slash = "/" if shared.opts.extra_networks_dir_button_function else ""
        for folders in self.cards.library.view.listing.subfolders.values():
            for name in folders:
                if shared.opts.extra_networks_show_hidden_directories or not _is_hidden(name):
                    yield normal(slash + name + "/").replace("/", os.sep)


class NoEditor:
    """What the host asks an editor for."""

    def create_ui(self) -> None:
        """Nothing to add to the page."""

    def setup_ui(self, gallery: object) -> None:
        """Nothing to join."""


class Metadata(Mapping[str, object]):
    """A file's metadata, read when somebody wants to see it; values that are JSON objects as such, as the host does."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __getitem__(self, key: str) -> object:
        return self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __bool__(self) -> bool:
        return True  # only made for files that have some

    def _read(self) -> dict[str, object]:
        return {key: _parsed(value) for key, value in header_metadata(self._path).items()}


def put_page(cards: Cards) -> None:
    """Take the place of the builtin's page, or leave it to the builtin when the user wants that one.

    Call it when the host makes its settings: then all pages are registered and none is built yet.
    """
    pages = ui_extra_networks.extra_pages
    theirs = [page for page in pages if type(page).__module__ == BUILTIN_MODULE]
    kept = [page for page in pages if not isinstance(page, CardsPage)]
    if builtin_wanted() and theirs:
        pages[:] = kept
    elif theirs:
        ours = CardsPage(cards)
        pages[:] = [ours if page is theirs[0] else page for page in kept if page not in theirs[1:]]
    else:
        pages[:] = [*kept, CardsPage(cards)]
    ui_extra_networks.allowed_dirs.clear()
    for page in pages:
        ui_extra_networks.allowed_dirs.update(page.allowed_directories_for_previews())


def loaded_family() -> Family | None:
    """Of the loaded model; None while there is none, or one that we do not know. Waits for nothing."""
    model = sd_models.model_data.sd_model
    named = {"is_sdxl": "SDXL", "is_sd2": "SD2", "is_sd1": "SD1"}
    found = (FAMILIES[short] for flag, short in named.items() if getattr(model, flag, False))
    return next(found, None)


def tell_builtin(before: Mapping[str, object], after: Mapping[str, object]) -> None:
    """Let the builtin know files that are new, have changed or are gone: other extensions ask it."""
    networks = Builtin.find().networks
    if networks is None:
        return
    known = {entry.filename: name for name, entry in list(networks.available_networks.items())}
    for path in before.keys() - after.keys():
        networks.available_networks.pop(known.get(path), None)
    new = [path for path, stamp in after.items() if before.get(path) != stamp]
    if new:
        networks.update_available_networks_by_names([Path(path).stem for path in new])


def _fits(card: Card) -> bool:
    loaded = loaded_family()
    hide_unknown = loaded is not None and SHORT[loaded] in getattr(shared.opts, "lora_hide_unknown_for_versions", ())
    return bool(getattr(shared.opts, "lora_show_all", False)) or card.fits(loaded, hide_unknown)


def _item(card: Card, number: int) -> Item:
    note = card.note
    weight = f"{note.weight:g}" if note.weight else "opts.extra_networks_default_multiplier"
    words = f" + {json.dumps(' ' + note.activation)}" if note.activation else ""
    path = card.file.path
    return {
        "name": card.name,
        "filename": path,
        "shorthash": card.facts.hash[:12],
        "preview": preview_url(card) or None,
        "description": card.description,
        "search_terms": [card.place, *([card.facts.hash] if card.facts.hash else [])],
        "local_preview": f"{path[: path.rindex('.')]}.{shared.opts.samples_format}",
        "metadata": Metadata(path) if card.facts.metadata else {},
        "sort_keys": {"default": number, "name": card.name.lower(), "path": path.lower()},
        "sd_version": card.version,
        "prompt": f"{json.dumps(f'<lora:{card.tag}:')} + {weight} + {json.dumps('>')}{words}",
        "negative_prompt": json.dumps(f"({note.negative}:1)" if note.negative else ""),
        "user_metadata": dict(_user_metadata(card)),
        "card": card,
    }


def _user_metadata(card: Card) -> Mapping[str, object]:
    note = card.note
    return {
        "description": card.description,
        "sd version": card.version,
        "activation text": note.activation,
        "preferred weight": note.weight,
        "negative text": note.negative,
        "notes": note.notes,
    }


def _look() -> Look:
    opts = shared.opts
    return Look(
        width=int(opts.extra_networks_card_width or 0),
        height=int(opts.extra_networks_card_height or 0),
        text_scale=float(opts.extra_networks_card_text_scale),
        descriptions=bool(opts.extra_networks_card_show_desc),
        descriptions_are_html=bool(opts.extra_networks_card_description_is_html),
    )


def _search_only(card: Card) -> bool:
    return shared.opts.extra_networks_hidden_models != "Always" and _is_hidden(card.file.inside)


def _is_hidden(inside: str) -> bool:
    return inside.startswith(".") or "/." in inside


def _parsed(value: str) -> object:
    if value.startswith("{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
