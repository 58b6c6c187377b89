# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import os
import re
import shutil
import time

import numpy as np
import pytest

pytest.importorskip("moto", reason="moto")
pytest.importorskip("flask", reason="moto")

from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_test_support.s3_server import BUCKET, Fault, running_server
from gr00t_test_support.waiting import eventually
from gr00t_training.cli import dataset as command
from gr00t_training.dataset.media.video import VideoCodec, VideoSettings
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.tools.edit import restate
from gr00t_training.dataset.tools.edit.operations import convert_dataset
from gr00t_training.dataset.tools.edit.restate import recompute_statistics
from gr00t_training.dataset.tools.transfer import copy_dataset
from gr00t_training.dataset.tools.validate.dataset import validate_dataset
from gr00t_training.dataset.view.summary import summarize
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.io import object_storage
from gr00t_training.io.mirror import fetch_all, mirror_of, open_folder
from gr00t_training.io.object_storage import RemoteFolder, remote_url

EMBODIMENT = make_embodiment()
EPISODES = 4
EPISODE_STATISTICS = {"v2.1": ["meta/episodes_stats.jsonl"], "v3.0": ["meta/episodes/chunk-000/file-000.parquet"]}
LONG_AGO = time.time() - 3600


@pytest.fixture(scope="module")
def server():
    with running_server() as found:
        yield found


@pytest.fixture(autouse=True)
def environment(server, tmp_path, monkeypatch):
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GR00T_REMOTE_CACHE", str(tmp_path / "cache"))


def record(root, version):
    with DatasetWriter(root, EMBODIMENT, video=VideoSettings(codec=VideoCodec.H264), version=version) as writer:
        for number in range(EPISODES):
            episode = writer.start_episode("lift the cube")
            for frame in make_frames(EMBODIMENT, 4 + number, seed=number):
                episode.add_frame(frame)
            episode.save()
    for path in root.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    return root


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record(tmp_path_factory.mktemp("recorded") / "data", "v2.1")


@pytest.fixture
def remote(server, recorded, request):
    """The address of a copy of the dataset."""
    prefix = f"{prefix_of(request)}/data"
    server.put_folder(recorded, prefix)
    return f"s3://{BUCKET}/{prefix}"


def prefix_of(request):
    """Return a prefix that no other test has."""
    return re.sub(r"\W", "_", request.node.name)


def cached(tmp_path):
    """Return names and sizes of the files in the cache that are bounded."""
    return {path.name: path.stat().st_size for path in (tmp_path / "cache/blobs").glob("[!.]*")}


def video_bytes(recorded):
    return max(path.stat().st_size for path in recorded.rglob("*.mp4"))


def test_addresses_are_told_from_paths(tmp_path):
    assert remote_url("s3://bucket/a/b/") == "s3://bucket/a/b"
    assert remote_url(os.path.normpath("s3://bucket/a")) == "s3://bucket/a"  # as pathlib has it
    assert remote_url("s3://bucket") == "s3://bucket"
    assert [remote_url(path) for path in (tmp_path, "data", "org/name", "s3", "/s3:/x")] == [None] * 5


def test_a_remote_dataset_reads_as_the_local_one_and_fetches_what_is_read(remote, recorded, tmp_path):
    local, found = EpisodeDataset(recorded), EpisodeDataset(remote)
    assert not cached(tmp_path)  # metadata only
    rows = [0, 3]
    np.testing.assert_array_equal(found.action(1, "arm"), local.action(1, "arm"))
    assert len(cached(tmp_path)) == 1
    np.testing.assert_array_equal(found.images(1, "front", rows), local.images(1, "front", rows))
    assert len(cached(tmp_path)) == 2
    for one, other in zip(found, local, strict=True):
        np.testing.assert_array_equal(one.state("gripper"), other.state("gripper"))
        np.testing.assert_array_equal(one.images("front"), other.images("front"))
        assert one.task() == other.task()
    again = EpisodeDataset(remote)  # nothing is fetched twice
    before = cached(tmp_path)
    again.images(0, "front", [0])
    assert again.path == found.path
    assert cached(tmp_path) == before


