"""A folder per class, as torchvision's ImageFolder and YOLO's classification have it."""

from pathlib import Path

from service.cli.importers.files import walk
from service.cli.importers.found import Labelled, no_picture
from training.folders import SPLITS, class_level, class_name


def from_folder(folder: Path) -> Labelled:
    """Each photo's class is its folder's name; folders above it, such as `train`, do not count.

    Raises:
        BadImport: it is no folder, or the whole file system.
    """
    found = Labelled()
    pictures = []
    for file in walk(folder, found):
        inside = file.relative_to(folder)
        if (why := no_picture(file)) is None:
            pictures.append(inside)
        elif len(inside.parts) == 1:
            found.left_out.append((str(inside), "it is in no class's folder"))
        else:
            found.left_out.append((str(inside), why))
    level = class_level(pictures)
    split = any(len(p.parts) > 2 and p.parts[-3].casefold() in SPLITS for p in pictures)
    for inside in pictures:
        label = class_name(inside, level)
        if not label or (split and label.casefold() in SPLITS):  # train/rose/1.jpg, test/2.jpg
            found.left_out.append((str(inside), "it is in no class's folder"))
        else:
            found.add(str(inside), folder / inside, [label])
    return found
