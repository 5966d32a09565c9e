"""What fuzzing once found, and what it begins with, without atheris."""

import pytest
from fuzz import fuzz


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_corpus(name):
    if name == "dataset":
        pytest.importorskip("pyarrow")
    one_input = fuzz.judge(name)
    found = fuzz.seeds(name)
    assert found
    for path in found:
        data = path.read_bytes()
        one_input(data)
        for cut in range(0, min(len(data), 100)):
            one_input(data[:cut])