def test_episodes_of_a_remote_dataset_v3_0_come_from_few_files(server, tmp_path):
    local = EpisodeDataset(record(tmp_path / "data", "v3.0"))
    server.put_folder(tmp_path / "data", "v30")
    found = EpisodeDataset(f"s3://{BUCKET}/v30")
    for one, other in zip(found, local, strict=True):
        np.testing.assert_array_equal(one.action("arm"), other.action("arm"))
        np.testing.assert_array_equal(one.images("front"), other.images("front"))
    names = [name for name in mirror_of(found.path).objects if name.startswith(("data/", "videos/"))]
    assert len(cached(tmp_path)) == len(names) < 2 * EPISODES
    assert not list(validate_dataset(f"s3://{BUCKET}/v30"))


def test_info_and_validate_read_a_remote_dataset(remote, recorded, capsys):
    here, there = summarize(recorded), summarize(remote)
    assert there.path == remote
    assert (there.num_frames, there.cameras, there.tasks) == (here.num_frames, here.cameras, here.tasks)
    assert list(validate_dataset(remote)) == list(validate_dataset(recorded)) == []
    assert command.main(["validate", remote, "--jobs", "1"]) == 0
    assert capsys.readouterr().out == f"{remote}: 0 faults, 0 warnings\n"


def test_a_missing_video_is_a_fault_of_the_dataset_and_an_error_of_who_reads_it(remote, server):
    name = next(name for name in RemoteFolder(remote).list() if name.endswith(".mp4"))
    server.remove(f"{remote.removeprefix(f's3://{BUCKET}/')}/{name}")
    assert [finding.subject for finding in validate_dataset(remote) if finding.text == "missing"] == [name]
    with pytest.raises(DatasetError, match=f"{remote}/{name}: no such object; restore it"):
        EpisodeDataset(remote).images(0, "front", [0])


def test_the_cache_stays_below_its_limit_and_keeps_what_is_open(remote, recorded, tmp_path, monkeypatch):
    limit = video_bytes(recorded) * 5 // 2
    monkeypatch.setenv("GR00T_REMOTE_CACHE_GIB", str(limit / 2**30))
    root = open_folder(remote)
    mirror = mirror_of(root)
    large = [root / name for name in mirror.objects if name.endswith(".mp4")]
    with mirror.hold(large[0]) as first:
        for path in [root / name for name in mirror.objects if name.startswith(("data/", "videos/"))]:
            mirror.fetch(path)
            assert sum(cached(tmp_path).values()) <= limit
        assert mirror.digest_of(large[0]) in cached(tmp_path)
        assert first.read() == (recorded / large[0].relative_to(root)).read_bytes()
    found, local = EpisodeDataset(remote), EpisodeDataset(recorded)
    for index in (0, 3, 1, 2, 0):
        found.close()
        np.testing.assert_array_equal(found.images(index, "front", [1]), local.images(index, "front", [1]))
    assert sum(cached(tmp_path).values()) <= limit


def test_a_cache_that_is_full_of_open_files_says_so(remote, recorded, monkeypatch):
    monkeypatch.setenv("GR00T_REMOTE_CACHE_GIB", str((video_bytes(recorded) + 10) / 2**30))
    root = open_folder(remote)
    names = [name for name in mirror_of(root).objects if name.startswith(("data/", "videos/"))]
    video = next(name for name in names if name.endswith(".mp4"))
    with (
        mirror_of(root).hold(root / video),
        pytest.raises(ConfigError, match=r"full of files in use .* GR00T_REMOTE_CACHE_GIB is"),
    ):
        mirror_of(root).fetch(root / next(name for name in names if name != video))


