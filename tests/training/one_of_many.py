"""One process of a run of several: `one_of_many.py FOLDER`, told its place by the environment as torchrun does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import torch  # noqa: E402

torch.set_num_threads(1)

from training_runs import config, fingerprint, model  # noqa: E402

from lora_ext.errors import BadInput  # noqa: E402
from lora_ext.training import Abort, Finished, Saved, Step, Stop, train  # noqa: E402
from lora_ext.training.material import Material  # noqa: E402
from lora_ext.training.world import Elsewhere, joined  # noqa: E402

folder = Path(sys.argv[1])
said: dict[str, object] = {}
seen: list[list[list[str]]] = []
batch = Material.batch


def watched(self, samples, device):
    """What goes into each batch, as every process must see it."""
    seen.append([[self.batches.picture(s).name, s.caption, str(s.flipped)] for s in samples])
    return batch(self, samples, device)


def start(name, world, **values):
    return train(model(), config(folder, **values), output=folder / name / "x.safetensors", world=world)


def drain(name, world, thrown=None, at=0, by=1, **values):
    """Everything a run says, with something thrown in at a step by one of the processes."""
    seen.clear()
    events, out = start(name, world, **values), []
    try:
        event = next(events)
        while True:
            out.append(event)
            here = thrown and isinstance(event, Step) and event.step == at and world.rank == by
            event = events.throw(thrown()) if here else next(events)
    except StopIteration:
        pass
    said[name] = {
        "losses": [e.loss for e in out if isinstance(e, Step)],
        "saved": [[e.step, e.final] for e in out if isinstance(e, Saved)],
        "end": next([e.step, e.reason] for e in out if isinstance(e, Finished)),
        "kinds": sorted({type(e).__name__ for e in out}),
        "seen": list(seen),
    }


def broken(name, world, by):
    """A run in which one process fails at its second batch."""
    calls = []

    def breaks(self, samples, device):
        calls.append(1)
        if len(calls) == 2 and world.rank == by:
            raise ArithmeticError("out of luck")
        return batch(self, samples, device)

    Material.batch = breaks
    saved = []
    try:
        saved = [e.step for e in start(name, world, max_steps=4) if isinstance(e, Saved)]
    except Elsewhere as e:
        said[name] = [str(e), sorted(p.name for p in (folder / name).glob("*.safetensors"))]
    except ArithmeticError as e:
        world.fail()
        said[name] = [str(e), saved]
    Material.batch = watched


def refused(name, world, **values):
    """A run whose settings only one process finds wrong, or all."""
    try:
        start(name, world, **values)
    except BadInput as e:
        world.fail()
        said[name] = str(e)
    except Elsewhere as e:
        said[name] = str(e)


Material.batch = watched
with joined() as world:
    before = fingerprint(model())
    plain, *dropping = json.loads((folder / "settings.json").read_text()).items()
    drain(plain[0], world, **plain[1], preview_prompt="a cat", preview_every=2, state_every=2)
    for name, values in dropping:
        drain(name, world, **values)
    drain("stopped", world, Stop, at=2, max_steps=5)
    drain("aborted", world, Abort, at=1, by=0, max_steps=5)
    drain("half", world, max_steps=2, state_every=1, seed=3)
    said["half"] = None
    drain("half", world, max_steps=4, state_every=1, seed=3, resume=True)
    drain("whole", world, max_steps=4, seed=3)
    broken("one is broken", world, 1)
    broken("the first is broken", world, 0)
    refused("one refuses", world, **({"clip_skip": 12} if world.rank else {}))
    refused("all refuse", world, images=str(folder / "one picture"))
    said["given back"] = fingerprint(model()) == before
    (folder / f"said {world.rank}.json").write_text(json.dumps(said))
