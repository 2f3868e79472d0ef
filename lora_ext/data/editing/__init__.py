"""A picture folder on the table: thumbnails, problems, captions edited in memory, saved when asked."""

from lora_ext.data.editing import tags
from lora_ext.data.editing.caption_files import FOLDER, Backup
from lora_ext.data.editing.desk import Desk
from lora_ext.data.editing.edit_set import EditSet, Facts
from lora_ext.data.editing.entries import Listing
from lora_ext.data.editing.entry import EntryView
from lora_ext.data.editing.saving import Answer, Saved
from lora_ext.data.editing.thumbnails import Thumbnails

__all__ = [
    "FOLDER",
    "Answer",
    "Backup",
    "Desk",
    "EditSet",
    "EntryView",
    "Facts",
    "Listing",
    "Saved",
    "Thumbnails",
    "tags",
]
