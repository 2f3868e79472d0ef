"""The markup of the cards page, in the classes that the WebUI's own style and scripts know.

Names, paths, notes and metadata are strangers' texts: every one of them goes through `clean`. No text becomes script:
clicks are handled by `javascript/lora_ext_library.js`, which reads `data-` attributes.
"""

from __future__ import annotations

import html
import os
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lora_ext.hosts.card import Card
from lora_ext.hosts.name_index import normal

LABELS: Mapping[str, str] = {
    "copy": "Copy path to clipboard",
    "metadata": "Show internal metadata",
    "edit": "Show and edit what is known of it",
    "weight": "Preferred strength",
    "words": "Trigger words",
    "damaged": "damaged",
    "unknown": "It cannot be told which model this is for",
    "all": "all",
    "hidden": "Made for other models than the loaded one and hidden: {counts}. "
    "Settings > Extra Networks > Always show all networks on the Lora page shows them.",
    "empty": "Nothing here. Add LoRA files to one of these folders:",
}
"""Every text of the page."""


FIRST = 100
"""Cards that the page comes with; those after them are placeholders until they come into sight."""
LEAVES = 500
"""Files that a tree shows; of more it shows the folders alone, and the cards show the files."""
DESCRIBED = 300
"""Characters of a description that a placeholder is found by."""


@dataclass(frozen=True)
class Look:
    """The user's settings for cards. Sizes in pixels, 0 for the usual ones; `descriptions_are_html`: at their risk."""

    width: int = 0
    height: int = 0
    text_scale: float = 1.0
    descriptions: bool = True
    descriptions_are_html: bool = False


def card_html(card: Card, number: int, look: Look, *, search_only: bool = False) -> str:
    """One card; `search_only` cards show up when searched for."""
    picture = preview_url(card)
    image = f'<img src="{clean(picture)}" class="preview" loading="lazy" alt="">' if picture else ""
    only = " search_only" if search_only else ""
    return (
        f'<div class="card lora-ext-card" style="{_style(look)}" {_data(card)} {_sort_keys(card, number)}>{image}'
        f'<div class="lora-ext-badges">{_badges(card)}</div>{buttons(card)}<div class="actions">'
        f'<div class="additional"><span class="hidden search_terms{only}">{clean(_terms(card))}</span></div>'
        f'<span class="name" dir="auto">{clean(card.name)}</span>{_words(card)}'
        f'<span class="description" dir="auto">{_description(card, look)}</span></div></div>'
    )


def placeholder_html(card: Card, number: int, look: Look, *, search_only: bool = False) -> str:
    """A card that is not in sight yet: it can be found, sorted and clicked, and has no picture, badges or buttons.

    `javascript/lora_ext_later.js` asks for the whole card.
    """
    only = " search_only" if search_only else ""
    described = f"\n{card.description[:DESCRIBED]}" if look.descriptions else ""
    return (
        f'<div class="card lora-ext-card lora-ext-later" style="{_style(look)}" {_data(card)} '
        f'{_sort_keys(card, number)}><div class="actions"><div class="additional"><span class="hidden search_terms'
        f'{only}">{clean(_terms(card) + described)}</span></div><span class="name" dir="auto">{clean(card.name)}</span>'
        "</div></div>"
    )


def buttons(card: Card) -> str:
    """What can be done with a card besides clicking it."""
    metadata = _button("metadata-button", "metadata") if card.facts.metadata else ""
    path = clean(os.fspath(card.file.path))
    copy = f'<div class="copy-path-button card-button" title="{LABELS["copy"]}" data-clipboard-text="{path}"></div>'
    return f'<div class="button-row">{copy}{metadata}{_button("edit-button", "edit")}</div>'


def tree_html(folders: Mapping[str, Sequence[str]], cards: Iterable[Card], shown: Iterable[str]) -> str:
    """Folders as a tree with the cards in it, if they are not too many. `folders`: LoRA folder -> paths below it;
    `shown`: LoRA folders."""
    inside: dict[tuple[str, str], list[Card]] = {}
    for card in cards:
        inside.setdefault((card.file.folder, card.file.inside.rpartition("/")[0]), []).append(card)
    leaves = sum(map(len, inside.values())) <= LEAVES
    branches = "".join(_branch(root, "", folders.get(root, ()), inside, leaves) for root in shown)
    return f'<ul class="tree-list tree-list--tree">{branches}</ul>'


def folders_html(names: Sequence[str], tab: str) -> str:
    """Folders as buttons that search for them; `tab` is txt2img or img2img."""
    first = [("search-all", LABELS["all"])] if names else []
    return "".join(
        f'<button class="lg secondary gradio-button custom-button {kind}" '
        f"onclick=\"extraNetworksSearchButton('{tab}', 'lora', event)\">{clean(name)}</button>"
        for kind, name in (*first, *(("", name) for name in names))
    )


def empty_html(folders: Iterable[str]) -> str:
    """Instead of cards."""
    places = "".join(f"<li>{clean(folder)}</li>" for folder in folders)
    return f'<div class="nocards"><h1>{LABELS["empty"]}</h1><ul>{places}</ul></div>'


def foot_html(key: str, hidden: Mapping[str, int], problems: Iterable[str], view: int = 0) -> str:
    """Below the cards: what is not shown and why. `key` lets the page's script ask for more.

    `view` is the number of the look at the folders that the cards are of; 0 where none is shown yet.
    """
    counts = ", ".join(f"{count} x {name}" for name, count in sorted(hidden.items()))
    lines = [LABELS["hidden"].format(counts=counts)] if hidden else []
    shown = "".join(f"<p>{clean(line)}</p>" for line in (*lines, *problems))
    return f'<div class="lora-ext-foot" data-key="{clean(key)}" data-view="{view}">{shown}</div>'


