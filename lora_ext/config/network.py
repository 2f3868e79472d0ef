"""What the adapter looks like."""

from __future__ import annotations

from dataclasses import dataclass

from lora_ext.config.declare import setting
from lora_ext.config.relevance import only, unless


@dataclass(frozen=True)
class NetworkConfig:
    """What the adapter looks like."""

    kind: str = setting(
        "lora",
        "Kind",
        "How the change is stored. lora suits all; loha and lokr make smaller files; oft keeps what the model knows; "
        "full learns every number (large); norm learns the norms only; ia3 is tiny.",
        choices=("lora", "loha", "lokr", "oft", "ia3", "full", "norm"),
    )
    rank: int = setting(
        32,
        "Rank",
        "Size of the LoRA. 8-32 for a character or object, 32-128 for a style. Larger files can hold more detail.",
        minimum=1,
        maximum=1024,
        basic=True,
        when=[unless("kind", "ia3", "full", "norm")],
    )
    alpha: float = setting(
        16.0,
        "Alpha",
        "The update is scaled by alpha / rank. Half the rank is a good start.",
        minimum=1e-6,
        maximum=4096,
        when=[unless("kind", "ia3", "full", "norm")],
    )
    conv_rank: int = setting(
        0,
        "Convolution rank",
        "Rank of the 3x3 convolutions (LoCon); 0 leaves them alone.",
        minimum=0,
        maximum=1024,
        when=[unless("kind", "norm")],
    )
    conv_alpha: float = setting(
        1.0,
        "Convolution alpha",
        "Alpha of the 3x3 convolutions.",
        minimum=1e-6,
        maximum=4096,
        when=[unless("conv_rank", 0)],
    )
    layers: str = setting(
        "usual",
        "Layers",
        "Which parts learn. usual: what most LoRAs have (attention and feed-forward; convolutions by their rank); "
        "attention and attention_ff: less; all: every layer with all convolutions.",
        choices=("usual", "attention", "attention_ff", "all"),
        expert=True,
        when=[unless("kind", "norm")],
    )
    only_layers: str = setting(
        "",
        "Only layers",
        "Regular expression: only layers whose name it is found in learn, such as `attn2|ff`. Names look like "
        "`unet:input_blocks.4.1.transformer_blocks.0.attn2.to_k` and `te1:text_model.encoder.layers.0.mlp.fc1`.",
        expert=True,
    )
    skip_layers: str = setting(
        "", "Not layers", "Regular expression: layers whose name it is found in do not learn.", expert=True
    )
    layer_rules: str = setting(
        "",
        "Layer rules",
        "Own numbers for some layers, `REGEX => rank=8 alpha=4 lr=5e-5 dropout=0.1`; several rules with `;` between "
        "them, the first that fits counts.",
        expert=True,
    )
    block_rank: str = setting(
        "",
        "Rank by block",
        "Own ranks for blocks of the UNet, such as `IN04=16 MID=64 OUT05=0`; 0 leaves a block out. BASE is what lies "
        "outside of the blocks.",
        expert=True,
    )
    dropout: float = setting(
        0.0,
        "Dropout",
        "Part of each layer's inputs that the adapter does not see in a step, against learning by heart.",
        minimum=0.0,
        maximum=0.99,
        expert=True,
    )
    rank_dropout: float = setting(
        0.0,
        "Rank dropout",
        "Part of the ranks that rest in each step.",
        minimum=0.0,
        maximum=0.99,
        expert=True,
    )
    module_dropout: float = setting(
        0.0,
        "Module dropout",
        "How often a whole layer of the adapter rests in a step.",
        minimum=0.0,
        maximum=0.99,
        expert=True,
    )
    weight_dropout: float = setting(
        0.0,
        "Weight dropout",
        "Part of the numbers of the change that rest in each step; slow.",
        minimum=0.0,
        maximum=0.99,
        expert=True,
    )
    lowest_strength: float = setting(
        1.0,
        "Lowest strength",
        "Trains at strengths drawn between this and 1, so that the LoRA also shows well when used weaker or beside "
        "others; 0.5 is a good try. 1: always at full strength.",
        minimum=0.0,
        maximum=1.0,
        expert=True,
    )
    start_from: str = setting(
        "",
        "Start from",
        "Go on from this LoRA file instead of from nothing; kind, layers and ranks are those of the file.",
        expert=True,
        of_run=True,
    )
    init: str = setting(
        "plain",
        "Start",
        "plain: from no change at all. pissa: in the strongest directions of the weights, which learns quicker; the "
        "file has twice the rank (LoRA only).",
        choices=("plain", "pissa"),
        expert=True,
        when=[only("kind", "lora")],
    )
    train_norms: bool = setting(
        False,
        "Norms too",
        "Learns the norms of the UNet beside the chosen kind.",
        expert=True,
        when=[unless("kind", "norm")],
    )
    dora: bool = setting(
        False,
        "DoRA",
        "Learns size and direction of the change apart: better at low ranks, slower (lora, loha and lokr).",
        expert=True,
        when=[only("kind", "lora", "loha", "lokr")],
    )
    rslora: bool = setting(
        False,
        "Rank-stabilised scale",
        "Scales by alpha / √rank, so that high ranks learn as fast as low ones (lora, loha and lokr).",
        expert=True,
        when=[only("kind", "lora", "loha", "lokr")],
    )
    tucker: bool = setting(
        False,
        "Tucker convolutions",
        "Smaller 3x3 convolutions (lora, loha and lokr).",
        expert=True,
        when=[only("kind", "lora", "loha", "lokr"), (unless("conv_rank", 0), only("layers", "all"))],
    )
    lokr_factor: int = setting(
        -1,
        "LoKr factor",
        "Size of LoKr's smaller part; -1 makes the smallest file.",
        minimum=-1,
        maximum=1024,
        expert=True,
        when=[only("kind", "lokr")],
    )
    lokr_decompose_both: bool = setting(
        False,
        "LoKr splits both parts",
        "A smaller file.",
        expert=True,
        when=[only("kind", "lokr")],
    )
    lokr_full: bool = setting(
        False,
        "LoKr keeps both parts whole",
        "A larger file; the rank means nothing.",
        expert=True,
        when=[only("kind", "lokr")],
    )
    oft_constraint: float = setting(
        0.0,
        "OFT constraint",
        "How far OFT may turn the weights; 0: as far as it likes.",
        minimum=0.0,
        maximum=1e3,
        expert=True,
        when=[only("kind", "oft")],
    )
    oft_rescale: bool = setting(
        False,
        "OFT rescale",
        "OFT learns a size for every output as well.",
        expert=True,
        when=[only("kind", "oft")],
    )
    ia3_side: str = setting(
        "auto",
        "IA3 side",
        "Whether IA3 scales what goes into a layer or what comes out; auto is what hosts read rightly.",
        choices=("auto", "input", "output"),
        expert=True,
        when=[only("kind", "ia3")],
    )
