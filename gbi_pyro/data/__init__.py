"""Sessions of a table, data with known tasks, and readers of images and texts."""

from gbi_pyro.data.batches import TextBatch, balanced_batches, windows
from gbi_pyro.data.bigram import BigramLanguages, BigramStream
from gbi_pyro.data.formats import read_cifar, read_idx
from gbi_pyro.data.images import (
    DATA_VARIABLE,
    DATASETS,
    Images,
    ImageSets,
    flip_vertical,
    load_images,
    normalise_each,
)
from gbi_pyro.data.sessions import Sessions
from gbi_pyro.data.switching import (
    BlockLaw,
    BoundedBlocks,
    FixedBlocks,
    GeometricBlocks,
    Stream,
    SwitchingStream,
)
from gbi_pyro.data.text import (
    CorpusText,
    TextSets,
    Vocabulary,
    encode,
    load_text,
    read_corpora,
    words,
)

__all__ = [
    "DATASETS",
    "DATA_VARIABLE",
    "BigramLanguages",
    "BigramStream",
    "BlockLaw",
    "BoundedBlocks",
    "CorpusText",
    "FixedBlocks",
    "GeometricBlocks",
    "ImageSets",
    "Images",
    "Sessions",
    "Stream",
    "SwitchingStream",
    "TextBatch",
    "TextSets",
    "Vocabulary",
    "balanced_batches",
    "encode",
    "flip_vertical",
    "load_images",
    "load_text",
    "normalise_each",
    "read_cifar",
    "read_corpora",
    "read_idx",
    "windows",
    "words",
]