def preview_url(card: Card) -> str:
    """Where the page gets the card's picture; empty when it has none."""
    if card.preview is not None:
        path, mtime = card.preview
        quoted = urllib.parse.quote(os.fsencode(path.replace("\\", "/")))
        return f"./sd_extra_networks/thumb?filename={quoted}&mtime={mtime}"
    if card.facts.covers:
        return f"./sd_extra_networks/cover-images?page=lora&item={urllib.parse.quote(card.name, safe='')}"
    return ""


def clean(text: object) -> str:
    """Text for markup, in quotes too. What is no text at all (halves of characters) becomes a question mark."""
    return html.escape(str(text).encode("utf8", "replace").decode("utf8"), quote=True)


def _button(kind: str, label: str) -> str:
    return f'<div class="{kind} card-button" title="{LABELS[label]}"></div>'


def _style(look: Look) -> str:
    sizes = (f"height: {look.height}px;" if look.height else "", f"width: {look.width}px;" if look.width else "")
    return f"{sizes[0]}{sizes[1]}font-size: {look.text_scale * 100:g}%;"


def _data(card: Card) -> str:
    note = card.note
    given = {
        "name": card.name,
        "tag": card.tag,
        "weight": f"{note.weight:g}" if note.weight else "",
        "words": note.activation,
        "negative": note.negative,
    }
    return " ".join(f'data-{key}="{clean(value)}"' for key, value in given.items() if value)


def _sort_keys(card: Card, number: int) -> str:
    keys = {
        "default": number,
        "date_created": int(card.file.created),
        "date_modified": card.file.stamp.mtime_ns // 10**9,
        "name": card.name.rpartition("/")[2].lower(),
    }
    return " ".join(f'data-sort-{key}="{clean(value)}"' for key, value in keys.items())


def _badges(card: Card) -> str:
    title = card.foreign or (card.version if card.version != "Unknown" else "?")
    kind = "foreign" if card.foreign else card.version.lower()
    hint = f' title="{LABELS["unknown"]}"' if title == "?" else ""
    badges = [f'<span class="lora-ext-badge lora-ext-{kind}"{hint}>{clean(title)}</span>']
    if card.facts.damage:
        why = clean(card.facts.damage)
        badges.append(f'<span class="lora-ext-badge lora-ext-damaged" title="{why}">{LABELS["damaged"]}</span>')
    if card.note.weight:
        badges.append(f'<span class="lora-ext-badge" title="{LABELS["weight"]}">{card.note.weight:g}</span>')
    return "".join(badges)


def _words(card: Card) -> str:
    words = card.note.activation
    return f'<span class="lora-ext-words" dir="auto" title="{LABELS["words"]}">{clean(words)}</span>' if words else ""


def _terms(card: Card) -> str:
    facts = card.facts
    known = (card.place, facts.hash, facts.alias, card.tag, card.foreign or card.version, card.note.activation)
    return "\n".join(filter(None, (*known, facts.trigger, *facts.tags)))


def _description(card: Card, look: Look) -> str:
    if not look.descriptions:
        return ""
    return card.description if look.descriptions_are_html else clean(card.description)


Inside = Mapping[tuple[str, str], Sequence[Card]]


def _branch(root: str, here: str, folders: Sequence[str], inside: Inside, leaves: bool) -> str:
    """One folder with what is in it, its cards too if `leaves`; nothing when it holds no card."""
    below = [name for name in folders if name.rpartition("/")[0] == here]
    content = "".join(_branch(root, name, [f for f in folders if f.startswith(name + "/")] + [name], inside, leaves)
                      for name in below if name != here)  # fmt: skip
    own = inside.get((root, here), ())
    if not content and not own:
        return ""
    content += "".join(_leaf(card) for card in own) if leaves else ""
    path = os.path.join(os.path.basename(root), *here.split("/")) if here else os.path.basename(root)
    label = here.rpartition("/")[2] or os.path.basename(root)
    return (
        '<li class="tree-list-item tree-list-item--has-subitem" data-tree-entry-type="dir">'
        f'<div class="tree-list-content tree-list-content-dir" data-path="{clean(normal(path))}">'
        '<span class="tree-list-item-action tree-list-item-action--leading">'
        '<i class="tree-list-item-action-chevron"></i></span>'
        '<span class="tree-list-item-visual tree-list-item-visual--leading">🗀</span>'
        f'<span class="tree-list-item-label tree-list-item-label--truncate" dir="auto">{clean(normal(label))}</span>'
        f'</div><ul class="tree-list tree-list--subgroup" hidden>{content}</ul></li>'
    )


def _leaf(card: Card) -> str:
    label = normal(card.file.inside.rpartition("/")[2])
    return (
        '<li class="tree-list-item tree-list-item--subitem" data-tree-entry-type="file">'
        f'<div class="tree-list-content tree-list-content-file lora-ext-leaf" {_data(card)}>'
        '<span class="tree-list-item-action tree-list-item-action--leading"></span>'
        '<span class="tree-list-item-visual tree-list-item-visual--leading">🗎</span>'
        f'<span class="tree-list-item-label tree-list-item-label--truncate" dir="auto">{clean(label)}</span>'
        '<span class="tree-list-item-visual tree-list-item-visual--trailing"></span>'
        f'<span class="tree-list-item-action tree-list-item-action--trailing">{buttons(card)}</span></div></li>'
    )
