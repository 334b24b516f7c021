import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from asqcli.errors import InputError, MachineError, UsageError
from asqcli.files import write_atomically
from asqcli.quant.spec import LayerSpec, PostWeights
from asqcli.recipe.resolve import Request, resolve
from asqcli.run.checkpoint import (
    DOCUMENT,
    Checkpoint,
    is_checkpoint,
    load_checkpoint,
    require_fit,
    save_checkpoint,
    save_weights,
)
from asqcli.run.folder import RunFolder
from asqcli.run.restore import restore_model
from asqcli.train.progress import Progress
from tests.permissions import unreadable, unwritable


def example():
    recipe = resolve(Request("resnet20", None, None, None, {}, [])).recipe
    facts = {"weights": "none", "float_top1": 90.0, "calibrated_top1": 80.0}
    progress = Progress("qat", epoch=2, step=5, loss_sum=0.1 + 0.2, correct=7, images=9, facts=facts)
    specs = [LayerSpec(name="conv1", kind="conv", weights=PostWeights(bits=4), activations=None, signed=True)]
    model = {"w": torch.randn(3, 4), "n": torch.tensor(7)}
    optimizer = {kind: {"w": torch.randn(3, 4)} for kind in ("momentum_buffer", "exp_avg", "exp_avg_sq")}
    optimizer["step"] = {"w": torch.tensor(3.0)}
    return Checkpoint(recipe, progress, specs, ("a", "b"), model, optimizer)


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    saved = example()
    save_checkpoint(tmp_path / "last", saved)
    loaded = load_checkpoint(tmp_path / "last")
    assert (loaded.recipe, loaded.progress, loaded.specs, loaded.classes) == (
        saved.recipe, saved.progress, saved.specs, saved.classes
    )  # fmt: skip
    assert saved.optimizer.keys() == loaded.optimizer.keys()
    kinds = [(saved.optimizer[kind], loaded.optimizer[kind]) for kind in saved.optimizer]
    for a, b in ((saved.model, loaded.model), *kinds):
        assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
    assert is_checkpoint(tmp_path / "last") and not list(tmp_path.glob("*.part"))


def test_corrupt_checkpoints_are_refused(tmp_path):
    save_checkpoint(tmp_path / "last", example())
    content = (tmp_path / "last").read_bytes()
    for n, broken in enumerate([content[:50], content[:-10], b"", content.replace(b'"format\\": 1', b'"format\\": 9')]):
        path = tmp_path / f"broken{n}"
        path.write_bytes(broken)
        with pytest.raises(InputError, match=f"broken{n}"):
            load_checkpoint(path)
    flipped = bytearray(content)
    flipped[-3] ^= 4  # in a tensor: the file is well formed
    (tmp_path / "flipped").write_bytes(flipped)
    with pytest.raises(InputError, match="not those that were written"):
        load_checkpoint(tmp_path / "flipped")
    with pytest.raises(InputError, match="no checkpoint"):
        load_checkpoint(tmp_path / "absent")


def write_edited(path, edit):
    """Write the example with another document, and the tensors that belong to it."""
    save_checkpoint(path, example())
    with safe_open(path, "pt") as file:
        document = json.loads(file.metadata()[DOCUMENT])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    text = edit(document)
    save_weights(path, tensors, {DOCUMENT: text if isinstance(text, str) else json.dumps(document)})


