"""What is trained on: what one data set may say for itself, and what holds for the whole run."""

from __future__ import annotations

from dataclasses import dataclass

from lora_ext.config.declare import setting
from lora_ext.config.relevance import only, unless


@dataclass(frozen=True)
class DataSetConfig:
    """One data set. The run's own values are the defaults of every further data set."""

    images: str = setting(
        "",
        "Picture folder",
        "Folder with your pictures. Sub-folders named like `10_my cat` are seen 10 times each per epoch.",
        basic=True,
        needed=True,
        of_run=True,
    )
    concept: str = setting(
        "",
        "Concept name",
        "Caption for pictures that have no .txt or .caption file beside them, for example `photo of sks cat`.",
        basic=True,
        of_run=True,
    )
    trigger_words: str = setting(
        "",
        "Trigger words",
        "Put in front of every caption and never shuffled or dropped by itself; type them later to call what was "
        "learnt.",
        basic=True,
        of_run=True,
    )
    resolution: int = setting(
        512,
        "Resolution",
        "Pictures are scaled so that their area is at most its square. 512 for SD 1.x, 768 for SD 2.x, 1024 for SDXL.",
        unit="px",
        minimum=64,
        maximum=4096,
        multiple=64,
        basic=True,
    )
    buckets: bool = setting(
        True,
        "Keep aspect ratios",
        "Sort pictures into buckets of their own shape instead of cutting every one square.",
    )
    repeats: int = setting(
        1,
        "Repeats",
        "How often each picture is seen per epoch; a folder named `N_name` overrides it.",
        minimum=1,
        maximum=10_000,
    )
    flip: bool = setting(
        False,
        "Mirror",
        "Also train on mirrored pictures. Leave off for faces, text and anything with a left and right.",
    )
    caption_extension: str = setting(
        ".txt, .caption",
        "Caption files",
        "Extensions of caption files beside the pictures, best first.",
        expert=True,
    )
    caption_file: str = setting(
        "",
        "Caption list",
        'One file with all captions: JSON ({"name": "caption"}), JSONL or CSV with file_name and text. Empty: '
        "metadata.jsonl, metadata.csv or captions.json in the picture folder is used where a picture has no file of "
        "its own.",
        expert=True,
        of_run=True,
    )
    caption_template: str = setting(
        "",
        "Caption template",
        "What a caption is made into: [filewords] stands for the caption, [name] for the concept name. With several "
        "lines, one is chosen each time.",
        expert=True,
    )
    shuffle_tags: bool = setting(
        False, "Shuffle tags", "Put the tags of a caption into a new order each time, so that none counts more."
    )
    keep_tokens: int = setting(
        0,
        "Tags kept in front",
        "So many first tags are neither shuffled nor dropped.",
        minimum=0,
        maximum=255,
        when=[(only("shuffle_tags", True), unless("tag_dropout", 0.0))],
    )
    keep_separator: str = setting(
        "",
        "Separator of kept tags",
        "Tags before this mark in a caption are kept in front, such as `|||`; those after a second mark stay last.",
        expert=True,
    )
    tag_separator: str = setting(",", "Tag separator", "What stands between the tags of a caption.", expert=True)
    joint_separator: str = setting(
        "",
        "Separator of joint tags",
        "Tags joined by this mark, such as `;;;`, are shuffled and dropped together; it becomes the tag separator.",
        expert=True,
    )
    tag_dropout: float = setting(
        0.0,
        "Tag dropout",
        "Share of tags that is left out each time; 0.1 helps against leaning on single tags.",
        minimum=0.0,
        maximum=1.0,
        expert=True,
    )
    caption_dropout: float = setting(
        0.0,
        "Caption dropout",
        "Share of pictures shown without their caption; 0.05 to 0.1 helps styles.",
        minimum=0.0,
        maximum=1.0,
        expert=True,
    )
    caption_dropout_epochs: int = setting(
        0,
        "Epochs without captions",
        "Every so many epochs all captions are left out; 0: never.",
        unit="epochs",
        minimum=0,
        maximum=100_000,
        expert=True,
    )
    wildcards: bool = setting(
        False,
        "Wildcards in captions",
        "One of {red|blue|green} is chosen each time, and one line of captions with several lines.",
        expert=True,
    )
    crop: str = setting(
        "centre",
        "Cutting",
        "Which part is kept of a picture that does not fit its bucket. none: it is stretched a little instead.",
        choices=("centre", "random", "none"),
        expert=True,
    )
    upscale_limit: float = setting(
        0.0,
        "Upscaling limit",
        "Small pictures are scaled up by at most this and else trained smaller. 1: never; 0: no limit.",
        minimum=0.0,
        maximum=64.0,
        expert=True,
    )
    colour_jitter: float = setting(
        0.0,
        "Colour jitter",
        "How much brightness, contrast, saturation and hue vary; 0.1 is gentle. 0: off.",
        minimum=0.0,
        maximum=1.0,
        expert=True,
    )
    variations: int = setting(
        4,
        "Versions of each picture",
        "In how many versions a picture is prepared where cutting or colours vary by chance.",
        minimum=1,
        maximum=100,
        expert=True,
        when=[(only("crop", "random"), unless("colour_jitter", 0.0))],
    )
    mask_folder: str = setting(
        "",
        "Mask folder",
        "Black-and-white pictures of the same names: what is white is learnt. Files named like `cat-mask.png` beside "
        "`cat.png` are found without it.",
        expert=True,
        of_run=True,
        when=[only("masked_loss", True)],
    )
    alpha_mask: bool = setting(
        True,
        "Transparency is a mask",
        "Where a picture has no mask file, its transparent parts are the mask.",
        expert=True,
        when=[only("masked_loss", True)],
    )
    regularisation: bool = setting(
        False,
        "Regularisation pictures",
        "These pictures keep the model as it is instead of teaching it something.",
        expert=True,
        of_run=True,
    )
    picture_weight: float = setting(
        1.0, "Weight of these pictures", "How much they count; 1 is normal.", minimum=0.0, maximum=100.0, expert=True
    )


