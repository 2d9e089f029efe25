"""The picture that opens the README: its runs are those of the second benchmark."""

import re

from studies.resolving import overview, sizes
from studies.resolving.learnt import learnt_run


def test_table_repeats_the_second_benchmark(tmp_path, monkeypatch, capsys):
    for name, size in (("M", 200), ("BATCH", 10), ("EPOCHS", (1, 8))):
        monkeypatch.setattr(sizes, name, size)
    overview.main(["--seeds", "1", "--jobs", "1", "--out", str(tmp_path / "overview.png")])
    assert (tmp_path / "overview.png").stat().st_size > 0
    printed = capsys.readouterr().out
    for policy, name in overview.NAMES.items():
        shown = re.search(rf"^{name} +([\d.]+) +([\d.]+)$", printed, flags=re.MULTILINE)
        first = sizes.FIRST_SEED
        expected = [learnt_run(first, "height", epochs, [policy])[0]["regret"] for epochs in (1, 8)]
        assert list(shown.groups()) == [f"{regret:.1f}" for regret in expected]