DEEP = json.loads("[" * 500 + "]" * 500)
ASQ = {"quantizer": "asq", "bits": 4, "adapter": {"hidden": "quarter", "bits": 8, "output": "reciprocal"}}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: "[]", "has format None, this version reads 1"),
        (lambda d: "[" * 100_000, "is corrupt: "),
        (lambda d: "{" + 'format": 1', "is corrupt: "),
        (lambda d: "1" * 5000, "is corrupt: "),
        (lambda d: d.update(format={"a": 1}), "has format {'a': 1}"),
        (lambda d: d.update(more=1), "`more`"),
        (lambda d: d.pop("companions"), "`companions`"),
        (lambda d: d.update(companions=[3]), "`companions.0`"),
        (lambda d: d.update(classes="ab"), "`classes`"),
        (lambda d: d.update(classes=[]), "`classes`"),
        (lambda d: d["recipe"].update(model="a\x1b[2J", train=3), "`recipe.train`"),
        (lambda d: d["recipe"].update(layers={"a": {"weights": {"b": DEEP}}}), "recursion"),
        (lambda d: d["plans"][0].update(signed=None), "`plans.0.signed`"),
        (lambda d: d["plans"][0].update(kind="x"), "`plans.0.kind`"),
        (lambda d: d["plans"][0].update(weights={"quantizer": "x", "bits": 4}), "`plans.0.weights`"),
        (lambda d: d["plans"][0].update(weights={"quantizer": "float"}), "`plans.0.weights`"),
        (lambda d: d["plans"][0].update(weights={"quantizer": "post", "bits": 8}), "`plans.0.weights.post.bits`"),
        (lambda d: d["plans"][0].update(activations={"quantizer": "x", "bits": 4}), "`plans.0.activations`"),
        (lambda d: d["plans"][0].update(activations=ASQ | {"adapter": {"hidden": "abc"}}), "adapter.hidden`"),
        (lambda d: d["plans"][0].update(activations=ASQ | {"adapter": None}), "activations.asq.adapter`"),
        (lambda d: d["progress"].update(phase="x"), "`progress.phase`"),
        (lambda d: d["progress"].update(epoch=-1), "`progress.epoch`"),
        (lambda d: d["progress"].update(loss_sum=float("nan")), "`progress.loss_sum`"),
        (lambda d: d["progress"].update(images=4), "more steps than images"),
        (lambda d: d["progress"].update(facts={}), "`progress.facts.weights`"),
        (lambda d: d["progress"]["facts"].update(float_top1=None), "`progress.facts.float_top1`"),
        (lambda d: d["progress"]["facts"].pop("calibrated_top1"), "lacks float_top1 or calibrated_top1"),
        (lambda d: d["progress"].update(phase="float"), "the recipe has no phase float"),
        (lambda d: d["progress"].update(phase="warmup"), "1 layers are quantized in the phase warmup"),
        (lambda d: d.update(plans=[]), "0 layers are quantized in the phase qat"),
    ],
)  # fmt: skip
def test_documents_that_no_run_wrote_are_refused(tmp_path, edit, message):
    write_edited(tmp_path / "last", edit)
    with pytest.raises(InputError) as failure:
        load_checkpoint(tmp_path / "last")
    assert str(tmp_path / "last") in failure.value.message and message in failure.value.message
    assert failure.value.message.isprintable() and len(failure.value.message) < 1000


def test_parameters_and_layers_of_another_network(tmp_path):
    checkpoint = example()
    with pytest.raises(InputError, match=r"the checkpoint in `r` does not fit `resnet20`: .* Missing .*conv1\.weight"):
        restore_model(checkpoint, source="r")
    checkpoint.specs = [checkpoint.specs[0].model_copy(update={"name": "bn1"})]
    with pytest.raises(InputError, match="the checkpoint in `r` does not fit `resnet20`: "):
        restore_model(checkpoint, source="r")
    checkpoint.recipe = checkpoint.recipe.model_copy(update={"model": "resnet81"})
    with pytest.raises(InputError, match="`r` holds no network that is known here: unknown model `resnet81`"):
        restore_model(checkpoint, source="r")


def with_optimizer(kind):
    return resolve(Request("resnet20", None, None, None, {}, [f"train.optimizer={kind}"])).recipe


def sgd_kept(buffers):
    return {"recipe": with_optimizer("sgd"), "optimizer": {"momentum_buffer": buffers}}


