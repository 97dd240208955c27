"""Explaining as a stream: the network is a bounded number of groups ahead, and outlives nobody who waits for it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from relevance_nets import toy
from test_relevance import Chips, Model, data  # noqa: F401
from test_saliency_stream import ASKED, Oracle, cut

from dlslicer_geo.errors import RelevanceError
from dlslicer_geo.layers import questions_left, stream_saliency
from dlslicer_geo.pipeline.ahead import ahead, until
from dlslicer_geo.relevance import Explainer
from dlslicer_geo.relevance.inputs import chips_at_once
from dlslicer_geo.types import Progress, Saliency

WAIT = 30


def numbers(begun: list[int], *, bad: int = -1, last: int = 100) -> Generator[int, None, None]:
    """Numbers from 0 on, and which of them were begun; one of them may be refused."""
    for number in range(last):
        begun.append(number)
        if number == bad:
            raise RelevanceError("number 3 cannot be explained: take another one")
        yield number


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "ahead"]


def test_the_next_item_is_made_while_one_is_worked_on_and_no_more_than_two_wait() -> None:
    begun: list[int] = []
    seen = threading.Event()

    def watched() -> Generator[int, None, None]:
        for number in numbers(begun, last=9):
            if number == 3:
                seen.set()
            yield number

    with ahead(watched()) as items:
        assert next(items) == 0
        assert seen.wait(0.3) is False, "3 is begun only when 1 was taken"
        assert next(items) == 1
        assert seen.wait(WAIT)
        assert list(items) == list(range(2, 9))
    assert not threads()


def test_an_error_comes_in_the_place_of_its_item_and_both_sides_end() -> None:
    begun: list[int] = []
    taken = []
    with pytest.raises(RelevanceError, match="number 3 cannot be explained"), ahead(numbers(begun, bad=3)) as items:
        for item in items:
            taken.append(item)
    assert taken == [0, 1, 2]
    assert not threads()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_who_works_on_the_items_may_stop_and_nothing_goes_on_behind(stop: type[BaseException]) -> None:
    begun: list[int] = []
    closed = []

    def watched() -> Generator[int, None, None]:
        try:
            yield from numbers(begun)
        finally:
            closed.append(threading.current_thread().name)

    with pytest.raises(stop), ahead(watched()) as items:
        next(items)
        raise stop
    assert closed == ["ahead"], "closed by the thread that ran it"
    assert not threads()
    assert len(begun) <= 4


def test_who_stops_does_not_wait_for_the_whole_item_that_is_being_made() -> None:
    over, begun = threading.Event(), threading.Event()
    parts: list[int] = []

    def endless() -> Iterator[int]:
        for part in itertools.count():
            begun.set()
            yield part

    def one(watched: Progress) -> Generator[int, None, None]:
        for part in watched(endless(), total=0, label="an item without end"):
            parts.append(part)
        yield len(parts)

    with pytest.raises(KeyboardInterrupt), ahead(one(until(over)), over=over):
        assert begun.wait(WAIT)
        raise KeyboardInterrupt
    assert parts
    assert not threads()


class Counting(Chips):
    """Chips that remember for which batches loaders were asked."""

    asked: list[list[list[int]]]

    def loader(self, chip_ids: NDArray[np.int64], *, batches: Sequence[NDArray[np.int64]] | None = None) -> Any:
        self.asked.append([ids.tolist() for ids in batches or [chip_ids]])
        return super().loader(chip_ids, batches=batches)


def test_groups_are_answered_one_by_one_by_one_loader_and_never_mixed(data: Chips) -> None:  # noqa: F811
    counting = Counting(data.scenes, data.chips, data.pixels)
    counting.asked = []
    net = Model(toy(dtype=torch.float32))
    asking = Explainer(net, counting, layers=("layer2", "layer4"), target="BAN")
    groups = [np.array(ids) for ids in ([4, 0], [2], [1, 3, 5])]
    answers = list(asking.stream(groups))
    assert counting.asked == [[[4, 0], [2], [1, 3, 5]]]
    assert [why.chip_id.tolist() for why in answers] == [[4, 0], [2], [1, 3, 5]]
    for group, why in zip(groups, answers, strict=True):
        alone = asking(group)
        assert all(np.array_equal(alone.maps[name], why.maps[name]) for name in alone.layers)
        assert alone.scene_id == why.scene_id
    assert list(asking.stream([])) == []


def test_a_group_that_is_larger_than_a_sweep_is_cut_and_answered_as_one(data: Chips) -> None:  # noqa: F811
    many = 41
    pixels = torch.from_numpy(np.random.default_rng(5).integers(0, 256, (many, 3, 48, 48), dtype=np.uint8))
    chips = data.chips.iloc[np.zeros(many, int)].assign(chip_id=np.arange(many))
    counting = Counting(data.scenes, chips, pixels)
    counting.asked = []
    asking = Explainer(Model(toy(dtype=torch.float32)), counting, layers=("layer4",), target="true")
    (why, one) = asking.stream([np.arange(many - 1), np.array([many - 1])])
    assert [len(ids) for ids in counting.asked[0]] == [16, 16, 8, 1]
    assert why.chip_id.tolist() == list(range(many - 1))
    assert one.chip_id.tolist() == [many - 1]
    backwards = asking(np.arange(many)[::-1])
    np.testing.assert_allclose(why.maps["layer4"], backwards.maps["layer4"][:0:-1], rtol=1e-3, atol=1e-7)


def test_unknown_chips_of_any_group_are_refused_before_the_first_is_explained(data: Chips) -> None:  # noqa: F811
    asking = Explainer(Model(toy(dtype=torch.float32)), data, target="BAN")
    with pytest.raises(RelevanceError, match="1 are unknown"):
        next(asking.stream([np.array([0]), np.array([99])]))


def test_a_processor_takes_few_chips_at_once() -> None:
    assert chips_at_once(torch.device("cpu")) == 16


class Tired(Oracle):
    """Answers twice, and then no more."""

    def __call__(self, chip_ids: NDArray[np.int64]) -> Saliency:
        if len(self.asked) == 2:
            raise RelevanceError("two answers are enough: ask somebody else")
        return super().__call__(chip_ids)


def test_what_is_left_to_ask_is_known_before_anything_is_asked(tmp_path: Path) -> None:
    chips = cut((1500, 3600))
    every = questions_left(chips, tmp_path, question=ASKED)
    assert np.array_equal(np.concatenate(every), chips["chip_id"])
    with pytest.raises(RelevanceError, match="two answers"):
        stream_saliency(Tired(chips), chips, tmp_path, question=ASKED)
    left = questions_left(chips, tmp_path, question=ASKED)
    oracle = Oracle(chips)
    stream_saliency(oracle, chips, tmp_path, question=ASKED)
    assert 1 < len(left) < len(every)
    assert [ids.tolist() for ids in left] == [ids.tolist() for ids in oracle.asked]
    assert questions_left(chips, tmp_path, question=ASKED) == []
    (tmp_path / "saliency" / "almaty.chico.grad-cam.qml").unlink()
    assert len(questions_left(chips, tmp_path, question=ASKED)) == len(every), "a file without its style is none"
