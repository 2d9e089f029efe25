"""One call passes through few files: a reader can follow it."""

import pytest

from studies.flow import FORMS, flows, main, trace

LIMITS = {"Algorithm 1": (9, 21), "re-solving": (11, 40)}  # files and changes of allocate
UPDATE_FILES = 8


@pytest.mark.parametrize("form", FORMS)
def test_allocate_passes_through_few_files(form):
    flow = flows(form)["allocate"]
    files, changes = LIMITS[form.split(",")[0]]
    assert len(flow.files) <= files, flow.files
    assert flow.changes <= changes, flow.steps


@pytest.mark.parametrize("form", FORMS)
def test_update_passes_through_few_files(form):
    flow = flows(form)["update"]
    assert len(flow.files) <= UPDATE_FILES, flow.files


def test_what_is_counted():
    from cero_alloc import SaturatingUtility
    from cero_alloc._checks import real

    assert trace(lambda: None).files == ()
    alone = trace(lambda: real("x", 1.0, low=0.0, high=2.0, remedy=""))
    assert (alone.files, alone.changes) == (("_checks.py",), 0)  # the call from outside is no change
    built = trace(SaturatingUtility)
    assert built.files[0] == "_objective/utility.py"
    assert built.changes >= 1
    assert all(here != there for here, there in built.steps)


def test_prints_every_form(capsys):
    assert main(["--calls"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{form}: allocate" in printed for form in FORMS)
    assert "->" in printed