def adamw_kept(**changes):
    kept = {"exp_avg": {"weight": torch.ones(2, 3)}, "exp_avg_sq": {"weight": torch.ones(2, 3)}}
    return {
        "recipe": with_optimizer("adamw"),
        "optimizer": {**kept, "step": {"weight": torch.tensor(1.0)}, **changes},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (sgd_kept({"w": torch.ones(4)}), "the momentum_buffer of the optimizer in `last`"),
        (sgd_kept({"weight": torch.ones(3, 2)}), "the momentum_buffer of the optimizer in `last`"),
        (sgd_kept({"weight": torch.ones(2, 3, dtype=torch.int32)}), "the momentum_buffer of the optimizer in `last`"),
        (adamw_kept(exp_avg={"weight": torch.ones(3, 2)}), "the exp_avg of the optimizer in `last`"),
        (adamw_kept(exp_avg_sq={"weight": torch.ones(2, 3, dtype=torch.int32)}), "the exp_avg_sq of the optimizer"),
        (adamw_kept(step={"weight": torch.ones(2, 3)}), "the step of the optimizer in `last`"),
        (adamw_kept(step={}), "the optimizer's state in `last` is not that of adamw"),
        (adamw_kept() | {"recipe": with_optimizer("sgd")}, "the optimizer's state in `last` is not that of sgd"),
        (sgd_kept({}) | {"recipe": with_optimizer("adamw")}, "the optimizer's state in `last` is not that of adamw"),
        ({"hooks": {}}, "`last` has the step hooks none, and its recipe average"),
        ({"hooks": {"x": {}}}, "`last` has the step hooks x, and its recipe average"),
        ({"hooks": {"average": {}}}, "the state of the step hook average in `last`"),
        ({"hooks": {"average": {"weight": torch.ones(2, 3), "b": torch.ones(1)}}}, "of the step hook average"),
        ({"hooks": {"average": {"weight": torch.ones(6)}}}, "of the step hook average"),
    ],
)
def test_optimizer_and_hooks_of_another_network(changes, message):
    model = torch.nn.Linear(3, 2, bias=False)
    own = {**adamw_kept(), "hooks": {"average": {"weight": torch.ones(2, 3)}}}
    require_fit(replace(example(), **own), model, own["hooks"], source=Path("last"))
    with pytest.raises(InputError, match=message):
        require_fit(replace(example(), **own | changes), model, own["hooks"], source=Path("last"))


def test_a_checkpoint_without_permission(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "last", example())
    with unreadable(tmp_path / "last", monkeypatch) as last:
        for read in (load_checkpoint, is_checkpoint):
            with pytest.raises(InputError, match="`last` cannot be read: Permission denied"):
                read(last)


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "last"
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and not list(tmp_path.glob("*.part"))


