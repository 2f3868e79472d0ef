"""Which layers learn, with which rank, alpha, learning rate and dropout."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from lora_ext.adapters import Network
from lora_ext.config import NetworkConfig, TrainConfig
from lora_ext.layers import Layer, LayerName, LayerTable
from lora_ext.model import default_targets
from lora_ext.training.layer_rules import Rule, block_numbers, block_of, compiled, rules

ATTENTION = ("attn1.", "attn2.", "self_attn.")
FEED_FORWARD = (".ff.net.", ".mlp.")


@dataclass(frozen=True)
class Target:
    """A layer that learns. `extra`: a norm or bias beside the chosen kind, held whole."""

    layer: Layer
    rank: int
    alpha: float
    rate: float
    dropout: float
    extra: bool = False


def plan(table: LayerTable, config: TrainConfig, given: Collection[LayerName] | None = None) -> list[Target]:
    """Every layer that learns, in the table's order. Raises `BadInput` for rules and patterns that cannot be read.

    `given` are the layers of a network to go on from: all of them come back, with a rate of 0 where they do not learn.
    """
    rates, chosen = _Rates(table, config), _Chosen(table, config)
    layers = chosen.layers() if given is None else (x for x in table.layers.values() if x.name in given)
    found = []
    for layer in layers:
        rank, alpha = chosen.shape(layer)
        rate = rates.of(layer) if given is None or chosen.named(layer) else 0.0
        target = chosen.ruled(Target(layer, rank, alpha, rate, config.network.dropout, _whole(layer, config)))
        if given is not None or (target.rate and target.rank):
            found.append(target)
    return found


def targets(table: LayerTable, config: TrainConfig) -> Iterator[Layer]:
    """The layers that learn, in the table's order: those whose learning rate and rank are not 0."""
    return (target.layer for target in plan(table, config))


def text_rates(config: TrainConfig) -> tuple[float, float]:
    """Learning rates of the first and the second text encoder."""
    first, second = config.optim.text_encoder_lr, config.optim.text_encoder_2_lr
    return first, first if second < 0 else second


def text_learns(table: LayerTable, config: TrainConfig, start: Network | None) -> bool:
    """Whether the text encoders have adapters, so that captions cannot be encoded once for all."""
    layers = start.adapters if start is not None else [target.layer.name for target in plan(table, config)]
    return any(name.component != "unet" for name in layers)


def rank_and_alpha(layer: Layer, network: NetworkConfig) -> tuple[int, float]:
    """Convolutions wider than 1x1 have settings of their own."""
    return (network.conv_rank, network.conv_alpha) if _wide(layer) else (network.rank, network.alpha)


class _Rates:
    """Learning rates by layer."""

    def __init__(self, table: LayerTable, config: TrainConfig) -> None:
        first, second = text_rates(config)
        self.by_component = {"unet": config.optim.learning_rate, "te1": first, "te2": second}
        self.blocks = block_numbers("block_lr", config.optim.block_lr, table)

    def of(self, layer: Layer) -> float:
        return self.by_component[layer.name.component] * self.blocks.get(block_of(layer), 1.0)


class _Chosen:
    """Layers by preset, pattern and rule."""

    def __init__(self, table: LayerTable, config: TrainConfig) -> None:
        self.table, self.network = table, config.network
        self.only = compiled("only_layers", config.network.only_layers)
        self.skip = compiled("skip_layers", config.network.skip_layers)
        self.rules: Sequence[Rule] = rules("layer_rules", config.network.layer_rules)
        self.ranks = block_numbers("block_rank", config.network.block_rank, table)

    def layers(self) -> Iterator[Layer]:
        weights = {layer.name for layer in self._preset()}
        for layer in self.table.layers.values():
            wanted = layer.name in weights
            if layer.op == "bias":  # a full difference of a weight goes with its bias; norms likewise
                owner = self.table.layers[layer.name.owner]
                wanted = (owner.name in weights and self.network.kind == "full") or self._norm(owner)
            if (wanted or self._norm(layer)) and self.named(layer):
                yield layer

    def shape(self, layer: Layer) -> tuple[int, float]:
        rank, alpha = rank_and_alpha(layer, self.network)
        if _wide(layer) and not rank and (self.network.layers == "all" or self.network.kind == "full"):
            rank, alpha = self.network.rank, self.network.alpha
        if layer.op in ("norm", "bias"):
            rank, alpha = max(1, rank), 1.0
        own = self.ranks.get(block_of(layer))
        return (rank, alpha) if own is None else (int(own), alpha)

    def ruled(self, target: Target) -> Target:
        rule = next((rule for rule in self.rules if rule.pattern.search(str(target.layer.name))), None)
        if rule is None:
            return target
        return replace(
            target,
            rank=target.rank if rule.rank is None else rule.rank,
            alpha=target.alpha if rule.alpha is None else rule.alpha,
            rate=target.rate if rule.rate is None or not target.rate else rule.rate,
            dropout=target.dropout if rule.dropout is None else rule.dropout,
        )

    def _preset(self) -> Iterator[Layer]:
        network = self.network
        if network.kind == "norm":
            return
        if network.layers == "all":
            # a transposed one (SDXL's text projection) is no module in the hosts, whose loaders would miss it
            linear = (layer for layer in self.table.layers.values() if layer.op in ("linear", "conv"))
            yield from (layer for layer in linear if not layer.transposed)
            return
        for layer in default_targets(self.table, conv=network.conv_rank > 0 or network.kind == "full"):
            path = f"{layer.name.path}."
            attention = any(part in path for part in ATTENTION)
            forward = any(part in path for part in FEED_FORWARD)
            if (
                network.layers == "usual"
                or attention
                or (forward and network.layers == "attention_ff")
                or (_wide(layer) and network.conv_rank)
            ):
                yield layer

    def _norm(self, layer: Layer) -> bool:
        wanted = self.network.train_norms or self.network.kind == "norm"
        return wanted and layer.op == "norm" and layer.name.component == "unet"

    def named(self, layer: Layer) -> bool:
        """Whether the patterns let the layer learn."""
        name = str(layer.name)
        return bool(self.only.search(name)) and not (self.network.skip_layers.strip() and self.skip.search(name))


def _wide(layer: Layer) -> bool:
    return layer.op == "conv" and layer.shape[2:] != (1, 1)


def _whole(layer: Layer, config: TrainConfig) -> bool:
    return layer.op in ("norm", "bias") and config.network.kind not in ("norm", "full")
