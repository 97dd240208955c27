"""The sections of an experiment file as frozen values; no input, no output."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from dlslicer_geo.config.shown import CatalogConfig, MapConfig
from dlslicer_geo.errors import ConfigError
from dlslicer_geo.scenes import NAIP_PATTERN
from dlslicer_geo.types import ChipGrid, Compute, Reading, SplitRule


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig(Reading):
    """Where the scenes are, and how images become scenes.

    Args:
        root: folder of images, searched with its subfolders, an image, a list file, an archive, an address or a STAC
            document; relative paths count from the YAML file.
        pattern: regular expression for the path below root without its suffix, with the named group city and,
            where there are such, name, site and date.
        cities: CSV with the columns code and city, and lon and lat where images have nothing but a city: names of the
            codes and their order; null takes the names from the paths.
        on_bad: what an image that cannot be a scene does: raise an error, or skip it with a line that says why.
    """

    root: str
    pattern: str | None = NAIP_PATTERN
    cities: str | None = None
    on_bad: Literal["raise", "skip"] = "raise"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The network and how its weights move.

    Args:
        name: name of a timm network.
        weights: true (timm's, from the hub), packaged (EfficientNet-Lite0, no hub), the name of TorchGeo weights,
            a file, or false for random weights.
        freeze_backbone: train only the head, on features that are computed once.
        input_size: edge in pixels of what the network sees.
        lr: learning rate.
        weight_decay: weight decay.
        optimizer: adamw or adam.
        schedule: cosine, plateau or none.
        patience: epochs without progress before plateau lowers the rate.
        label_smoothing: share of the target that is spread over all cities while training, 0 to 1.
    """

    name: str = "resnet50"
    weights: bool | str = True
    freeze_backbone: bool = False
    input_size: int = 224
    lr: float = 1e-3
    weight_decay: float = 0.0
    optimizer: Literal["adamw", "adam"] = "adamw"
    schedule: Literal["cosine", "plateau", "none"] = "cosine"
    patience: int = 10
    label_smoothing: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """The training.

    Args:
        max_epochs: epochs at most.
        batch_size: chips per batch.
        accumulate: batches whose gradients are added up before the weights move.
        precision: float32, bf16 (mixed), or auto: bf16 where the device computes in it, which a CPU is not asked for.
        store: keep the chips as they are read in memory-mapped files in the run folder, so that an epoch copies
            pixels instead of decoding them: auto (for more than one epoch, where the disk has room), always or never.
        local: without such a store, draws within which each city is read from few scenes; 0 reads any scene any time.
        balanced: draw training chips with equal chance for every city.
        views: with a frozen backbone, mirror images per chip, 1 to 4.
        early_stopping: stop after so many epochs without a smaller validation loss; null never.
        ema: keep a running mean of the weights, of which a step leaves this share, such as 0.99; 0 keeps the weights.
        detector: what decides whether a chip's city is unknown: knn (how far it is from the training chips), softmax
            or energy (how little the network prefers one city).
        loggers: Lightning loggers beside CSV and TensorBoard, as class_path and init_args.
    """

    max_epochs: int = 100
    batch_size: int = 128
    accumulate: int = 1
    precision: Literal["auto", "float32", "bf16"] = "auto"
    store: Literal["auto", "always", "never"] = "auto"
    local: int = 4096
    balanced: bool = True
    views: int = 1
    early_stopping: int | None = None
    ema: float = 0.0
    detector: Literal["knn", "softmax", "energy"] = "knn"
    loggers: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: if one of them is out of range.
        """
        least = {"max_epochs": 1, "batch_size": 1, "accumulate": 1, "local": 0, "early_stopping": 1}
        for key, value in ((key, getattr(self, key)) for key in least):
            if value is not None and value < least[key]:
                raise ConfigError(f"fit.{key} is {value}: give {least[key]} or more")
        if not 1 <= self.views <= 4:
            raise ConfigError(f"fit.views is {self.views}: give 1 to 4")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"fit.ema is {self.ema}: give a share from 0 to below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictConfig:
    """What is predicted.

    Args:
        split: train, val, test or all.
        embedding: keep the pooled features too (look-alikes need them).
        chips_per_part: chips a part on disk holds at least; a killed run loses one part at most.
        batch_size: chips per batch; 0 takes 32 on a CPU and finds what the device holds otherwise.
        precision: float32, bf16, or auto: bf16 where the device computes in it and the first chips come out the same.
        compile: compile the network first, which pays from some ten thousand chips on.
        dense: compute the features of a whole scene once and pool them for each of its overlapping chips: faster, and
            not quite the same, which is measured and written beside the predictions.
    """

    split: Literal["train", "val", "test", "all"] = "test"
    embedding: bool = True
    chips_per_part: int = 2048
    batch_size: int = 0
    precision: Literal["auto", "float32", "bf16"] = "auto"
    compile: bool = False
    dense: bool = False

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: if one of them is out of range.
        """
        for key, least in (("chips_per_part", 1), ("batch_size", 0)):
            if getattr(self, key) < least:
                raise ConfigError(f"predict.{key} is {getattr(self, key)}: give {least} or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeConfig:
    """What the model leans on: it is asked again about chips that lack something, and its backbone without training.

    Args:
        changes: what is done to the chips, some of colour only, grey, blur, jpeg 75, jpeg 30, jpeg 10, 2x coarser, 4x
            coarser, 8x coarser.
        chips: predicted chips that are drawn for it at most.
        frozen_baseline: also train a logistic regression on the backbone as it was before training.
    """

    changes: tuple[str, ...] = (
        "colour only", "grey", "blur", "jpeg 75", "jpeg 30", "jpeg 10", "2x coarser", "4x coarser", "8x coarser",
    )  # fmt: skip
    chips: int = 1000
    frozen_baseline: bool = True

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: if no chip is asked about, or a change is named twice.
        """
        if self.chips < 1:
            raise ConfigError(f"probe.chips is {self.chips}: give 1 or more")
        if len(set(self.changes)) < len(self.changes):
            raise ConfigError(f"probe.changes are {', '.join(self.changes)}: name each once")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckConfig:
    """Whether the explanations of this model can be right.

    Args:
        chips: predicted chips, drawn at random, on which all methods are checked and compared; 0 checks nothing.
        layers: depths that are checked, of layer1 (fine) to layer4 (coarse).
        twin: run folder of the same experiment with another seed, whose maps are compared too.
    """

    chips: int = 0
    layers: tuple[str, ...] = ("layer1", "layer2", "layer3", "layer4")
    twin: str | None = None

    def __post_init__(self) -> None:
        """Check the number.

        Raises:
            ConfigError: if it is below 0.
        """
        if self.chips < 0:
            raise ConfigError(f"check.chips is {self.chips}: give 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig:
    """What predictions are compared with.

    Args:
        colour_baseline: also train a logistic regression on the chips' channel means and deviations.
        per_city: score only so many chips of each city, drawn without replacement; null scores all.
        against: run folder of another model, which is compared on the chips that both have predicted.
    """

    colour_baseline: bool = True
    per_city: int | None = None
    against: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainConfig:
    """Which chips are explained, and how.

    Args:
        method: relevance-cam-margin, relevance-cam-balanced, relevance-cam-contrastive, relevance-cam (as
            published), grad-cam, hires-cam or layer-cam.
        layers: depths, of layer1 (fine) to layer4 (coarse).
        target: the city that is explained: predicted (one per scene), true, or a city code.
        rather_than: with a city code as target: the one city it is told from; null tells it from all others.
        chips: what is laid on the ground: scenes (every chip of the scenes that the drawn chips lie in), drawn (these
            chips alone), predicted (every chip that was predicted) or all (every chip there is).
        per_city: chips of each city that are drawn for the gallery.
        portrait: windows in the portrait of each city, those with the most relevance of all that is on the ground.
        within: file of polygons; only chips that touch one of them are laid on the ground.
        polygons: file of polygons (buildings, districts) over which relevance is summed up.
        masked: also write every scene as a GeoTIFF of the pixels whose relevance is above mean + 1 sigma.
        precision: float32, or bf16 for the forward pass; relevance itself is always float32.
    """

    method: str = "relevance-cam-margin"
    layers: tuple[str, ...] = ("layer1", "layer2", "layer3", "layer4")
    target: str = "predicted"
    rather_than: str | None = None
    chips: Literal["scenes", "drawn", "predicted", "all"] = "scenes"
    per_city: int = 10
    portrait: int = 10
    within: str | None = None
    polygons: str | None = None
    masked: bool = False
    precision: Literal["float32", "bf16"] = "float32"

    def __post_init__(self) -> None:
        """Check the numbers, and that they go together.

        Raises:
            ConfigError: if a number is out of range, or ``rather_than`` is told from no named city.
        """
        for key, least in (("per_city", 1), ("portrait", 0)):
            if getattr(self, key) < least:
                raise ConfigError(f"explain.{key} is {getattr(self, key)}: give {least} or more")
        if self.rather_than is not None and self.target in ("predicted", "true", self.rather_than):
            raise ConfigError(
                f"explain.rather_than is {self.rather_than} and explain.target {self.target}: give the codes of two "
                "cities"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarConfig:
    """Look-alikes.

    Args:
        neighbours: nearest chips of other cities that are listed for each chip.
    """

    neighbours: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One experiment.

    Args:
        data: the scenes.
        chips: the chips.
        split: the splits.
        model: the network.
        fit: the training.
        predict: the prediction.
        probe: the shortcuts.
        check: whether explanations can be right.
        score: the scores.
        explain: the saliency.
        similar: the similarity.
        map: the map.
        catalog: the QGIS project and the STAC catalogue.
        compute: where the work is done.
        seed: seeds training and draws (the split has its own).
    """

    data: DataConfig
    chips: ChipGrid = field(default_factory=ChipGrid)
    split: SplitRule = field(default_factory=SplitRule)
    model: ModelConfig = field(default_factory=ModelConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    check: CheckConfig = field(default_factory=CheckConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    explain: ExplainConfig = field(default_factory=ExplainConfig)
    similar: SimilarConfig = field(default_factory=SimilarConfig)
    map: MapConfig = field(default_factory=MapConfig)
    catalog: CatalogConfig = field(default_factory=CatalogConfig)
    compute: Compute = field(default_factory=Compute)
    seed: int = 0


SECTIONS: dict[str, type] = {
    "data": DataConfig, "chips": ChipGrid, "split": SplitRule, "model": ModelConfig, "fit": FitConfig,
    "predict": PredictConfig, "probe": ProbeConfig, "check": CheckConfig, "score": ScoreConfig,
    "explain": ExplainConfig, "similar": SimilarConfig, "map": MapConfig, "catalog": CatalogConfig,
    "compute": Compute,
}  # fmt: skip
"""Section of the YAML file → the value that holds it."""
