"""Importers of other tools' labelled photos: one file per tool, from a path to `Labelled`.

They use no HTTP: the photos are counted before anything is sent.
"""

from service.cli.importers.coco import from_coco
from service.cli.importers.csv_table import from_csv
from service.cli.importers.custom_vision import from_custom_vision
from service.cli.importers.folder import from_folder
from service.cli.importers.found import BadImport, Labelled, Photo
from service.cli.importers.huggingface import from_huggingface
from service.cli.importers.label_studio import from_label_studio
from service.cli.importers.voc import from_voc

__all__ = [
    "BadImport",
    "Labelled",
    "Photo",
    "from_coco",
    "from_csv",
    "from_custom_vision",
    "from_folder",
    "from_huggingface",
    "from_label_studio",
    "from_voc",
]
