"""A model and chips in, prediction parts on disk and one ``Predictions`` out; resumes where it stopped.

``parts.py`` says what lies where, ``stream.py`` lets network and disk work at the same time, ``trial.py`` finds out
how fast is still right, ``tiles.py`` cuts scenes for the dense way, ``rows.py`` makes the table of a part and
``reading.py`` reads all of them back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from dlslicer_geo.errors import ConfigError
from dlslicer_geo.predict.parts import Job, key_of, parts_of
from dlslicer_geo.predict.reading import read_predictions
from dlslicer_geo.types import Predictions, Progress, quiet

__all__ = ["predict", "read_predictions"]


def predict(
    model: Any,
    data: Any,
    *,
    split: str = "test",
    out: str | Path = "runs/predictions",
    embedding: bool = False,
    chips_per_part: int = 2048,
    batch_size: int = 0,
    precision: Literal["auto", "float32", "bf16"] = "auto",
    compile: bool = False,
    dense: bool = False,
    trainer: Mapping[str, Any] | None = None,
    provenance: Mapping[str, str] | None = None,
    progress: Progress = quiet,
) -> Predictions:
    """Say for every chip of a split how probable each city is.

    One part holds whole scenes. A part that is on disk and belongs to the same model and chips is kept, so that a
    killed run goes on; batches never cross parts, so that it ends with the same bytes as an undisturbed one. Several
    processes share the parts between them and write the same bytes as one, given as many threads each. Reading,
    computing and writing go on at the same time, and memory holds a few parts, whatever the number of scenes.

    The batch size, the precision, the compiler and the kind of device change the last digits of probabilities. What a
    run began with stands in ``manifest.json``, and it goes on with that wherever it is taken up.

    Args:
        model: a ``CityClassifier``.
        data: a ``ChipDataModule`` whose cities are the model's.
        split: ``train``, ``val``, ``test`` or ``all``.
        out: folder of the parts, ``part-<n>.parquet`` (GeoParquet; columns chip_id, scene_id, truth,
            city, answer (the city, or ``unknown``), confidence (calibrated), margin, entropy, unknown_score (of the
            model's detector), score_<detector>, top5, prob_<code>, embedding).
        embedding: also keep the pooled features (float32).
        chips_per_part: chips a part holds at least, except the last.
        batch_size: chips per batch; 0 takes 32 on a CPU and as many as fit, up to 1024, on any other device.
        precision: ``float32``; ``bf16``, which warns when answers differ from those in float32; ``auto``: bf16 on a
            device that has it in hardware, unless answers differ. Up to 256 chips are asked both ways, and the
            manifest says how the answers compare.
        compile: compile the network first, which pays from some ten thousand chips on.
        dense: compute the features of a scene once and pool them for each of its overlapping chips. A chip is then
            seen with what surrounds it, also where that is of another split; the manifest says how the answers for up
            to 256 chips compare with those for the chips by themselves.
        trainer: keyword arguments of Lightning's ``Trainer`` that say where the work is done; None takes one device.
        provenance: goes into every part's metadata.
        progress: shows how far it is.

    Returns:
        all predictions without the embeddings, which :func:`read_predictions` reads.

    Raises:
        SplitError: if the split has no chip.
        ModelError: if the network cannot be compiled, or not be used densely.
        TableError: if probabilities are no numbers.
        ConfigError: if ``compile`` and ``dense`` are both asked for.
    """
    if compile and dense:
        raise ConfigError(
            "predict.compile and predict.dense are both true, which do not go together: take one of them"
        )
    chip_ids = data.chip_ids(split)
    asked = [split, embedding, chips_per_part, batch_size, precision, compile, dense]
    job = Job(
        model=model, data=data, folder=Path(out), chip_ids=chip_ids, key=key_of(model, data, chip_ids, asked),
        parts=parts_of(data.chips["scene_id"].to_numpy()[chip_ids], chip_ids, chips_per_part),
        embedding=embedding, batch_size=batch_size, precision=precision, compile=compile, dense=dense,
        provenance=dict(provenance or {}), progress=progress,
    )  # fmt: skip
    from dlslicer_geo.predict.stream import run  # torch is loaded for those who predict, not for those who read

    return run(job, trainer)
