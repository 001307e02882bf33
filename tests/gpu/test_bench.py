"""The benchmarks run on a CUDA device, and every answer of ours is right there."""

import json

import pytest
import torch

from sparsedis_kernels import cli
from sparsedis_kernels.bench import MODULES

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("op", MODULES)
def test_every_op_is_timed(device, op, tmp_path):
    file = tmp_path / "rows.json"
    assert cli.main(["bench", op, "--quick", "--device", "cuda", "--save", str(file)]) == 0
    document = json.loads(file.read_text())
    assert document["machine"]["device"] == torch.cuda.get_device_name(device)
    for row in document["rows"]:
        if "has no kernel for this op" in row["note"]:  # or its library was not built
            assert row["status"] == "skipped"
            continue
        assert row["status"] == "timed", f"{row['provider']}: {row['note']}"
        assert 0 < row["low"] <= row["seconds"] <= row["high"]
        # No call on a GPU is done in a microsecond: it would be one that never ran there.
        assert row["seconds"] > 1e-6
