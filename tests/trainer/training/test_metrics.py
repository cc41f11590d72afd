from pathlib import Path

import numpy as np
import pytest

from trainer.training import SplitResult


@pytest.mark.parametrize(("truth", "columns"), [(2, 3), (3, 2)], ids=["truth too short", "a class too few"])
def test_arrays_of_different_lengths_are_refused(truth: int, columns: int) -> None:
    paths = tuple(Path(f"{index}.jpg") for index in range(3))
    with pytest.raises(ValueError, match=r"N=3, K=3"):
        SplitResult(
            "test", ("a", "b", "c"), paths, np.zeros(truth, np.int32), np.zeros((3, columns), np.float32)
        )
