# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import multiprocessing
import os
import pickle
import signal
import threading

import pytest

from gr00t_test_support.waiting import DEADLINE_S
from gr00t_training.errors import ConfigError
from gr00t_training.io.cache_folder import GIB, CacheFolder, cache_folder

SPAWN = multiprocessing.get_context("spawn")


def make_cache(folder, limit_bytes=1000):
    return CacheFolder(folder, limit_bytes / GIB, "frame_cache_gib")


def files(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".") and path.suffix != ".list")


def test_file_is_made_once(tmp_path):
    cache, calls = make_cache(tmp_path), []

    def write(file):
        calls.append(file)
        file.write(b"frames")

    assert cache.find("a") is None
    assert cache.make("a", write).read_bytes() == b"frames"
    assert cache.make("a", write) == cache.find("a")
    assert len(calls) == 1
    assert files(tmp_path) == ["a"]


def test_file_that_fails_leaves_nothing(tmp_path):
    cache = make_cache(tmp_path)

    def fail(file):
        file.write(b"half")
        raise ValueError("damaged video")

    with pytest.raises(ValueError, match="damaged video"):
        cache.make("a", fail)
    assert files(tmp_path) == []
    assert cache.make("a", lambda file: file.write(b"whole")).read_bytes() == b"whole"


def test_full_disk_is_one_clear_error(tmp_path):
    def fail(file):
        raise OSError(28, "No space left on device")

    with pytest.raises(ConfigError, match=r"cache cannot be written \(No space left on device\); free some space"):
        make_cache(tmp_path).make("a", fail)
    assert files(tmp_path) == []


def _hold(folder, is_started):
    with make_cache(folder).begin("a") as new:
        new.file.write(b"half of it")
        new.file.flush()
        is_started.set()
        threading.Event().wait()


def test_killed_process_leaves_nothing_that_is_believed(tmp_path):
    is_started = SPAWN.Event()
    process = SPAWN.Process(target=_hold, args=(tmp_path, is_started))
    process.start()
    assert is_started.wait(DEADLINE_S)
    cache = make_cache(tmp_path)
    assert cache.begin("a", wait=False) is None  # it is being made
    assert cache.find("a") is None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert files(tmp_path) == ["a.part"]
    assert cache.find("a") is None
    assert cache.make("a", lambda file: file.write(b"new")).read_bytes() == b"new"
    assert files(tmp_path) == ["a"]


def test_unfinished_file_of_a_killed_process_is_removed_with_the_next_reservation(tmp_path):
    (tmp_path / "old.part").write_bytes(b"half")
    make_cache(tmp_path).reserve({"a": 10})
    assert files(tmp_path) == []


def _count(folder, name, is_ready):
    is_ready.wait(DEADLINE_S)

    def write(file):
        with open(folder / "calls", "ab") as calls:
            calls.write(b".")
        file.write(b"x" * 100_000)

    make_cache(folder / "cache").make(name, write)


def test_processes_that_need_the_same_file_make_it_once(tmp_path):
    is_ready = SPAWN.Event()
    workers = [SPAWN.Process(target=_count, args=(tmp_path, name, is_ready)) for name in "aabb"]
    for worker in workers:
        worker.start()
    is_ready.set()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert (tmp_path / "calls").read_bytes() == b".."
    assert files(tmp_path / "cache") == ["a", "b"]


def test_files_unused_for_longest_are_removed_above_the_limit(tmp_path):
    cache = make_cache(tmp_path, limit_bytes=350)
    for place, name in enumerate("abc"):
        path = cache.make(name, lambda file: file.write(b"x" * 100))
        os.utime(path, (1000 + place, 1000 + place))
    make_cache(tmp_path, limit_bytes=350).reserve({"a": 100, "d": 100})  # a is old but needed again
    assert files(tmp_path) == ["a", "c"]
    assert cache.find("a").stat().st_mtime > 2000  # used now


def test_files_of_another_living_run_are_kept(tmp_path):
    first, second = make_cache(tmp_path, limit_bytes=250), make_cache(tmp_path, limit_bytes=250)
    first.reserve({"a": 100, "b": 100})
    first.make("a", lambda file: file.write(b"x" * 100))
    with pytest.raises(ConfigError, match=r"needs .* of cache, next to .* that is in use, frame_cache_gib is"):
        second.reserve({"c": 100})
    second.reserve({"b": 100})  # shared
    assert files(tmp_path) == ["a"]
    first.release()
    second.reserve({"c": 150})
    assert files(tmp_path) == []


def test_reservation_of_a_dead_run_is_forgotten(tmp_path):
    (tmp_path / "1-0.list").write_text('{"a": 240}')
    make_cache(tmp_path, limit_bytes=250).reserve({"b": 100})
    assert not (tmp_path / "1-0.list").exists()


def test_too_small_a_limit_says_what_is_needed(tmp_path):
    with pytest.raises(ConfigError, match=r"needs 2.00 GiB of cache, frame_cache_gib is 1.00 GiB; raise it, or train"):
        CacheFolder(tmp_path, 1, "frame_cache_gib").reserve({"a": 2 * GIB})


def test_too_small_a_disk_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"needs .* more of cache, the disk has .* free"):
        CacheFolder(tmp_path, 1e12, "frame_cache_gib").reserve({"a": 2**60})


def test_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot hold a cache"):
        make_cache(tmp_path / "file" / "cache")


def test_worker_shares_the_reservation_of_its_parent(tmp_path):
    cache = make_cache(tmp_path)
    cache.reserve({"a": 10})
    worker = pickle.loads(pickle.dumps(cache))
    worker.release()
    assert [path.suffix for path in tmp_path.glob("*.list")] == [".list"]


def test_auto_is_below_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("auto", "frames") == tmp_path / "gr00t/frames"
    assert cache_folder(str(tmp_path / "x"), "frames") == tmp_path / "x"
