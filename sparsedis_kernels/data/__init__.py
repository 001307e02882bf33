"""Sources of tasks, labelled data sets with domains, and frozen encoders of texts and images.

Tasks are drawn from real digits under domain shift, from rendered scenes with known factors, and
from frozen features of labelled examples. Data sets are read from where their files are; nothing is
ever downloaded.
"""

from __future__ import annotations

from sparsedis_kernels.data.cache import cached
from sparsedis_kernels.data.class_tasks import ClassTasks
from sparsedis_kernels.data.digits import DigitTasks, load_digits, load_mnist
from sparsedis_kernels.data.domain_folders import (
    load_folder,
    load_office_home,
    load_pacs,
    load_vlcs,
)
from sparsedis_kernels.data.encoders import (
    IMAGE_ENCODER,
    TEXT_ENCODER,
    encode_images,
    encode_text,
)
from sparsedis_kernels.data.features import encoded
from sparsedis_kernels.data.labelled import Labelled, limited
from sparsedis_kernels.data.shapes import ShapeTasks, render, sample_factors, standardise
from sparsedis_kernels.data.sources import encoded_tasks, load
from sparsedis_kernels.data.tasks import Tasks, TaskSource
from sparsedis_kernels.data.text import load_friends, load_newsgroups
from sparsedis_kernels.data.wilds import load_camelyon17, load_civilcomments, load_waterbirds

__all__ = [
    "IMAGE_ENCODER",
    "TEXT_ENCODER",
    "ClassTasks",
    "DigitTasks",
    "Labelled",
    "ShapeTasks",
    "TaskSource",
    "Tasks",
    "cached",
    "encode_images",
    "encode_text",
    "encoded",
    "encoded_tasks",
    "limited",
    "load",
    "load_camelyon17",
    "load_civilcomments",
    "load_digits",
    "load_folder",
    "load_friends",
    "load_mnist",
    "load_newsgroups",
    "load_office_home",
    "load_pacs",
    "load_vlcs",
    "load_waterbirds",
    "render",
    "sample_factors",
    "standardise",
]
