"""Every error a user can meet, as one tree; no input, no output.

::

    DlslicerError
    ├── ConfigError       a key, a value or a path in the experiment file
    ├── TableError        a table read back from disk lacks what was promised
    ├── SceneError        an image that cannot be a scene, or a folder without any
    ├── GridError         a chip grid that does not fit a scene
    ├── SplitError        a split that cannot be made as asked
    │   └── LeakError     two splits share ground, pixels or images
    ├── ModelError        weights or checkpoints that cannot be used
    ├── RelevanceError    a network or target that a saliency method is not defined for
    └── LayerError        an output that cannot be written or drawn

A message is one sentence: which thing, what is wrong (with numbers), what to do. The command line turns any of
these into that sentence and exit code 2.
"""


class DlslicerError(Exception):
    """Base of every error raised on purpose by this package."""

    def __str__(self) -> str:
        """The sentence; torch puts a traceback before that of a process that reads chips."""
        said = super().__str__()
        return said.rpartition(f".{type(self).__name__}: ")[2].strip() if said.startswith("Caught ") else said


class ConfigError(DlslicerError):
    """A key, a value or a path in the configuration is wrong."""


class TableError(DlslicerError):
    """A table read back from disk lacks a column or holds the wrong kind of value."""


class SceneError(DlslicerError):
    """An image cannot be used as a scene, or there is no scene at all."""


class GridError(DlslicerError):
    """A chip grid does not fit a scene."""


class SplitError(DlslicerError):
    """A split cannot be made, or a table was not split."""


class LeakError(SplitError):
    """Two splits share ground, pixels or images."""


class ModelError(DlslicerError):
    """Weights or a checkpoint cannot be used."""


class RelevanceError(DlslicerError):
    """A saliency method is not defined for this network or target."""


class LayerError(DlslicerError):
    """An output layer cannot be written or drawn."""
