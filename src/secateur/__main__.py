"""``python -m secateur`` is the command ``secateur``."""

from __future__ import annotations

import sys

from secateur_program import main

if __name__ == "__main__":
    sys.exit(main())
