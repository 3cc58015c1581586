"""Command lines that cannot work: a sentence that names the culprit, status 2, nothing begun."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import CONF, PRETRAIN, SEGMENT, SWEEP, multirun

from ddpmseg.__main__ import main
from ddpmseg.errors import ConfigError
from ddpmseg.io.yaml_file import MAX_DEPTH, read_yaml

Answer = Callable[..., str]


@pytest.fixture
def answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Answer:
    """The sentence of a command that must end with status 2 and leave nothing in its folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        monkeypatch.setattr("sys.argv", ["ddpmseg", *words])
        try:
            status = main(list(words))
        except SystemExit as error:
            status = error.code
        said = capsys.readouterr().err
        assert status == 2, said
        assert "Traceback" not in said
        assert sorted(tmp_path.rglob("*")) == before
        return said

    return run


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("dataset=null", "`dataset=null`: `dataset` is a group of settings and takes the name"),
        ("features=1.5", "`features` is a group of settings and takes the name of a choice: def"),
        ("paths=3", "takes the name of a choice: default."),
        ("experiment=null", "takes the name of a choice: alae"),
        ("@features=3", "`@features=3` names no setting"),
        ("=3", "`=3` names no setting"),
        ("dataset", "A setting is given as group=choice or group.key=value"),
        ("backbone=nope", "Could not find 'backbone/nope'"),
        ("backbone.unet=3", "backbone.unet"),
        ("paths.output_dir=", "`paths.output_dir=` is empty"),
        ("paths.output_dir=${nope}", "Interpolation key 'nope' not found"),
        ("paths.cache_dir=${nope}", "Interpolation key 'nope' not found"),
        ("hydra.verbose=[1]", "A logger name must be a string"),
        ("hydra.launcher._target_=os.system", "no setting chooses the code that runs"),
        ("+hydra.callbacks.x={_target_: os.system}", "no setting chooses the code that runs"),
    ],
)
def test_a_wrong_override_is_a_sentence(word: str, says: str, answer: Answer) -> None:
    assert says in answer("train", *SEGMENT, word)


@pytest.mark.parametrize("word", ["~logger", "~seed", "~head.members", "~backbone.unet", "~no=3"])
@pytest.mark.parametrize("program", ["train", "sweep", "estimate"])
def test_a_setting_cannot_be_removed(program: str, word: str, answer: Answer) -> None:
    assert f"`{word}`: a setting can be changed, but not removed." in answer(program, word)


@pytest.mark.parametrize("program", ["train", "sweep"])
@pytest.mark.parametrize("value", ["new (1)", "a=b", "jürgen", "50 %, new", "it's", "a#b", "a{b"])
def test_a_text_in_hydras_way_is_shown_quoted(program: str, value: str, answer: Answer) -> None:
    said = answer(program, f"dataset.root={value}")
    assert f"`dataset.root={value}`" in said
    quoted = 'dataset.root="' + value + '"'
    assert quoted in said.replace("'\"'\"'", "'")


def test_the_small_commands_quote_too(answer: Answer) -> None:
    assert "'dataset.root=\"a=b\"'" in answer("data", "check", "folder", "dataset.root=a=b")
    assert "features.blocks=[5,6]" in answer("estimate", "features.blocks=5,6")


@pytest.mark.parametrize("blocks", ["[5],[6", "[5", "[5,6]]", "{a:1"])
def test_brackets_that_do_not_match_are_called_so(blocks: str, answer: Answer) -> None:
    said = answer("train", f"features.blocks={blocks}")
    assert f"`features.blocks={blocks}`" in said
    assert "brackets do not match" in said


