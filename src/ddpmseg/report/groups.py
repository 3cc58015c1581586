"""The smallest and the largest classes of a set (paper, figure 3)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Integer

from ddpmseg.data.class_table import ClassTable


@dataclass(frozen=True, eq=False)
class ClassGroups:
    """Labels by size. Only classes that occur in a test mask, and that are averaged, are ranked.

    The paper ranks classes by their mean area over the annotated images and does not say how many
    make a group. Here each group is a third of the ranked classes, rounded down, at least one; none
    where fewer than two are ranked.
    """

    ranked: tuple[int, ...]
    """From the smallest mean area to the largest."""
    small: tuple[int, ...]
    large: tuple[int, ...]
    area: Float64[np.ndarray, " k"]
    """Share of all annotated test pixels, by label."""

    def describe(self, classes: ClassTable) -> str:
        """The rule and its outcome in a sentence."""
        if not self.small:
            return "Fewer than two classes occur, so there are no groups of small and large ones."
        small = ", ".join(classes.names[label] for label in self.small)
        large = ", ".join(classes.names[label] for label in reversed(self.large))
        return (
            f"Groups are the smallest and the largest third of the {len(self.ranked)} classes that "
            f"occur, by mean area over the test images. Small: {small}. Large: {large}."
        )


def group_classes(true_pixels: Integer[np.ndarray, " k"], classes: ClassTable) -> ClassGroups:
    """Rank the classes by the pixels they cover; equal areas in label order."""
    area = true_pixels / max(1, true_pixels.sum())
    occurring = [label for label in classes.averaged if true_pixels[label] > 0]
    ranked = tuple(sorted(occurring, key=lambda label: (true_pixels[label], label)))
    size = max(1, len(ranked) // 3) if len(ranked) > 1 else 0
    return ClassGroups(ranked, ranked[:size], ranked[len(ranked) - size :], area.astype(np.float64))