@dataclass(frozen=True)
class DataConfig(DataSetConfig):
    """What is trained on."""

    batch_size: int = setting(
        1,
        "Batch size",
        "Pictures per step. More is steadier and needs more memory.",
        minimum=1,
        maximum=1024,
        basic=True,
    )
    regularisation_images: str = setting(
        "",
        "Regularisation folder",
        "Pictures of the same kind of thing (cats, when you train your cat) that keep the model from forgetting it; as "
        "many are shown as of your own.",
        of_run=True,
    )
    datasets: str = setting(
        "",
        "Further data sets",
        "One per line, such as: images = 'D:/dogs', repeats = 2, resolution = 768. All settings of a data set may be "
        "given; what is not is as above.",
        expert=True,
        of_run=True,
    )
    validation_share: float = setting(
        0.0,
        "Held-out pictures",
        "Share of the pictures that is not trained on but used to measure how well the rest is learnt. 0: none.",
        unit="%",
        minimum=0.0,
        maximum=50.0,
        expert=True,
    )
    cache: str = setting(
        "memory",
        "Keep prepared pictures",
        "memory: for this run. disk: for later runs too, in the cache folder; what no longer fits is made anew.",
        choices=("memory", "disk"),
        expert=True,
    )
    cache_folder: str = setting(
        "",
        "Cache folder",
        "Where prepared pictures and captions are kept. Empty: a hidden folder in the picture folder.",
        expert=True,
        of_run=True,
        when=[only("cache", "disk")],
    )
    cache_limit: float = setting(
        20.0,
        "Size of the cache folder",
        "What was not used for longest is deleted beyond this size, but nothing of the last day. 0: no limit.",
        unit="GB",
        minimum=0.0,
        maximum=100_000.0,
        expert=True,
        of_run=True,
        when=[only("cache", "disk")],
    )
    decode_threads: int = setting(
        2, "Reading threads", "Pictures read at the same time while preparing.", minimum=1, maximum=64, expert=True
    )