@pytest.mark.parametrize("value", ["0", "-1", "many", "nan"])
def test_a_limit_that_is_no_number_is_refused(remote, value, monkeypatch):
    monkeypatch.setenv("GR00T_REMOTE_CACHE_GIB", value)
    with pytest.raises(ConfigError, match=f"GR00T_REMOTE_CACHE_GIB is '{value}', expected a number"):
        open_folder(remote)


def test_an_interrupted_download_is_not_taken_for_a_file(remote, recorded, tmp_path, monkeypatch):
    root = open_folder(remote)
    path = root / next(name for name in mirror_of(root).objects if name.endswith(".mp4"))
    content = (recorded / path.relative_to(root)).read_bytes()

    def cut_off(self, name, expected, file):
        file.write(content[: len(content) // 2])
        raise DatasetError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "download", cut_off)
        with pytest.raises(DatasetError, match="connection lost"):
            mirror_of(root).fetch(path)
    assert not cached(tmp_path)
    # what a killed process leaves
    (tmp_path / "cache/blobs" / f"{mirror_of(root).digest_of(path)}.part").write_bytes(content[:7] * 3)
    assert not path.exists()
    mirror_of(root).fetch(path)
    assert path.read_bytes() == content
    assert list(cached(tmp_path).values()) == [len(content)]


def test_an_object_that_changes_during_a_run_is_refused_and_read_by_the_next(remote, server, recorded):
    found = EpisodeDataset(remote)
    name = next(name for name in mirror_of(found.path).objects if name.endswith(".mp4"))
    key = f"{remote.removeprefix(f's3://{BUCKET}/')}/{name}"
    content = (recorded / name).read_bytes()
    server.put(key, content + b"\0")
    message = f"{remote}/{name}: changed since it was listed .* start again"
    with pytest.raises(DatasetError, match=message):
        found.images(0, "front", [0])
    time.sleep(1.1)  # the storage's clock
    server.put(key, content)  # the same size at another time
    with pytest.raises(DatasetError, match=message):
        found.images(0, "front", [0])
    again = EpisodeDataset(remote)
    assert again.path != found.path
    np.testing.assert_array_equal(again.images(0, "front", [0]), EpisodeDataset(recorded).images(0, "front", [0]))


def test_an_object_replaced_within_the_same_second_by_one_of_equal_size_is_another(
    remote, server, recorded, tmp_path, monkeypatch
):
    second, state = int(time.time()), object_storage.ObjectState  # all that is done here is done in one second
    monkeypatch.setattr(object_storage, "ObjectState", lambda size, _, tag="": state(size, second, tag))
    prefix = remote.removeprefix(f"s3://{BUCKET}/")
    name = next(name for name in RemoteFolder(remote).list() if name.startswith("data/"))
    content, tasks = ((recorded / each).read_bytes() for each in (name, "meta/tasks.jsonl"))
    old = open_folder(remote)
    mirror_of(old).fetch(old / name)
    assert EpisodeDataset(remote)[0].task() == "lift the cube"
    server.put(f"{prefix}/{name}", bytes(len(content)))
    with (
        open(tmp_path / "file", "wb") as file,
        pytest.raises(DatasetError, match=f"{name}: changed since it was listed .* another time or content"),
    ):
        RemoteFolder(remote).download(name, mirror_of(old).objects[name], file)
    server.put(f"{prefix}/meta/tasks.jsonl", tasks.replace(b"lift", b"push"))
    new = open_folder(remote)
    mirror_of(new).fetch(new / name)
    assert (old / name).read_bytes() == content
    assert (new / name).read_bytes() == bytes(len(content))
    assert EpisodeDataset(remote)[1].task() == "push the cube"


def test_an_object_replaced_while_it_is_read_is_refused(remote, server, monkeypatch, tmp_path):
    prefix, name = remote.removeprefix(f"s3://{BUCKET}/"), "meta/info.json"
    listed = RemoteFolder(remote).list()[name]
    state = RemoteFolder.state

    def replace_before(self, asked):  # the look at the object behind its last block
        server.put(f"{prefix}/{name}", b"x" * listed.size)
        return state(self, asked)

    monkeypatch.setattr(RemoteFolder, "state", replace_before)
    with open(tmp_path / "file", "wb") as file, pytest.raises(DatasetError, match="changed since it was listed"):
        RemoteFolder(remote).download(name, listed, file)


def test_settled_objects_cost_no_request_each(remote, monkeypatch):
    monkeypatch.setattr(object_storage, "SETTLED_S", -3600)  # as if they were older
    monkeypatch.setattr(RemoteFolder, "state", lambda self, name: pytest.fail(f"asked for {name}"))
    assert {state.tag for state in RemoteFolder(remote).list().values()} == {""}


@pytest.mark.parametrize("size", [0, 5, 10 * 2**20 + 1])  # the last one in two parts
def test_an_upload_is_compared_with_its_file(server, request, tmp_path, monkeypatch, size):
    prefix = f"uploads/{prefix_of(request)}"
    folder, path = RemoteFolder(f"s3://{BUCKET}/{prefix}"), tmp_path / "file"
    path.write_bytes(bytes(size))
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "_digests", lambda self, name: pytest.fail("read back in spite of its ETag"))
        folder.upload(path, "file")
    assert folder.holds(path, "file")
    with monkeypatch.context() as patch:  # a storage with ETags of another kind
        patch.setattr(object_storage, "_tags", lambda digests: ())
        folder.upload(path, "file")
        assert not folder.holds(path, "file")
    if size:
        state = RemoteFolder.state

        def state_of_another(self, name):
            server.put(f"{prefix}/file", b"x" * size)
            return state(self, name)

        monkeypatch.setattr(RemoteFolder, "state", state_of_another)
        with pytest.raises(DatasetError, match=f"{prefix}/file: differs from {path} after the upload"):
            folder.upload(path, "file")


