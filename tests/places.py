"""Where the tests find the project and the shared data sets, which need not be there."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.resolve().parent / "shared" / "data"