@pytest.mark.parametrize(
    ("program", "word", "near"),
    [
        ("train", "++head.hiden=[3]", "head.hidden"),
        ("train", "+head.hiden=[3]", "head.hidden"),
        ("train", "+trainer.device=2", "trainer.devices"),
        ("sweep", "++sweep.head.hiden=[3]", "sweep.head.hidden"),
        ("estimate", "+dataset.num_labeled=3", "dataset.num_labelled"),
    ],
)
def test_a_typo_behind_a_plus_is_no_new_setting(
    program: str, word: str, near: str, answer: Answer
) -> None:
    said = answer(program, *(SWEEP if program == "sweep" else SEGMENT), word)
    assert f"there is no such setting. Did you mean `{near}`?" in said


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("dataset.seed=-1", "`dataset.seed=-1`: a seed must lie in 0..9223372036854775807"),
        ("seed=-1", "a seed must lie in 0.."),
        ("backbone.seed=18446744073709551616", "a seed must lie in 0.."),
        ("head.learning_rate=nan", "`head.learning_rate=nan`: must be a finite number"),
        ("multirun.share_gb=nan", "must be a finite number"),
        ("logger.timeout=inf", "must be a finite number"),
        ("features.cache_gb=-inf", "must be a finite number"),
        ("head.members=12345678901234567890123", "no setting takes a number beyond 2147483647"),
        ("head.hidden=[12345678901234567890123]", "no setting takes a number beyond 2147483647"),
        ("features.timesteps=[-12345678901234567890123]", "no setting takes a number beyond"),
        ("dataset.name=../../x", "`dataset.name=../../x`: the name becomes a part of the output"),
        ("backbone.name=a/b", "the name becomes a part of the output"),
        ("dataset.name=", "the name becomes a part of the output"),
        (f"paths.output_dir={'a' * 300}", "a name in it has 300 bytes"),
        (f"backbone.checkpoint={'ab/' * 2000}", "it has 6000 characters"),
        (f"dataset.classes={'a' * 300}", "a name in it has 300 bytes"),
        ("trainer.devices=4096", "`trainer.devices=4096`: must lie in 1.."),
        ("backbone.unet.image_size=0", "`backbone.unet.image_size=0`: must lie in 1.."),
        ("backbone.unet.num_channels=0", "`backbone.unet.num_channels=0`: must lie in 1.."),
        ("backbone.unet.num_res_blocks=100000", "`backbone.unet.num_res_blocks=100000`: must lie"),
        ("backbone.unet.dropout=2", "`backbone.unet.dropout=2.0`: must lie"),
    ],
)
def test_a_value_that_none_can_have_is_refused(word: str, says: str, answer: Answer) -> None:
    assert says in answer("train", *SEGMENT, word)


def test_a_seed_may_be_as_large_as_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = 2**63 - 1
    seeds = [f"{key}={largest}" for key in ("seed", "dataset.seed", "backbone.seed")]
    out = tmp_path / "out"
    words = ["train", *SEGMENT, *seeds, f"paths.output_dir={out}"]
    monkeypatch.setattr("sys.argv", ["ddpmseg", *words])
    assert main(words) == 0
    assert (out / "results.csv").is_file()


