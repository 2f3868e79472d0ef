"""Which files belong to which run, told from what the files say."""

from __future__ import annotations

import os
import time

import pytest

from lora_ext.api.saved_runs import SavedRuns, view_of


def listed(stage, runs=None):
    found = (runs or SavedRuns()).look(stage.outputs)
    return [(run.name, [(f.stem, f.origin.step) for f in run.files]) for run in found]


def losses(stage, number=0):
    run = SavedRuns().look(stage.outputs)[number]
    return {f["step"]: f["loss"] for f in view_of(run, stage.outputs)["files"]}


def test_a_run_that_died_is_listed_without_a_file_of_its_own(stage):
    stage.save_run("cat", (100, 200), {100: 0.5, 200: 0.4})
    (stage.outputs / "cat.state").write_bytes(b"state")
    assert listed(stage) == [("cat", [("cat-step000100", 100), ("cat-step000200", 200)])]
    assert losses(stage) == {100: 0.5, 200: 0.4}


def test_a_resumed_run_is_one_run(stage):
    """What came after the state that it went on from was left behind: the log has no rows of it."""
    stage.save_run("cat", (100, 200, 230))
    stage.save_run("cat", (220, 300), {100: 0.5, 200: 0.4, 220: 0.3, 230: 0.2, 300: 0.1}, final=400,
                   begun=1_700_001_000.0, resume=True)  # fmt: skip
    assert [[step for _, step in files] for _, files in listed(stage)] == [[100, 200, 220, 230, 300, 400]]
    assert losses(stage) == {100: 0.5, 200: 0.4, 220: 0.3, 230: None, 300: 0.1, 400: None}


def test_a_run_in_the_place_of_another_is_another(stage):
    stage.save_run("cat", (100, 200, 300))
    stage.save_run("cat", (100,), {100: 0.5, 200: 0.4}, final=200, begun=1_700_001_000.0)
    (new, files), (old, others) = listed(stage)
    assert (new, files) == ("cat", [("cat-step000100", 100), ("cat", 200)])
    assert (old, others) == ("cat", [("cat-step000200", 200), ("cat-step000300", 300)])
    assert losses(stage, 0) == {100: 0.5, 200: 0.4}
    assert losses(stage, 1) == {200: None, 300: None}
    assert view_of(SavedRuns().look(stage.outputs)[1], stage.outputs)["name"].startswith("cat (20")


@pytest.mark.parametrize(("values", "size"), [
    ({"resolution": 384}, [384, 384]),
    ({"resolution": 384, "preview_prompt": "a cat", "preview_width": 640, "preview_height": 320}, [640, 320]),
])  # fmt: skip
def test_a_sheet_is_as_large_as_the_previews_or_what_was_trained(stage, values, size):
    stage.save_run("cat", **values)
    assert view_of(SavedRuns().look(stage.outputs)[0], stage.outputs)["size"] == size


def test_names_with_a_dot_are_whole(stage):
    stage.save_run("cat v1.5", (100,), final=200)
    assert listed(stage) == [("cat v1.5", [("cat v1.5-step000100", 100), ("cat v1.5", 200)])]


def test_a_renamed_file_still_knows_its_run(stage):
    paths = stage.save_run("cat", (100, 200), {200: 0.4})
    paths[1].rename(stage.outputs / "best.safetensors")
    assert listed(stage) == [("cat", [("cat-step000100", 100), ("best", 200)])]
    assert losses(stage)[200] == 0.4


def test_a_damaged_log_costs_its_losses_only(stage):
    stage.save_run("cat", (100, 200))
    (stage.outputs / "cat.log.csv").write_bytes(b"step,validation\n100,nan\n\xff,1\n200,0.5\nx\n200\n,")
    assert losses(stage) == {100: None, 200: 0.5}


def test_foreign_and_damaged_files_are_passed_over_quickly(stage):
    ours = stage.save_run("cat", (100,))[0]
    whole = ours.read_bytes()
    (stage.outputs / "cut.safetensors").write_bytes(whole[:200])
    (stage.outputs / "lies.safetensors").write_bytes(whole.replace(b'"ss_steps":"100"', b'"ss_steps":"1e9"'))
    (stage.outputs / "folder.safetensors").mkdir()
    (stage.outputs / "nowhere.safetensors").symlink_to(stage.outputs / "gone")
    start = b'{"__metadata__":{"ss_output_name":"x"},"t":{"dtype":"F16","shape":[0],"data_offsets":[0,0]}}'
    for n in range(1000):
        (stage.outputs / f"foreign {n}.safetensors").write_bytes(len(start).to_bytes(8, "little") + start)
    runs = SavedRuns()
    assert ("cat", [("cat-step000100", 100)]) in listed(stage, runs) or len(listed(stage, runs)) == 1
    begin = time.process_time()
    listed(stage, runs)
    assert time.process_time() - begin < 0.5


def test_a_file_that_changed_is_read_again(stage):
    runs = SavedRuns()
    path = stage.save_run("cat", (100,))[0]
    assert listed(stage, runs)[0][1] == [("cat-step000100", 100)]
    path.unlink()
    assert listed(stage, runs) == []
    stage.save_run("cat", (100, 150))
    os.utime(path)
    assert [step for _, step in listed(stage, runs)[0][1]] == [100, 150]


def test_a_folder_that_is_not_there_has_no_runs(tmp_path):
    assert SavedRuns().look(tmp_path / "none") == []
