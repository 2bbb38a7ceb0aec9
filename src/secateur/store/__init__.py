"""Files: reduced networks, run folders with journal and snapshots. Tensors and JSON, never pickle."""

from secateur._files import write_atomic as write_atomic
from secateur.store.masks_file import load_masks as load_masks
from secateur.store.masks_file import save_masks as save_masks
from secateur.store.model_file import FactoryNeededWarning as FactoryNeededWarning
from secateur.store.model_file import ModelFile as ModelFile
from secateur.store.model_file import coded_size as coded_size
from secateur.store.model_file import load as load
from secateur.store.model_file import read_description as read_description
from secateur.store.model_file import save as save
from secateur.store.run import RunFolder as RunFolder
from secateur.store.state import model_snapshot as model_snapshot
from secateur.store.state import restore_model as restore_model
from secateur.store.streams import Coder as Coder

__all__ = [
    "Coder",
    "FactoryNeededWarning",
    "ModelFile",
    "RunFolder",
    "coded_size",
    "load",
    "load_masks",
    "model_snapshot",
    "read_description",
    "restore_model",
    "save",
    "save_masks",
    "write_atomic",
]
