"""Checkpoints of others become ours with the same logits, and nothing that stands in them is ever run."""

from __future__ import annotations

import builtins
import collections
import functools
import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import time
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.transforms import v2

from dlslicer_geo.errors import ModelError
from dlslicer_geo.files import PROVENANCE_KEY, sha256_file
from dlslicer_geo.model import load, weights
from dlslicer_geo.model.imports import _network_of, import_checkpoint

CODES = [f"C{number:02d}" for number in range(45)]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@functools.cache
def trained(name: str, outputs: int = 45) -> Any:
    """A network of torchvision with random weights and the statistics that belong to them."""
    torch.manual_seed(len(name))
    net = getattr(models, name)(num_classes=outputs)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
    with torch.no_grad():
        net.fc.weight *= 0.3
        for _ in range(3):
            net.train()(torch.randn(4, 3, 96, 96) + 0.3)
    return net.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def save(value: Any, *, legacy: bool = False, name: str = "best.pth", **options: Any) -> Path:
        torch.save(value, tmp_path / name, _use_new_zipfile_serialization=not legacy, **options)
        return tmp_path / name

    return save


def in_module(name: str, net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same network with its classes from another module, which is gone when the file is read."""
    copied = ModuleType(name)
    for kind in {type(part) for part in net.modules() if "torchvision" in type(part).__module__}:
        own = type(kind.__name__, (kind,), {"__module__": name})
        setattr(copied, kind.__name__, own)
    for parent in range(name.count(".") + 1):
        monkeypatch.setitem(sys.modules, name.rsplit(".", parent)[0], copied)
    for part in net.modules():
        if "torchvision" in type(part).__module__:
            part.__class__ = getattr(copied, type(part).__name__)
    return net


@pytest.mark.parametrize(
    ("name", "legacy"),
    [
        ("resnet18", False),
        ("resnet18", True),
        ("resnet50", True),
        *(pytest.param(name, False, marks=pytest.mark.slow) for name in ("resnet34", "resnet50", "resnet101")),
    ],
)
def test_a_whole_pickled_network_gives_the_same_logits(
    name: str, legacy: bool, saved: Callable[..., Path], tmp_path: Path
) -> None:
    net = trained(name)
    path = import_checkpoint(saved(nn.DataParallel(net), legacy=legacy), tmp_path / "model", cities=CODES)
    model = load(tmp_path / "model")
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected, found = net(images), model.model(images)
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert path == tmp_path / "model" / "model.ckpt"
    assert model.hparams["model"] == name and model.cities == tuple(CODES)


def test_chips_as_they_are_read_get_the_logits_of_the_authors_transforms(
    saved: Callable[..., Path], tmp_path: Path
) -> None:
    net = trained("resnet18")
    model = load(import_checkpoint(saved(nn.DataParallel(net)), tmp_path / "model", cities=CODES))
    chips = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 480, 480), dtype=np.uint8))
    transform = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Resize(224), v2.Normalize(MEAN, STD)])
    with torch.no_grad():
        torch.testing.assert_close(model(chips), net(transform(chips)), atol=1e-5, rtol=0)
    assert model.hparams["chip"] == {"size": 480, "stride": 240, "metres": 200.0}
    assert model.hparams["input_size"] == 224


def test_the_new_checkpoint_says_where_it_comes_from_and_is_the_same_every_time(
    saved: Callable[..., Path], tmp_path: Path
) -> None:
    source = saved(trained("resnet18"))
    one, two = (import_checkpoint(source, tmp_path / name, cities=CODES) for name in "ab")
    expected = {"source": "best.pth", "sha256": sha256_file(source), "format": "zip", "network": "resnet18"}
    assert weights.read(one)[PROVENANCE_KEY] == expected
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("wrap", ["state_dict", "prefixed", "network inside"])
def test_state_dicts_are_read_wherever_they_stand(wrap: str, saved: Callable[..., Path]) -> None:
    net = trained("resnet18")
    state = net.state_dict()
    value = {
        "state_dict": {"epoch": 3, "state_dict": state, "best": 0.5},
        "prefixed": {f"module.{key}": tensor for key, tensor in state.items()},
        "network inside": {"net": nn.DataParallel(net), "epoch": 9},
    }[wrap]
    name, found, _ = _network_of(saved(value), 45)
    assert name == "resnet18" and len(found) == 102
    for key, tensor in found.items():
        assert torch.equal(tensor, state[key]), key


@pytest.mark.parametrize("module", ["resnet", "modules.resnet"])
def test_an_own_copy_of_resnet_is_read_though_its_module_is_gone(module: str, saved: Callable[..., Path]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # torch misses the source code of these classes
        net = in_module(module, models.resnet18(num_classes=3), patch)
        paths = [saved(nn.DataParallel(net), name="a.pth"), saved(net, legacy=True, name="b.pth", pickle_protocol=4)]
    assert module not in sys.modules
    for path in paths:
        name, found, _ = _network_of(path, 3)
        assert name == "resnet18" and torch.equal(found["fc.weight"], net.fc.weight)


def test_half_precision_and_shared_numbers_are_read(saved: Callable[..., Path]) -> None:
    state = {key: value for key, value in trained("resnet18").state_dict().items() if "num_batches" not in key}
    flat = torch.cat([value.reshape(-1) for value in state.values()])
    views = dict(zip(state, torch.split(flat, [value.numel() for value in state.values()]), strict=True))
    shared = {key: view.view(state[key].shape) for key, view in views.items()}
    found = _network_of(saved(shared), 45)[1]
    assert all(torch.equal(found[key], value) for key, value in state.items())
    halves = {key: value.half().contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value.half()
              for key, value in state.items()}  # fmt: skip
    found = _network_of(saved(halves), 45)[1]
    assert all(torch.equal(found[key], value.half().float()) for key, value in state.items())


def test_the_number_of_outputs_must_be_the_number_of_cities(saved: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"best\.pth cannot be imported: .* has 45 outputs, but 44 cities"):
        import_checkpoint(saved(trained("resnet18")), tmp_path / "model", cities=CODES[:44])
    with pytest.raises(ModelError, match="45 cities with 44 codes"):
        import_checkpoint(saved(trained("resnet18")), tmp_path / "model", cities=[*CODES[:44], CODES[0]])
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wide_resnet50_2", r"none of resnet18.*layer1\.0\.conv1\.weight has shape \(128, 64, 1, 1\)"),
        ("resnext50_32x4d", r"none of resnet18.*has shape \(128, 64, 1, 1\), not \(64, 64, 1, 1\) as in resnet50"),
        ("resnet152", r"none of resnet18.* is absent from resnet101 \(255 tensors differ\)"),
        ("mobilenet_v3_small", "torch.nn.modules.activation.Hardswish|mobilenet"),
    ],
)
def test_another_network_is_refused_with_what_differs(
    name: str, said: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=said):
        import_checkpoint(saved(getattr(models, name)(num_classes=45)), tmp_path / "model", cities=CODES)


def test_the_stride_of_older_resnets_in_another_layer_is_seen_though_all_shapes_fit(
    saved: Callable[..., Path], tmp_path: Path
) -> None:
    net = models.resnet50(num_classes=45)
    for stage in (net.layer2, net.layer3, net.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    with pytest.raises(
        ModelError, match=r"layer2\.0\.conv1\.stride is \(2, 2\), not \(1, 1\) as in resnet50.*other logits"
    ):
        import_checkpoint(saved(nn.DataParallel(net)), tmp_path / "model", cities=CODES)


def test_a_network_that_lacks_a_tensor_or_has_one_more_is_refused(saved: Callable[..., Path], tmp_path: Path) -> None:
    state = dict(trained("resnet18").state_dict())
    with pytest.raises(ModelError, match=r"its extra\.weight is absent from resnet18 \(1 tensors differ\)"):
        import_checkpoint(saved(state | {"extra.weight": torch.ones(2)}), tmp_path / "model", cities=CODES)
    del state["layer3.0.bn1.running_var"]
    with pytest.raises(ModelError, match=r"lacks layer3\.0\.bn1\.running_var of resnet18"):
        import_checkpoint(saved(state), tmp_path / "model", cities=CODES)
    state = dict(trained("resnet18").state_dict())
    state["bn1.bias"] = torch.full_like(state["bn1.bias"], torch.nan)
    with pytest.raises(ModelError, match=r"bn1\.bias holds numbers that are not finite"):
        import_checkpoint(saved(state), tmp_path / "model", cities=CODES)


class Call:
    """Pickles as a call."""

    def __init__(self, called: Any, *arguments: Any) -> None:
        self.called, self.arguments = called, arguments

    def __reduce__(self) -> Any:
        return self.called, self.arguments


def layer_with(value: Any) -> nn.Module:
    layer = nn.DataParallel(nn.Sequential(nn.Linear(2, 2)))
    layer.__dict__["extra"] = value
    return layer


ATTACKS: dict[str, tuple[Callable[[str], Any], str]] = {
    "os.system": (lambda target: Call(os.system, f"touch {target}"), "posix.system"),
    "eval": (lambda target: Call(eval, f"open({target!r}, 'w').close()"), "__builtin__.eval"),
    "exec": (lambda target: Call(exec, f"open({target!r}, 'w').close()"), "__builtin__.exec"),
    "open": (lambda target: Call(open, target, "w"), "io.open"),
    "getattr": (lambda target: Call(getattr, "a", "join"), "__builtin__.getattr"),
    "partial": (lambda target: functools.partial(os.system, f"touch {target}"), "functools.partial"),
    "popen": (lambda target: Call(subprocess.Popen, ["touch", target]), "commands.Popen"),
    "torch.load": (lambda target: Call(torch.load, target), "torch.serialization.load"),
    "torch.hub": (lambda target: Call(torch.hub.load, "a/b", "c"), "torch.hub.load"),
    "in a network": (lambda target: layer_with(Call(os.system, f"touch {target}")), "posix.system"),
    "in a dictionary": (lambda target: {"a": torch.ones(2), "args": Namespace(a=1)}, "argparse.Namespace"),
    "an optimizer": (lambda target: {"optimizer": torch.optim.Adam([torch.ones(1)])}, "torch.optim.adam.Adam"),
    "unused": (lambda target: [os.system, {}], "posix.system"),
}
"""Objects that would create a file when loaded, or could, and the name that a message must give."""


@pytest.mark.parametrize("form", ["zip", "legacy", "raw 2", "raw 4"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_code_in_a_file_is_named_and_never_run(attack: str, form: str, tmp_path: Path) -> None:
    make, name = ATTACKS[attack]
    value = make(str(tmp_path / "created"))
    path = tmp_path / "best.pth"
    if form.startswith("raw"):
        path.write_bytes(pickle.dumps(value, protocol=int(form[-1])))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=form == "zip")
    if form == "raw 4":  # protocol 2 writes the names of Python 2
        name = name.replace("__builtin__", "builtins").replace("commands", "subprocess")
    if form.startswith("raw") and attack in ("in a network", "in a dictionary"):
        name = "torch.storage._load_from_bytes"  # comes first there, and would unpickle anything
    with pytest.raises(ModelError, match=f"{name}, which was not loaded and not run"):
        import_checkpoint(path, tmp_path / "model", cities="ab")
    assert not (tmp_path / "created").exists() and not (tmp_path / "model").exists()


NET = b"ctorchvision.models.resnet\nResNet\n)\x81"


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (b"\x80\x04\x8c\x15torch.nn.modules.conv\x8c\x14Conv2d.__init__.func\x93.", "Conv2d.__init__.func"),
        (b"\x80\x02ctorch.nn\nmodules.conv.os.system\n.", "torch.nn.modules.conv.os.system"),
        (b"\x80\x02(iposix\nsystem\n.", "instruction INST"),
        (b"\x80\x02(ctorch\nFloatStorage\no.", "instruction OBJ"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x02ctorch.nn.modules.conv\nConv2d\n)R.", "calls torch.nn.modules.conv.Conv2d"),
        (b"\x80\x02" + NET + b"X\x01\x00\x00\x00ab.", "gives a state to a Module, which was not run"),
        (b"\x80\x02" + NET + b"}X\x0c\x00\x00\x00__setstate__cposix\nsystem\nsb.", "posix.system"),
        (b"\x80\x02" + NET + b")R.", "calls a Module, which was not run"),
        (b"\x80\x02]K\x01b.", "gives a state to a list"),
        (b"\x80\x02X\x05\x00\x00\x00\x1b[31m\x2e", "neither a network"),
        (b"\x80\x02c\x1b[31m\nx\n.", r"\\x1b\[31m"),
        (b"\x80\x02}]K\x01s.", "a list as a key"),
    ],
)
def test_handmade_pickles_get_nowhere(stream: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    for number, content in enumerate([legacy_file(stream), zip_file(stream)]):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=said) as caught:
            import_checkpoint(path, tmp_path / f"model{number}", cities="ab")
        assert str(caught.value).isprintable()


def legacy_file(stream: bytes, *after: bytes) -> bytes:
    start = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join([*start, stream, *(after or (pickle.dumps([], 2),))])


def zip_file(stream: bytes, members: dict[str, bytes] | None = None, *, method: int = zipfile.ZIP_STORED) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", method) as archive:
        archive.writestr("archive/data.pkl", stream)
        for name, content in (members or {}).items():
            archive.writestr(f"archive/{name}", content)
    return held.getvalue()


def one_tensor(numel: int, shape: tuple[int, ...]) -> bytes:
    """The pickle of ``{"fc.weight": tensor}`` whose storage says to hold ``numel`` numbers."""

    stride = tuple(int(np.prod(shape[axis + 1 :], dtype=object)) for axis in range(len(shape)))
    held = pickle.dumps({"fc.weight": Call(torch._utils._rebuild_tensor_v2, 0, 0, shape, stride, False, {})}, 2)
    ident = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    number = pickle.dumps(numel, 2)[2:-1]
    assert held.count(b"(K\x00K\x00") == 1
    return held.replace(b"(K\x00K\x00", b"(" + ident + number + b"tQ" + b"K\x00")


HUGE = 1 << 42


def test_sizes_that_a_file_only_declares_are_not_allocated(tmp_path: Path) -> None:
    keys = pickle.dumps(["0"], 2)
    tensor = one_tensor(HUGE, (HUGE // 4, 4))
    cases = {
        "zip": zip_file(tensor, {"data/0": b"1234"}),
        "legacy": legacy_file(tensor, keys, struct.pack("<q", HUGE), b"1234"),
        "shape": zip_file(one_tensor(2, (2, 1 << 40)), {"data/0": b"12345678"}),
        "memo": legacy_file(b"\x80\x02]r\xff\xff\xff\x7f."),
        "text": legacy_file(b"\x80\x04\x8d" + struct.pack("<Q", HUGE) + b"a."),
        "bytes": legacy_file(b"\x80\x02B\xff\xff\xff\x7fabc."),
        "deflated": zip_file(b"\x80\x02]" + b"K\x01a" * 20_000_000 + b".", method=zipfile.ZIP_DEFLATED),
        "long": legacy_file(b"\x80\x02]" + b"K\x01a" * 3_000_000 + b"."),
        "keys": legacy_file(b"\x80\x02}" + DOUBLED + b"K\x01s."),
        "exponent": legacy_file(b"\x80\x02ctorch\ndevice\n" + DOUBLED + b"R."),
        "padding": legacy_file(b"\x80\x02}X\x09\x00\x00\x00fc.weight" + DOUBLED + b"s."),
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in cases:
        start = time.monotonic()
        with pytest.raises(ModelError):
            import_checkpoint(tmp_path / name, tmp_path / "model", cities="ab")
        assert time.monotonic() - start < 15, name
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024, "kilobytes"


DOUBLED = b"K\x01" + b"".join(b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86" for level in range(60))
"""A tuple of twice a tuple of twice a tuple ...: to hash or print it takes 2**60 steps."""


@pytest.mark.parametrize("name", ["text", "empty", "garbage", "half", "half legacy", "tail", "other zip", "folder"])
def test_what_is_no_checkpoint_or_only_half_of_one_is_said_to_be(
    name: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "best.pth"
    if name.startswith(("half", "tail")):
        content = saved(trained("resnet18"), legacy="legacy" in name or name == "tail").read_bytes()
        path.write_bytes(content[: len(content) // 2] if name != "tail" else content[:-1])
    elif name == "folder":
        path.mkdir()
    else:
        noise = np.random.default_rng(0).bytes(5000)
        other = zip_file(b"").replace(b"data.pkl", b"some.txt")
        path.write_bytes({"text": b"not a model\n" * 99, "empty": b"", "garbage": noise, "other zip": other}[name])
    with pytest.raises(ModelError, match=r"best\.pth (cannot be imported: it is|cannot be read)"):
        import_checkpoint(path, tmp_path / "model", cities=CODES)
    with pytest.raises(ModelError, match="does not exist"):
        import_checkpoint(tmp_path / "absent.pth", tmp_path / "model", cities=CODES)


def mutate(path: Path, legacy: bool, rounds: int) -> collections.Counter[str]:
    """Change bytes of a valid file in place, look what comes out, and change them back."""
    random = np.random.default_rng(rounds + legacy)
    outcomes: collections.Counter[str] = collections.Counter()
    size = path.stat().st_size
    spans = [(0, 78_000)] if legacy else [(0, 40_000), (size - 30_000, size)]
    with path.open("r+b", buffering=0) as handle:
        for _ in range(rounds):
            low, high = spans[random.integers(len(spans))]
            places = random.integers(low, high, random.integers(1, 5)).tolist()
            kept = []
            for at in places:
                handle.seek(at)
                kept.append(handle.read(1))
                handle.seek(at)
                handle.write(random.bytes(1))
            try:
                name, state, _ = _network_of(path, 45)
                assert name == "resnet18" and len(state) == 102
                outcomes["read"] += 1
            except ModelError:
                outcomes["refused"] += 1
            for at, value in reversed(list(zip(places, kept, strict=True))):
                handle.seek(at)
                handle.write(value)
    return outcomes


@pytest.mark.parametrize("legacy", [False, True])
def test_a_damaged_file_is_refused_or_read_and_nothing_else(legacy: bool, saved: Callable[..., Path]) -> None:
    path = saved(nn.DataParallel(trained("resnet18")), legacy=legacy)
    outcomes = mutate(path, legacy, 30)
    assert outcomes["refused"] > 2 and outcomes.total() == 30
    assert _network_of(path, 45)[0] == "resnet18"


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [False, True])
def test_a_thousand_damaged_files_are_refused_or_read(legacy: bool, saved: Callable[..., Path]) -> None:
    outcomes = mutate(saved(nn.DataParallel(trained("resnet18")), legacy=legacy), legacy, 1000)
    assert outcomes["refused"] > 100


def test_the_reading_of_builtins_is_not_what_keeps_code_from_running(tmp_path: Path) -> None:
    """The same file does create its target when it is loaded the usual way: the attack is a real one."""
    target = tmp_path / "created"
    torch.save(Call(builtins.open, str(target), "w"), tmp_path / "best.pth")
    with pytest.raises(ModelError, match=r"io\.open"):
        import_checkpoint(tmp_path / "best.pth", tmp_path / "model", cities="ab")
    assert not target.exists()
    torch.load(tmp_path / "best.pth", weights_only=False).close()
    assert target.exists()