@pytest.mark.parametrize("program", ["train", "sweep"])
def test_an_output_folder_that_is_a_file_or_below_one(
    program: str, answer: Answer, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    tiny = SWEEP if program == "sweep" else SEGMENT
    for folder in ("file", "file/below"):
        said = answer(program, *tiny, f"paths.output_dir={folder}")
        assert "is not a folder that can be written to" in said


def test_options_of_hydra_that_cannot_work(answer: Answer) -> None:
    assert "unrecognized arguments" in answer("train", "--experimental-rerun", "x.pickle")
    assert "there is no such folder" in answer("train", "-cd", "/nowhere")
    assert "Cannot find primary config 'nope'" in answer("train", "-cn", "nope")
    assert "Only one of --run, --multirun" in answer("train", "--run", "--multirun")


FILES = {
    "itself": ("defaults: [itself, _self_]\n", "includes itself"),
    "one": ("defaults: [other, _self_]\n", "include each other in a circle"),
    "other": ("defaults: [one, _self_]\n", "include each other in a circle"),
    "latin": ("# K\xe4se\n", "is not in UTF-8 (invalid continuation byte at byte 3)"),
    "three": ("defaults: 3\n", "`defaults` must be a list of names"),
    "numbers": ("defaults: [3]\n", "`defaults` must be a list of names"),
    "unclosed": ("defaults: [mlp_schema\n", "is not valid YAML"),
    "items": ("- 1\n", "must hold settings"),
    "tag": ("vote: !!python/name:os.system\n", "is not valid YAML"),
    "twice": ("members: 1\nmembers: 2\n", "cannot be read as settings"),
    "half": ("vote: ${nope\n", "cannot be read as settings"),
    "lost": ("defaults: [nowhere, _self_]\n", "Could not load 'head/nowhere'"),
    "typo": ("defaults: [mlp_schema, _self_]\nmembrs: 3\n", "'membrs' not in 'MlpConfig'"),
    "deep": (f"vote: {'[' * 5000}{']' * 5000}\n", "nests more than"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_of_settings_is_named(name: str, answer: Answer, tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "head"
    folder.mkdir(parents=True)
    for file, (text, _) in FILES.items():
        (folder / f"{file}.yaml").write_bytes(text.encode("latin-1"))
    said = answer("train", f"head={name}", "--cfg", "job")
    assert FILES[name][1] in said


def test_files_that_hide_those_of_the_package_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, and only those that are read."""
    for name in ("train.yaml", "sweep.yaml", "dataset/ponies.yaml", "head/linear.yaml"):
        (tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CONF / name, tmp_path / "conf" / name)
    assert multirun(tmp_path, "train.py", *SEGMENT, "multirun.dry_run=true") == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "conf/" in line)
    assert line.endswith(
        "settings are read from 'conf/train.yaml', 'conf/dataset/ponies.yaml' in the working "
        "directory, not from the package's files of the same name"
    )


def test_a_foreign_root_file_that_does_not_fit_is_named(answer: Answer, tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "train.yaml").write_text("lr: 0.1\n")
    said = answer("train", "seed=1")
    assert "Settings were read from 'conf/train.yaml' in the working directory" in said


def bomb(levels: int) -> str:
    """YAML of which every level repeats the one before nine times."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (bomb(9), "stands for more than 100000 values"),
        ("a: &a [*a]", "stands inside what it repeats"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"nests more than {MAX_DEPTH}"),
        ("[" * 100_000, f"nests more than {MAX_DEPTH}"),
        ("a" * 1_000_001, "has 1000001 bytes"),
        ("a: 1" + "0" * 5000, "cannot be used"),
        ("a: 2001-99-99", "cannot be used"),
    ],
)
def test_yaml_is_read_within_bounds(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_yaml(path, "the file")


def test_aliases_within_the_bounds_are_read(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_bytes("\ufeffa: &a [1, 2]\nb: *a\n".encode())
    assert read_yaml(path, "the file") == {"a": [1, 2], "b": [1, 2]}


def test_overrides_may_follow_options(tmp_path: Path, answer: Answer) -> None:
    few = ("dataset.num_labelled=1", "dataset.num_test=1", "dataset.image_size=16")
    out = tmp_path / "set"
    assert main(["data", "write", "ponies", "--output", str(out), *few]) == 0
    assert len(list((out / "real" / "train").glob("*.npy"))) == 1
    said = answer("data", "write", "ponies", "--output", "other", *few, "--nonsense")
    assert "unrecognized arguments" in said
    assert "unrecognized arguments: huh" in answer(
        "data", "write", "ponies", "--output", "o", "huh"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("select", "sweep", "--channels", "0"), "argument --channels: '0' must be a whole number"),
        (("sample", "x", "--num", "1", "--output", "o", "--seed", "-1"), "argument --seed"),
        (("sample", "x", "--output", "o", "--num", "9" * 23), "argument --num"),
        (("predict", "x.png", "--run", "a" * 300), "argument --run: "),
        (("report", ""), "argument folder: it is empty"),
        (("robustness", "x", "--severities", ""), "`--severities`: name at least one of each"),
        (("blocks", "dataset.image_size=63"), "needs images whose side is divisible by 8"),
        (("blocks", "dataset.image_size=-8"), "`dataset.image_size=-8`: must be at least 8"),
    ],
)
def test_a_wrong_option_is_named(words: tuple[str, ...], says: str, answer: Answer) -> None:
    assert says in answer(*words)


@pytest.mark.parametrize("key", ["dataset.name", "dataset.classes"])
@pytest.mark.parametrize("command", ["compare", "table"])
def test_no_score_is_a_mean_over_datasets(
    command: str, key: str, answer: Answer, members_by_seeds: Path
) -> None:
    assert "have no mean" in answer(command, str(members_by_seeds), "--over", key)


def test_interpolations_of_hydra_name_the_folders_of_jobs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SEGMENT, "head.max_steps=2", "seed=0,1", "hydra.sweep.dir=jobs"]
    words.append("paths.output_dir=${hydra:sweep.dir}/${hydra:job.num}")
    planned = tmp_path / "planned"
    planned.mkdir()
    assert multirun(planned, "train.py", *words, "multirun.dry_run=true") == 0
    assert "seed=1  -> jobs/1\n" in capsys.readouterr().err
    assert list(planned.iterdir()) == []
    assert multirun(tmp_path, "train.py", *words) == 0
    for job in ("0", "1"):
        assert (tmp_path / "jobs" / job / "results.csv").is_file()
    assert multirun(tmp_path, "train.py", *words) == 0
    assert "2 done, 0 skipped, 0 failed" in capsys.readouterr().err


def test_a_wrong_job_stops_a_multirun_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["seed=0,abc"], ["seed=0,1", "hydra.sweep.dir="], ["seed=0,1", "+sed=3"]):
        assert multirun(tmp_path, "train.py", *SEGMENT, *words) == 2
        assert "Traceback" not in capsys.readouterr().err
    assert not list(tmp_path.rglob("config.yaml"))
    assert os.environ.get("HYDRA_FULL_ERROR") is None