@pytest.mark.parametrize("fault", Fault)
def test_a_download_survives_faults_of_the_storage_or_ends_in_one_line(
    remote, server, recorded, fault, monkeypatch, capsys, caplog
):
    monkeypatch.setattr(object_storage, "RETRIES_S", (0.01,))  # in addition to three attempts of the SDK each time
    left = [0]

    def fault_of(method, path):
        if method == "GET" and "/videos/" in path and left[0]:
            left[0] -= 1
            return fault
        return None

    with server.faulty(fault_of) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        found = EpisodeDataset(remote)
        for number, (count, num_warnings) in enumerate(((1, 0), (4, 1))):
            left[0] = count
            np.testing.assert_array_equal(
                found.images(number, "front", [0]), EpisodeDataset(recorded).images(number, "front", [0])
            )
            assert left[0] == 0
            assert caplog.text.count("trying again in 0.01 s") == num_warnings
        left[0] = 1000
        monkeypatch.setattr(object_storage, "RETRIES_S", ())
        assert command.main(["copy", remote, str(recorded.parent / "never")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    message = {Fault.ERROR: "the storage has an error of its own", Fault.RESET: "the storage does not answer"}[fault]
    assert f"{remote}/videos/" in line
    assert message in line


def test_errors_of_the_storage_name_address_and_remedy(server, monkeypatch, capsys):
    def error_line(address):
        assert command.main(["info", address]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    assert "s3://nobody/data: there is no bucket 'nobody'; check its name" in error_line("s3://nobody/data")
    assert f"s3://{BUCKET}/none: no object there; check bucket" in error_line(f"s3://{BUCKET}/none")
    server.put("no_dataset/data.txt", b"x")
    assert "info.json" in error_line(f"s3://{BUCKET}/no_dataset")
    with server.checking_keys():
        assert "access is refused (INVALID_ACCESS_KEY_ID); set AWS_ACCESS_KEY_ID" in error_line(f"s3://{BUCKET}/none")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "the storage does not answer; check the network, and AWS_ENDPOINT_URL" in error_line(f"s3://{BUCKET}/none")


def test_statistics_of_a_remote_dataset_are_computed_in_a_bounded_cache_and_written_back(
    recorded, server, request, tmp_path, monkeypatch, capsys
):
    prefix = prefix_of(request)
    for version in ("v2.1", "v3.0"):
        here, url = tmp_path / version, f"s3://{BUCKET}/{prefix}/{version}"
        if version == "v2.1":
            shutil.copytree(recorded, here, ignore=shutil.ignore_patterns(".staging"))
        else:
            convert_dataset(recorded, here, version)
        limit = video_bytes(here) * 5 // 2
        monkeypatch.setenv("GR00T_REMOTE_CACHE_GIB", str(limit / 2**30))
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        names = ["meta/stats.json", *EPISODE_STATISTICS[version]]
        expected = {name: (here / name).read_bytes() for name in recompute_statistics(here)}
        assert set(expected) == set(names)
        (here / "meta/stats.json").write_text("{}")
        if version == "v2.1":
            (here / names[1]).write_text("")
        server.put_folder(here, f"{prefix}/{version}")
        before = RemoteFolder(url).list()
        reader = EpisodeDataset(url)
        assert command.main(["stats", url]) == 0
        assert sorted(capsys.readouterr().out.splitlines()) == sorted(f"wrote {url}/{name}" for name in names)
        after = RemoteFolder(url).list()
        assert {name for name in before | after if after.get(name) != before.get(name)} <= set(names)
        found = open_folder(url)
        assert found != reader.path
        assert {name: (found / name).read_bytes() for name in names} == expected
        assert sum(cached(tmp_path).values()) <= limit
        assert not list((tmp_path / "cache/snapshots").glob(".new-*"))


def test_statistics_are_not_written_over_those_of_a_dataset_that_changed(remote, server, monkeypatch, capsys):
    before = RemoteFolder(remote).list()["meta/stats.json"]

    def change(*_):
        server.put(f"{remote.removeprefix(f's3://{BUCKET}/')}/meta/tasks.jsonl", b"{}")
        return []

    monkeypatch.setattr(restate, "_write_relative", change)
    assert command.main(["stats", remote]) == 2
    assert (
        f"{remote}/meta/tasks.jsonl: changed since the dataset was opened; nothing was written"
        in capsys.readouterr().err
    )
    assert RemoteFolder(remote).list()["meta/stats.json"] == before


def test_edits_read_from_a_bucket_and_write_a_folder(remote, recorded, tmp_path, monkeypatch):
    monkeypatch.setenv("GR00T_REMOTE_CACHE_GIB", str(video_bytes(recorded) * 5 / 2**30))
    for words in (
        ["merge", "{}", recorded, "--output", "{}/merged"],
        ["convert", "{}", "--dataset-version", "v3.0", "--output", "{}/converted"],
        ["delete", "{}", "--episodes", "1", "--output", "{}/deleted"],
    ):
        for source, target in ((remote, "there"), (recorded, "here")):
            given = [str(word).replace("{}", str(tmp_path / target)) if "/" in str(word) else word for word in words]
            assert command.main([str(source) if word == "{}" else str(word) for word in given]) == 0, words
    names = [path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*") if path.is_file()]
    assert len(names) > 30
    for name in names:
        if name.suffix != ".parquet" or "episodes" not in name.parts:
            assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes(), name
    assert len(EpisodeDataset(tmp_path / "there/converted")) == EPISODES


@pytest.mark.parametrize(
    "words",
    [
        ["repair", "{}"],
        ["view", "{}"],
        ["push", "{}", "user/name"],
        ["merge", "here", "here", "--output", "{}"],
        ["merge", "{}", "here"],  # the old order: the first one is the folder to write
        ["split", "here", "--by-task", "--output", "{}"],
        ["convert", "here", "--dataset-version", "v3.0", "--output", "{}"],
        ["convert", "{}", "--dataset-version", "v3.0", "--in-place"],
        ["delete", "{}", "--episodes", "0", "--in-place"],
        ["trim", "here", "--output", "{}"],
        ["retask", "here", "--task", "push", "--episodes", "0", "--output", "{}"],
    ],
    ids=" ".join,
)
def test_a_command_that_needs_a_folder_says_so_and_makes_none(remote, recorded, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = [{"{}": remote, "here": str(recorded)}.get(word, word) for word in words]
    try:
        code = command.main(given)
    except SystemExit as error:
        code = error.code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert re.search(
        f"{remote}: is in object storage, expected a local path; "
        "(copy it to a folder with gr00t_dataset copy|write to a local folder, and copy it there|write a new dataset)",
        line,
    )
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


def test_a_recording_into_a_bucket_is_refused(remote):
    with pytest.raises(DatasetError, match="record into a local one"):
        DatasetWriter(remote, EMBODIMENT)


def test_copies_continue_and_equal_the_dataset(recorded, server, request, tmp_path):
    prefix = f"copies/{prefix_of(request)}"
    url = f"s3://{BUCKET}/{prefix}"
    (recorded / ".staging").mkdir(exist_ok=True)
    report = copy_dataset(recorded, url)
    names = sorted(path.relative_to(recorded).as_posix() for path in recorded.rglob("*") if path.is_file())
    names = [name for name in names if not name.startswith(".")]
    assert sorted(RemoteFolder(url).list()) == names
    assert (report.num_files, report.num_skipped) == (len(names), 0)
    server.remove(f"{prefix}/{names[0]}")
    assert copy_dataset(recorded, url).num_skipped == len(names) - 1

    back = tmp_path / "back"
    half = tmp_path / ".back.download" / names[1]
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    copy_dataset(url, back)
    assert sorted(path.relative_to(back).as_posix() for path in back.rglob("*") if path.is_file()) == names
    assert all((back / name).read_bytes() == (recorded / name).read_bytes() for name in names)
    with pytest.raises(DatasetError, match="exists already"):
        copy_dataset(url, back)
    with pytest.raises(DatasetError, match="expected one folder and one s3"):
        copy_dataset(back, tmp_path / "other")
    server.put(f"{prefix}/data/other.parquet", b"x")
    with pytest.raises(DatasetError, match=r"holds 1 objects that .* does not have, such as data/other\.parquet"):
        copy_dataset(recorded, url)


def test_an_upload_that_is_interrupted_is_no_dataset(recorded, request, monkeypatch):
    url = f"s3://{BUCKET}/broken/{prefix_of(request)}"
    upload = RemoteFolder.upload

    def fail(self, path, name):
        if name == "meta/modality.json":
            raise DatasetError("connection lost")
        upload(self, path, name)

    monkeypatch.setattr(RemoteFolder, "upload", fail)
    with pytest.raises(DatasetError, match="connection lost"):
        copy_dataset(recorded, url)
    assert any(name.startswith("data/") for name in RemoteFolder(url).list())
    assert "meta/info.json" not in RemoteFolder(url).list()


def test_places_of_former_versions_are_removed(remote, server, tmp_path):
    first = open_folder(remote)
    mirror_of(first)._file.close()  # as when its process ends
    server.put(f"{remote.removeprefix(f's3://{BUCKET}/')}/README.md", b"new")
    second = open_folder(remote)
    assert second != first
    assert not first.exists()
    assert sorted(path.name for path in (tmp_path / "cache/snapshots").iterdir()) == [
        second.name,
        f"{second.name}.json",
    ]


def test_files_are_fetched_side_by_side_without_filling_the_cache(remote, recorded, tmp_path, monkeypatch):
    root = open_folder(remote)
    paths = [root / name for name in mirror_of(root).objects if name.startswith("data/")]
    fetch_all(recorded, [recorded / "meta/info.json"])
    fetch_all(root, paths)
    assert len(cached(tmp_path)) == len(paths)
    shutil.rmtree(tmp_path / "cache/blobs")
    monkeypatch.setenv(
        "GR00T_REMOTE_CACHE_GIB", str(1.5 * max(path.stat().st_size for path in recorded.glob("data/*/*")) / 2**30)
    )
    fetch_all(root, paths * 2)
    assert not cached(tmp_path)


def test_training_reads_a_remote_dataset_and_fetches_ahead(remote, recorded, tmp_path):
    torch = pytest.importorskip("torch")
    from gr00t_training.checkpoint import new_checkpoint
    from gr00t_training.train.data.choice import choose_data
    from gr00t_training.train.data.fit import dataset_statistics
    from gr00t_training.train.data.loader import make_loader
    from gr00t_training.train.data.record import describe_sources
    from gr00t_training.train.data.samples import Source, StepDataset
    from gr00t_training.train.settings import FinetuneSettings

    torch.set_num_threads(1)

    def loader_of(path):
        (found,) = choose_data(FinetuneSettings(output=tmp_path / "run", dataset=str(path)), None)
        checkpoint = new_checkpoint("n1_compact", EMBODIMENT, dataset_statistics(found.dataset, EMBODIMENT))
        samples = StepDataset([Source(found.dataset, checkpoint.pipeline())], seed=3)
        return samples, make_loader(samples, batch_size=2, seed=1, start=0, stop=6, num_workers=0)

    (there, found), (_, expected) = loader_of(remote), loader_of(recorded)
    assert describe_sources(there)[0].path == remote
    batches = iter(found)
    first = next(batches)
    # files of all batches, while the first is used
    eventually(lambda: len(cached(tmp_path)) == 2 * EPISODES, lambda: f"cached: {cached(tmp_path)}")
    for one, other in zip([first, *batches], expected, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.slow
def test_a_run_on_a_bucket_equals_one_on_a_folder_resumes_and_survives_faults(
    remote, server, recorded, tmp_path, monkeypatch, capsys
):
    torch = pytest.importorskip("torch")
    pytest.importorskip("tensorboard")
    from gr00t_training.cli import finetune

    torch.set_num_threads(1)
    monkeypatch.setattr(object_storage, "RETRIES_S", (0.01,))
    left = [0]

    def fault_of(method, path):
        if method == "GET" and "/videos/" in path and left[0]:
            left[0] -= 1
            return Fault.ERROR
        return None

    def run(output, steps, *words):
        given = ["--output", str(tmp_path / output), "--max-steps", str(steps), *words, "--num-workers", "0"]
        code = finetune.main(given)
        return code, capsys.readouterr()

    new = ("--variant", "n1_compact", "--device", "cpu", "--batch-size", "1", "--seed", "3")
    assert run("here", 2, *new, "--dataset", str(recorded))[0] == 0
    with server.faulty(fault_of) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        code, printed = run("there", 2, *new, "--dataset", remote)
        assert (code, printed.out.splitlines()[-1]) == (0, f"saved {tmp_path}/there/checkpoint-2")
        weights = [tmp_path / each / "checkpoint-2/model.safetensors" for each in ("here", "there")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
        shutil.rmtree(tmp_path / "cache/blobs")
        left[0] = 2  # tried again
        code, printed = run("there", 3, "--resume")
        assert (code, left[0]) == (0, 0)
        assert "steps       2 to 3 of" in printed.out
        shutil.rmtree(tmp_path / "cache/blobs")
        left[0] = 1000
        code, printed = run("there", 4, "--resume")
        assert code == 2
        (line,) = [line for line in printed.err.splitlines() if line.startswith("gr00t_finetune: error")]
        assert f"{remote}/videos/" in line
        assert "the storage has an error of its own (INTERNAL_FAILURE); try again later" in line
        left[0] = 0
        assert run("there", 4, "--resume")[0] == 0
    assert (tmp_path / "there/checkpoint-4").is_dir()
