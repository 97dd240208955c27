"""A city classifier and chips of the user's own in; a table of how far each method's maps can be trusted out.

Every method is asked the same at every depth. Is the sum of relevance kept? Does the map change when the classifier,
or the network stage after stage, forgets what it has learnt, and when another city is asked for? Does a twin of the
model give the same? Does the probability follow the pixels that the map points at?
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dlslicer_geo.relevance import faithful, randomise
from dlslicer_geo.relevance.centres import shifts
from dlslicer_geo.relevance.inputs import Chips, Classifier, weights_sha256
from dlslicer_geo.relevance.maps import DEFAULT, METHODS, asked, sweep
from dlslicer_geo.relevance.question import Asked, Question, Row, fit, of_twin, why
from dlslicer_geo.relevance.starts import STARTS
from dlslicer_geo.types import Progress, quiet

log = logging.getLogger(__name__)

LAYERS = ("layer1", "layer2", "layer3", "layer4")
"""The depths taken when none is named."""

SHUFFLES = 3
"""Times that the inputs of the head are shuffled."""

DRAWN = 12
"""Chips on which all that takes long is measured: everything but the shuffled head, the runner-up and the twin.

Insertion and deletion alone cost 14 forward passes for each chip, method and depth."""

PROBABILITIES = ("insertion", "deletion", "average_drop", "average_increase")

Floats = NDArray[np.float64]
Figures = dict[str, dict[Row, Floats]]
"""Figures of single chips by name, then by method and depth; NaN where not defined."""


def check(
    model: Classifier,
    data: Chips,
    *,
    chips: NDArray[np.int64],
    methods: Sequence[str] = METHODS,
    layers: Sequence[str] = LAYERS,
    seed: int = 0,
    twin: Classifier | None = None,
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Ask of every method at every depth whether its maps can be right, on chips of the user's own.

    Each chip is explained for the city that the model names for it. Correlations are Pearson's, signed, between two
    maps of one chip, and averaged over the chips. What takes long is measured on :data:`DRAWN` of them. The model is
    never touched: what forgets is a copy. Input is held in memory, 0.6 MiB for each chip of 224 px.

    Args:
        model: a city classifier over a timm network.
        data: the data module that has the chips.
        chips: (n,) int64 chip ids, each once; some dozens give steady means.
        methods: among :data:`~dlslicer_geo.relevance.METHODS`; those that the network is not fit for are left out,
            and the notes say why.
        layers: depths among ``layer1`` … ``layer4``.
        seed: seeds every draw; the same seed gives the same figures.
        twin: a model of the same recipe and cities, trained with another seed.
        progress: watches the work.

    Returns:
        the content of ``saliency_check.json``. Its ``rows`` have, by ``method`` and ``layer``, rounded to six digits
        and None where not defined:

        - ``conservation``: max over chips of |ΣR - ΣR_start| / Σ|R_start|; relevance methods only.
        - ``head_shuffled``, ``head_shuffled_spread``: correlation with the map after the inputs of the head were
          shuffled, mean and standard deviation of three draws.
        - ``head_shuffled_absolute``: mean of its size, sign by sign: near 1 where the map is always the same picture,
          and the head decides no more than its sign.
        - ``stages``: correlation after the head, and each stage below besides, was re-initialised.
        - ``class_contrast``: correlation with the map of the second most probable city.
        - ``insertion``, ``deletion``, ``average_drop``, ``average_increase``: see
          :mod:`dlslicer_geo.relevance.faithful`.
        - ``twin``: correlation with the map of the twin.

    Raises:
        RelevanceError: if chips are unknown, a method or depth is unknown, no method is fit for the network, the
            model has one city, or the twin has other cities or another input size.
    """
    wanted, notes = fit(model.model, methods, layers)
    with torch.random.fork_rng(devices=[]):  # a loader draws from torch's own generator when it starts
        question, rival = why(model, data, chips, progress)
        pair = [] if twin is None else [("twin", of_twin(twin, model, data, chips, question))]
        drawn = np.random.default_rng((seed, SHUFFLES)).permutation(len(question))[:DRAWN]
        few = question.take(torch.from_numpy(np.sort(drawn)))
        others = progress(
            chain(_unlike(question, rival, seed), pair), total=SHUFFLES + 1 + len(pair), label="shuffle the head"
        )
        found = _correlations(question, others, wanted)
        number = len(randomise.stages(question.net, wanted.layers[0]))
        others = progress(_forgetful(few, wanted, seed), total=number, label="forget stages")
        found |= _correlations(few, others, wanted)
        found |= _probabilities(few, wanted, progress)
        kept = conservation(few, wanted)
    log.info("checked %d methods at %d depths on %d chips", *map(len, wanted), len(question))
    return {
        "chips": len(question),
        "seed": seed,
        "cities": len(model.cities),
        "layers": list(wanted.layers),
        "default": DEFAULT,
        "input_size": int(question.images.shape[-1]),
        "network": network_name(model.model),
        "weights_sha256": weights_sha256(model.model),
        "explained": "predicted city",
        "rows": [_row(row, found, kept.get(row)) for row in wanted.rows],
        "notes": [*notes, *_notes(question, wanted, found, seed)],
    }


def correlation(one: Tensor, other: Tensor) -> Floats:
    """(n,) Pearson's correlation of maps (n, h, w), image by image; NaN where one of the two is constant."""
    flat = faithful.constant(one) | faithful.constant(other)
    a, b = (maps - maps.mean(dim=1, keepdim=True) for maps in (one.double().flatten(1), other.double().flatten(1)))
    return F.cosine_similarity(a, b, dim=1, eps=0).masked_fill(flat, torch.nan).numpy()


