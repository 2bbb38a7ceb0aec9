"""Files for other runtimes: LiteRT, ONNX Runtime, ExecuTorch, torch.export; each checked against its network."""

from secateur.export.agreement import Agreement, compare
from secateur.export.deployed import TARGETS, Deployed, is_deployed, open_file, runtimes_of, suffix_of
from secateur.export.request import MODES, OBSERVERS
from secateur.export.write import TOLERANCE, Exported, check_offered, export

__all__ = [
    "MODES",
    "OBSERVERS",
    "TARGETS",
    "TOLERANCE",
    "Agreement",
    "Deployed",
    "Exported",
    "check_offered",
    "compare",
    "export",
    "is_deployed",
    "open_file",
    "runtimes_of",
    "suffix_of",
]
