"""``python -m sparsedis_kernels.cli``."""

import sys

from sparsedis_kernels.cli import main

sys.exit(main())
