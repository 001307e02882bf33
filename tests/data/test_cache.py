import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsedis_kernels.data.cache import cached

FEATURES = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))


def counted(features: Tensor = FEATURES) -> tuple[Callable[[], Tensor], list[int]]:
    """Computes features, and the list that grows with every call."""
    calls: list[int] = []

    def compute() -> Tensor:
        calls.append(1)
        return features

    return compute, calls


def test_computed_once_and_read_back_bit_for_bit(tmp_path: Path) -> None:
    compute, calls = counted()
    folder = tmp_path / "made" / "as needed"
    first, again = (cached(compute, ["encoder 1", "a", b"b"], folder) for _ in range(2))
    assert len(calls) == 1
    assert torch.equal(first, FEATURES)
    assert torch.equal(again, FEATURES)
    assert again.dtype == torch.float32
    assert re.fullmatch(r"[0-9a-f]{64}\.npz", *os.listdir(folder))


def test_anything_in_the_key_makes_another_file(tmp_path: Path) -> None:
    keys = (["e/1", "ab", "c"], ["e/2", "ab", "c"], ["e/1", "a", "bc"], ["e/1", "c", "ab"])
    for number, key in enumerate([*keys, ["e/1", "ab"], ["e/1", "ab", "c", ""]]):
        value = torch.tensor([float(number)])
        assert torch.equal(cached(lambda value=value: value, key, tmp_path), value)
    assert len(os.listdir(tmp_path)) == 6


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "array"])
def test_a_damaged_file_is_made_anew_with_a_warning(damage: str, tmp_path: Path) -> None:
    compute, calls = counted()
    cached(compute, ["key"], tmp_path)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40  # one bit of one number
    if damage == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.write_bytes({"cut": data[:-100], "flip": data, "empty": b""}[damage])
    with pytest.warns(RuntimeWarning, match=rf"{path} is damaged .*, made anew") as warned:
        assert torch.equal(cached(compute, ["key"], tmp_path), FEATURES)
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cached(compute, ["key"], tmp_path), FEATURES)
    assert len(calls) == 2


def test_the_folder_is_the_environment_variable_or_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SPARSEDIS_CACHE", raising=False)
    cached(lambda: FEATURES, ["key"])
    assert len(os.listdir(tmp_path / ".cache" / "sparsedis")) == 1
    monkeypatch.setenv("SPARSEDIS_CACHE", "~/elsewhere")
    cached(lambda: FEATURES, ["key"])
    assert len(os.listdir(tmp_path / "elsewhere")) == 1


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: Path) -> None:
        # All is written before the name appears.
        assert os.path.getsize(source) > FEATURES.nbytes
        assert not target.exists()
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        cached(lambda: FEATURES, ["key"], tmp_path)
    assert not os.listdir(tmp_path)


def test_features_with_a_graph_are_kept_without_it(tmp_path: Path) -> None:
    weight = torch.ones(7, requires_grad=True)
    first, again = (cached(lambda: FEATURES * weight, ["key"], tmp_path) for _ in range(2))
    assert not first.requires_grad
    assert torch.equal(first, again)
