"""Files for other runtimes: LiteRT, ONNX Runtime, ExecuTorch, torch.export; each checked against its network."""

from secateur.export.agreement import Agreement, compare
from secateur.export.deployed import TARGETS, Deployed, is_deployed, open_file, suffix_of
from secateur.export.request import MODES, OBSERVERS
from secateur.export.write import TOLERANCE, Exported, export

__all__ = [
    "MODES",
    "OBSERVERS",
    "TARGETS",
    "TOLERANCE",
    "Agreement",
    "Deployed",
    "Exported",
    "compare",
    "export",
    "is_deployed",
    "open_file",
    "suffix_of",
]
