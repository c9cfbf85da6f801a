"""What the paper reports: RMAdapter (AAAI 2026, arXiv 2512.06811), ViT-B/16, 16 shots, as data."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """Base-to-novel accuracies in percent, means over seeds 1, 2, 3."""

    base: float
    novel: float

    @property
    def hm(self) -> float:
        """The harmonic mean of base and novel accuracy, in percent."""
        return 2 * self.base * self.novel / (self.base + self.novel)


# CoOp's folder of each data set (its DATASETS.md) → (name, RMAdapter's figures)
DATA_SETS: dict[str, tuple[str, Published]] = {
    "imagenet": ("ImageNet", Published(77.87, 71.50)),
    "caltech-101": ("Caltech101", Published(98.40, 94.27)),
    "oxford_pets": ("OxfordPets", Published(95.70, 98.10)),
    "stanford_cars": ("StanfordCars", Published(80.60, 75.10)),
    "oxford_flowers": ("Flowers102", Published(98.10, 77.47)),
    "food-101": ("Food101", Published(90.53, 91.67)),
    "fgvc_aircraft": ("FGVCAircraft", Published(43.20, 37.20)),
    "sun397": ("SUN397", Published(82.87, 79.97)),
    "dtd": ("DTD", Published(83.37, 66.73)),
    "eurosat": ("EuroSAT", Published(92.17, 78.33)),
    "ucf101": ("UCF101", Published(86.87, 80.63)),
}

# Means over the eleven; HM is the paper's own, of its means
MEANS: dict[str, tuple[float, float, float]] = {
    "CLIP": (69.34, 74.22, 71.70),
    "CoOp": (82.69, 63.22, 71.66),
    "CoCoOp": (80.47, 71.69, 75.83),
    "KgCoOp": (80.73, 73.60, 77.00),
    "MaPLe": (82.28, 75.14, 78.55),
    "TCP": (84.13, 75.36, 79.51),
    "PromptSRC": (84.26, 76.10, 79.97),
    "MMA": (83.20, 76.80, 79.87),
    "CoPrompt": (84.00, 77.23, 80.48),
    "RMAdapter": (84.52, 77.36, 80.62),
}

CROSS_DATASET = {"MMA": 66.61, "CoPrompt": 67.00, "RMAdapter": 67.56}
DOMAIN_GENERALIZATION = {"CLIP": 57.17, "MMA": 60.48, "PromptSRC": 60.65, "RMAdapter": 60.71}

# The paper's ablations, means over the eleven: (base, novel, HM)
ABLATIONS: dict[str, dict[str, tuple[float, float, float]]] = {
    "losses": {
        "neither": (83.20, 76.80, 79.87),
        "consistency only": (83.86, 76.31, 79.91),
        "+ text reconstruction": (84.13, 77.18, 80.51),
        "+ visual reconstruction": (84.20, 76.91, 80.39),
        "both": (84.52, 77.36, 80.62),
    },
    "sharing": {
        "independent": (84.25, 77.11, 80.52),
        "shared up": (83.96, 76.95, 80.30),
        "shared down": (84.52, 77.36, 80.62),
    },
    "layers": {
        "one": (84.36, 77.11, 80.57),
        "two": (84.52, 77.36, 80.62),
        "three": (83.65, 76.81, 80.08),
    },
}