def conservation(question: Question, wanted: Asked) -> dict[Row, float]:
    """Largest |ΣR - ΣR_start| / Σ|R_start| of all images; gradients, which nothing conserves, are left out."""
    worst: dict[Row, float] = {row: 0.0 for row in wanted.rows if row[0] in STARTS}
    for method in (method for method in wanted.methods if method in STARTS):
        for x, target in question.batches():
            found = sweep(question.net, x, target, method=method, layers=wanted.layers)
            start = found.start.double()
            for layer, relevance in found.relevance.items():
                lost = (relevance.double().sum(dim=(1, 2, 3)) - start.sum(dim=1)).abs()
                share = (lost / start.abs().sum(dim=1)).masked_fill(lost == 0, 0)  # nothing put in, nothing lost
                worst[method, layer] = float(np.maximum(worst[method, layer], float(share.max())))
    return worst


Others = Iterable[tuple[str, Question]]
"""Questions by name whose maps are compared with those of the first one; each is made when its turn comes."""


def _unlike(question: Question, rival: Tensor, seed: int) -> Others:
    """The same question to networks with a shuffled head, and that for the runner-up."""
    for trial in range(SHUFFLES):
        yield f"shuffle {trial}", replace(question, net=randomise.with_shuffled_head(question.net, seed, trial))
    yield "runner-up", replace(question, target=rival)


def _forgetful(question: Question, wanted: Asked, seed: int) -> Others:
    """The same question to networks that have forgotten ever more."""
    for stage, net in randomise.cascade(question.net, wanted.layers[0], seed):
        yield f"without {stage}", replace(question, net=net)


def _correlations(question: Question, others: Others, wanted: Asked) -> Figures:
    """How every map agrees with that of each other question."""
    own = question.maps(wanted)
    return {
        name: {row: correlation(own[row], maps) for row, maps in other.maps(wanted).items()} for name, other in others
    }


def _probabilities(question: Question, wanted: Asked, progress: Progress) -> Figures:
    """How the probability follows the pixels that each map points at."""
    net, shown = question.net, faithful.subjects(question.net, question.images, question.target)
    found: Figures = {name: {} for name in PROBABILITIES}
    maps = question.maps(wanted)
    shift = shifts(net, asked(net, wanted.methods[0], wanted.layers), int(question.images.shape[-1]))
    for row, values in progress(maps.items(), total=len(maps), label="remove pixels"):
        there = (net, shown, values, shift[row[1]])
        figures = (*faithful.insertion_deletion(*there), *faithful.drop_increase(*there))
        for name, figure in zip(PROBABILITIES, figures, strict=True):
            found[name][row] = figure
    return found


def _row(row: Row, found: Figures, kept: float | None) -> dict[str, Any]:
    """Means over chips of one method at one depth."""
    means = {name: _mean(figures[row]) for name, figures in found.items()}
    shuffled = [value for name, value in means.items() if name.startswith("shuffle ") and value is not None]
    sizes = np.abs(np.concatenate([found[f"shuffle {trial}"][row] for trial in range(SHUFFLES)]))
    figures = {
        "conservation": kept,
        "head_shuffled": float(np.mean(shuffled)) if shuffled else None,
        "head_shuffled_spread": float(np.std(shuffled, ddof=1)) if len(shuffled) == SHUFFLES else None,
        "head_shuffled_absolute": _mean(sizes),
        "stages": {
            name.removeprefix("without "): _rounded(value)
            for name, value in means.items()
            if name.startswith("without ")
        },
        "class_contrast": means["runner-up"],
        **{name: means[name] for name in PROBABILITIES},
        "twin": means.get("twin"),
    }
    return {"method": row[0], "layer": row[1]} | {name: _rounded(value) for name, value in figures.items()}


def _notes(question: Question, wanted: Asked, found: Figures, seed: int) -> list[str]:
    """What a reader of the figures must know, in sentences."""
    edge, few = question.images.shape[-1], min(DRAWN, len(question))
    left = randomise.left_over(question.net, wanted.layers[0])
    notes = [
        f"Shuffled heads, the runner-up and the twin were compared on all {len(question)} chips; all else was "
        f"measured on {few} of them, drawn with seed {seed}.",
        f"Pixels came and went in {faithful.STEPS} equal parts; a missing pixel is that of the chip blurred with a "
        f"sigma of {edge / faithful.BLUR:g} px.",
        "For the average drop and increase the normalised chip is multiplied with its map, stretched to 0 to 1.",
        "Stages were re-initialised once, as torch does by default, each together with all deeper ones; batch norms "
        "lost their statistics too, and the stem belongs to the shallowest stage of the network.",
    ]
    if left:
        notes.append(
            f"{len(left)} parameters, such as {left[0]}, could not be re-initialised and stayed as they were."
        )
    empty = Counter({row: sum(int(np.isnan(f[row]).sum()) for f in found.values()) for row in wanted.rows})
    flat = [f"{lost} by {method} at {layer}" for (method, layer), lost in empty.most_common() if lost]
    if flat:
        notes.append(
            "Figures of single chips were left out of the means where a map is constant or not finite: "
            f"{', '.join(flat)}, of {sum(len(figures[wanted.rows[0]]) for figures in found.values())} each."
        )
    return notes


def network_name(net: nn.Module) -> str:
    """The name that timm knows a network by, or else that of its class."""
    known = getattr(net, "pretrained_cfg", None) or {}
    return str(known.get("architecture") or type(net).__name__)


def _mean(values: Floats) -> float | None:
    """Mean of the defined values, None without any."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _rounded(value: Any) -> Any:
    """A number with six significant digits, None where it is not finite; anything else as it is."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if np.isfinite(value) else None