@pytest.mark.skipif(os.name != "posix", reason="the size of files cannot be limited here")
def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path):
    import resource

    save_weights(tmp_path / "last", {"a": torch.ones(4)})
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(MachineError, match=r"cannot write `.*last`: File too large"):
            save_weights(tmp_path / "last", {"a": torch.ones(1 << 20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["last"] and len(load_file(tmp_path / "last")["a"]) == 4


def test_tensors_are_written_whatever_their_memory(tmp_path):
    whole = torch.arange(24.0).reshape(2, 3, 2, 2)
    tensors = {
        "rows": whole,
        "again": whole,
        "part": whole[1],
        "last": whole.to(memory_format=torch.channels_last),
        "turned": whole.mT,
        "nothing": whole[:0],
        "number": torch.tensor(3),
        "weight": torch.nn.Parameter(whole.clone()),
    }
    save_weights(tmp_path / "w", tensors)
    (tmp_path / "plain").touch()
    assert (tmp_path / "w").stat().st_mode == (tmp_path / "plain").stat().st_mode
    read = load_file(tmp_path / "w")
    assert read.keys() == tensors.keys() and all(torch.equal(read[n], t) for n, t in tensors.items())


def test_folders_are_numbered_and_never_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [RunFolder.create(None, "net-w4a4-post", force=False).path.name for _ in range(3)]
    assert names == ["net-w4a4-post", "net-w4a4-post-2", "net-w4a4-post-3"]
    (Path("runs") / "net-w4a4-post" / "recipe.yaml").write_text("")
    (Path("runs") / "net-w4a4-post" / "environment.json").write_text("")
    replaced = RunFolder.create(None, "net-w4a4-post", force=True).path
    assert replaced == Path("runs") / "net-w4a4-post" and not list(replaced.iterdir())
    run = RunFolder.create("mine", "x", force=False)
    run.write_recipe({"model": "x"}, None)
    run.write_environment({})
    with pytest.raises(UsageError, match="there already"):
        RunFolder.create("mine", "x", force=False)
    assert not (RunFolder.create("mine", "x", force=True).path / "recipe.yaml").exists()
    with pytest.raises(UsageError, match=r"the name `\\xfe` is not UTF-8"):
        RunFolder.create(os.fsdecode(b"\xfe"), "x", force=False)


def test_runs_that_start_together_get_folders_of_their_own(tmp_path, monkeypatch):
    """Eight threads wait for each other right before each makes the folder whose name it found free."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    together, make, waited = threading.Barrier(8), Path.mkdir, threading.local()

    def mkdir(path, *args, **kwargs):
        if path.name == "net" and not hasattr(waited, "once"):
            waited.once = True
            together.wait(timeout=60)
        make(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: RunFolder.create(None, "net", force=False), range(8)))
    assert {run.path.name for run in runs} == {"net", *(f"net-{n}" for n in range(2, 9))}


def test_a_name_that_a_dangling_link_takes_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "net").symlink_to("absent")
    assert RunFolder.create(None, "net", force=False).path.name == "net-2"


def test_runs_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(MachineError, match="cannot write `runs/net`: File exists"):
        RunFolder.create(None, "net", force=False)


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    refused = pytest.raises(MachineError, match="cannot write `closed/run`: Permission denied")
    with unwritable(tmp_path / "closed", monkeypatch) as folder, refused:
        RunFolder.create(str(folder / "run"), "x", force=False)


def test_force_replaces_nothing_but_runs(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    (tmp_path / "thesis" / "recipe.yaml").write_text("model: resnet20")
    with pytest.raises(UsageError, match="not the folder of a run"):
        RunFolder.create(str(tmp_path / "thesis"), "x", force=True)
    assert (tmp_path / "thesis" / "chapter1.txt").exists()


@pytest.fixture
def full_run(tmp_path):
    """The folder of a run with every file that a run and an export can leave there."""
    run = RunFolder.create(str(tmp_path / "run"), "x", force=False)
    run.write_recipe({"model": "x"}, "model: x")
    run.write_environment({})
    run.append_metrics({"epoch": 1})
    run.write_result({"top1": 1})
    checkpoints = [f"checkpoints/{name}" for name in ("last", "best", "float", "teacher")]
    for name in (*checkpoints, "run.asq", "run.onnx"):
        write_atomically(run.path / name, b"")
        (run.path / f"{name}.part").write_bytes(b"")
    (run.path / "checkpoints" / ".tmpx1Yz2A").write_bytes(b"")  # safetensors was killed
    return run.path


def test_force_replaces_a_whole_run(full_run):
    RunFolder.create(str(full_run), "x", force=True)
    assert not list(full_run.iterdir())


@pytest.mark.parametrize("name", ["train.py", "other.asq", "result.json.bak", "checkpoints/epoch7", "checkpoints/src/a",
                                  "run.onnx.part/a", ".git/config"])  # fmt: skip
def test_force_keeps_a_run_with_something_else_in_it(full_run, name):
    (full_run / "run.onnx.part").unlink()
    (full_run / name).parent.mkdir(exist_ok=True)
    (full_run / name).write_text("years of work")
    before = sorted(full_run.rglob("*"))
    entry = name.removesuffix("/a").removesuffix("/config")
    with pytest.raises(UsageError, match=f"run/{entry}` is not of a run, and --force replaces nothing else"):
        RunFolder.create(str(full_run), "x", force=True)
    assert sorted(full_run.rglob("*")) == before


@pytest.mark.parametrize("text", ["model: x", "train: &t {warmup: *t}", "seed: 2001-99-99", "[", b"\xff"])
def test_a_recipe_that_somebody_changed(full_run, text):
    (full_run / "recipe.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=r"recipe.yaml` (is not a resolved recipe any more|cannot be read)"):
        RunFolder.open(full_run).recipe()


@pytest.mark.parametrize("text", ['{"threads": "many"}', '{"threads": 0}', "[]", "{", "[" * 100_000, b"\xff"])
def test_an_environment_that_somebody_changed(full_run, text):
    (full_run / "environment.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=r"environment.json` is corrupt: "):
        RunFolder.open(full_run).threads()


def test_threads_come_back_or_are_not_known(full_run):
    run = RunFolder.open(full_run)
    assert run.threads() is None
    run.write_environment({"threads": 3, "torch": "2"})
    assert run.threads() == 3


@pytest.mark.parametrize("text", ["{}", "null", '{"top1": 1}', "1" * 5000])
def test_a_result_that_somebody_changed(full_run, text):
    (full_run / "result.json").write_text(text)
    with pytest.raises(InputError, match=r"result.json` is corrupt: "):
        RunFolder.open(full_run).result()


def test_metrics_are_cut_to_what_a_checkpoint_knows(tmp_path):
    run = RunFolder.create(str(tmp_path / "run"), "x", force=False)
    for epoch in range(4):
        run.append_metrics({"epoch": epoch})
    run.cut_metrics(2)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"epoch": 0}, {"epoch": 1}]
