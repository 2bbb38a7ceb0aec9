"""Every error that Secateur raises on purpose.

.. code-block:: text

    SecateurError
    ├── SettingsError (ValueError)      an option is out of its range or contradicts another
    ├── ModelError (ValueError)         the network cannot be used as asked
    │   ├── UnknownNetworkError         no network of that name
    │   ├── WatchError                  the forward pass failed while it was watched
    │   ├── NothingToCutError           no channel may be removed, or none would be
    │   ├── NotFiniteError              training has gone astray: loss or outputs are no longer finite
    │   └── NoBlockError                only the whole network holds all that a cut changes
    ├── DataError (ValueError)          the data cannot be used: shape, labels, not finite
    │   └── MissingDataError            the data set is not where it was looked for
    ├── PlanError (ValueError)          a plan cannot be made, or was made for another model
    │   └── BudgetError                 the budget cannot be reached
    ├── ExportError (ValueError)        no file of that kind can be made of the network
    └── StoreError (OSError)            reading or writing files
        ├── FileFormatError             foreign, damaged, or of another version
        ├── UntrustedImportError        a file asks for code outside the allow-list
        └── RunError                    a run folder cannot be used or resumed

A message states the fact, the reason and the next step.
"""


class SecateurError(Exception):
    """Base of every error that Secateur raises on purpose."""


class SettingsError(SecateurError, ValueError):
    """An option is out of its range or contradicts another."""


class ModelError(SecateurError, ValueError):
    """The network cannot be used as asked."""


class UnknownNetworkError(ModelError):
    """No network of that name can be built."""


class WatchError(ModelError):
    """The network's forward pass failed while it was watched."""


class NothingToCutError(ModelError):
    """No channel may be removed, or of what was asked for none would be."""


class NotFiniteError(ModelError):
    """Training has gone astray: the loss or the network's outputs are no longer finite."""


class NoBlockError(ModelError):
    """No piece smaller than the whole network holds all that a cut changes."""


class DataError(SecateurError, ValueError):
    """The data cannot be used: its shape, its labels, or values that are not finite."""


class MissingDataError(DataError):
    """The data set is not where it was looked for."""


class PlanError(SecateurError, ValueError):
    """A plan cannot be made, or was made for another model."""


class BudgetError(PlanError):
    """The budget cannot be reached."""


class ExportError(SecateurError, ValueError):
    """No file of that kind can be made of the network, or it does not compute what the network does."""


class StoreError(SecateurError, OSError):
    """A file or folder could not be read or written."""


class FileFormatError(StoreError):
    """A file is foreign, damaged, or of another version."""


class UntrustedImportError(StoreError):
    """A file asks for code from a package that is not on the allow-list."""


class RunError(StoreError):
    """A run folder cannot be used or resumed."""