@pytest.mark.parametrize(
    ("program", "word", "says"),
    [
        ("train", "dataset.image_size=100000", "`dataset.image_size=100000`: a single image takes"),
        ("train", "head.members=100000000", "is for the head, which `head.members`, `head.hidden`"),
        ("train", "head.hidden=[2000000,2000000]", "is for the head"),
        ("train", "head.batch_size=2000000000", "is for the vectors of a batch"),
        ("train", "features.batch_size=2000000000", "of a forward pass, which `dataset.image"),
        ("train", "dataset.num_labelled=2000000000", "is for the maps of 2000000000 training"),
        ("sweep", "sweep.head.hidden=[2000000,2000000]", "which `sweep.head.members`, `sweep.head"),
        ("sweep", "sweep.batch_size=2000000000", "`sweep.batch_size`"),
        ("train", "backbone.unet.num_channels=65536", "is for the network"),
        ("data", "dataset.image_size=100000", "`dataset.image_size=100000`: a single image takes"),
    ],
)
def test_what_no_memory_holds_is_refused_before_it_is_allocated(
    program: str, word: str, says: str, answer: Answer
) -> None:
    words = {
        "train": ("train", *SEGMENT),
        "sweep": ("sweep", *SWEEP),
        "data": ("data", "write", "ponies", "--output", "o"),
    }[program]
    said = answer(*words, word)
    assert says in said
    assert "GB of memory" in said
    assert "and this machine has" in said


@pytest.mark.parametrize("key", ["num_images", "batch_size", "num_samples"])
def test_a_pretraining_that_no_memory_holds_is_refused(key: str, answer: Answer) -> None:
    said = answer("train", *PRETRAIN, f"pretrain.{key}=2000000000")
    assert f"`pretrain.{key}`, `backbone.unet.image_size` decide" in said
