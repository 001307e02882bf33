import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sparsedis_kernels.data import Labelled, encoded, features
from sparsedis_kernels.data.encoders.image_files import read_images


def labelled(inputs: Sequence[Path] | Sequence[str]) -> Labelled:
    n = torch.zeros(len(inputs), dtype=torch.long)
    return Labelled("toy", inputs, n, n, n.bool(), ("a",), ("b",))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[object]]:
    """Stubs for the encoders, with what each was called with."""
    seen: list[list[object]] = []

    def encode(inputs: Sequence[object]) -> Tensor:
        seen.append(list(inputs))
        return torch.tensor([[float(len(str(x))), len(seen)] for x in inputs])

    monkeypatch.setenv("SPARSEDIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(features, "encode_text", encode)
    monkeypatch.setattr(features, "encode_images", encode)
    return seen


def test_texts_are_encoded_once(calls: list[list[object]]) -> None:
    data = encoded(labelled(["one", "two", "three"]))
    assert torch.equal(data.inputs, torch.tensor([[3.0, 1], [3, 1], [5, 1]]))  # type: ignore[arg-type]
    assert torch.equal(encoded(labelled(["one", "two", "three"])).inputs, data.inputs)  # type: ignore[arg-type]
    assert calls == [["one", "two", "three"]]
    encoded(labelled(["one", "two"]))
    assert calls[1:] == [["one", "two"]]
    assert (data.name, data.classes) == ("toy", ("a",))


def test_an_interrupted_encoding_keeps_the_parts_that_were_done(
    calls: list[list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_PART", 2)
    whole = features.encode_text

    def interrupted(texts: Sequence[str]) -> Tensor:
        if "ddd" in texts:
            raise KeyboardInterrupt
        return whole(texts)

    monkeypatch.setattr(features, "encode_text", interrupted)
    texts = ["a", "bb", "cc", "ddd", "eeeee"]
    with pytest.raises(KeyboardInterrupt):
        encoded(labelled(texts))
    monkeypatch.setattr(features, "encode_text", whole)
    lengths = encoded(labelled(texts)).inputs[:, 0]  # type: ignore[call-overload]
    assert lengths.tolist() == [1, 2, 2, 3, 5]
    assert calls == [["a", "bb"], ["cc", "ddd"], ["eeeee"]]


def test_files_are_known_by_content_not_by_place(calls: list[list[object]], tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.png", "b.png")]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]))
    first = encoded(labelled(files)).inputs
    moved = [file.rename(file.with_name(f"moved-{file.name}")) for file in files]
    assert torch.equal(encoded(labelled(moved)).inputs, first)  # type: ignore[arg-type]
    assert calls == [files]
    moved[1].write_bytes(b"other")
    encoded(labelled(moved))
    assert calls[1:] == [moved]


def picture(mode: str, size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_files_become_red_green_and_blue(mode: str, tmp_path: Path) -> None:
    picture(mode, (7, 7)).save(tmp_path / "a.png")
    (image,) = read_images([tmp_path / "a.png"], 7)
    expected = np.asarray(picture(mode, (7, 7)).convert("RGB")) / 255
    np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_files_of_any_size_are_scaled_to_squares(tmp_path: Path) -> None:
    """A picture of halves keeps its halves, whatever its shape."""
    for number, (width, height) in enumerate([(40, 20), (16, 64), (8, 8)]):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[:, : width // 2, 0] = 255
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    images = read_images(sorted(tmp_path.iterdir()), 16)
    assert images.shape == (3, 3, 16, 16)
    assert (images[:, 0, :, :6] > 0.9).all()
    assert (images[:, 0, :, 10:] < 0.1).all()
    assert (images[:, 1:] == 0).all()


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(OSError, match=r"cannot identify image file '.*a\.png'"):
        read_images([tmp_path / "a.png"], 4)
    with pytest.raises(FileNotFoundError, match="absent"):
        read_images([tmp_path / "absent.png"], 4)
    assert os.listdir(tmp_path) == ["a.png"]


def test_damaged_and_truncated_files_are_named(tmp_path: Path) -> None:
    picture("RGB", (40, 40)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    damaged = whole[:33] + (16).to_bytes(4, "big") + whole[37:]  # the length of the pixels' chunk
    picture("RGB", (40, 40)).save(tmp_path / "whole.jpg")
    jpeg = (tmp_path / "whole.jpg").read_bytes()
    files = {"damaged.png": damaged, "short.png": whole[:2000], "short.jpg": jpeg[:900]}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OSError, match=rf"{name}: .+"):
            read_images([tmp_path / "whole.png", tmp_path / name], 4)
