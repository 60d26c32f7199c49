"""What only the real disk has: short counts, errors of the operating system, the lock."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING

import pytest

from logbroker.errors import DamageError, DiskFullError, StorageError, StoreFailedError
from logbroker.storage.disk import DataDirectoryInUseError, RealDisk, open_data_directory, read_file, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from logbroker.storage import disk as disk_module


@pytest.fixture
def disk(tmp_path: Path) -> RealDisk:
    return RealDisk(tmp_path)


def failing(code: int) -> Callable[..., None]:
    def fail(*_args: object, **_options: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_short_counts_are_written_to_the_end(disk: RealDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    real_pwrite = os.pwrite
    monkeypatch.setattr(
        os, "pwritev", lambda handle, buffers, offset: real_pwrite(handle, b"".join(buffers)[:5], offset)
    )
    monkeypatch.setattr(os, "pwrite", lambda handle, data, offset: real_pwrite(handle, bytes(data)[:3], offset))
    with disk.open("a", create=True) as file:
        file.pwrite([b"0123", b"4567", b"89ab"], 2)
        assert file.pread(20, 0) == b"\0\x000123456789ab"


def test_short_reads_are_read_to_the_end(disk: RealDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    real_pread = os.pread
    with disk.open("a", create=True) as file:
        file.pwrite([b"0123456789"], 0)
        monkeypatch.setattr(os, "pread", lambda handle, length, offset: real_pread(handle, min(length, 3), offset))
        assert file.pread(8, 1) == b"12345678"
        assert file.pread(8, 5) == b"56789"


def test_a_disk_that_fills_up_within_a_write_is_full_and_not_failed(
    disk: RealDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_pwrite = os.pwrite
    monkeypatch.setattr(
        os, "pwritev", lambda handle, buffers, offset: real_pwrite(handle, b"".join(buffers)[:4], offset)
    )
    with disk.open("a", create=True) as file:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", failing(errno.ENOSPC))
            with pytest.raises(DiskFullError, match="a: no room for 6 bytes at 14"):
                file.pwrite([b"0123456789"], 10)
        assert disk.failure is None
        file.pwrite([b"good"], 0)


LARGE = [bytes([number % 251]) * 5000 for number in range(600)]
"""3 MB, which begins and ends within blocks."""


def test_a_large_write_past_the_cache_goes_to_the_device_in_whole_blocks(
    disk: RealDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_pwrite = os.pwrite
    direct: list[tuple[int, int]] = []

    def pwrite(handle: int, data: memoryview, offset: int) -> int:
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT:
            direct.append((offset, len(data)))
        return real_pwrite(handle, data, offset)

    with disk.open("a", create=True) as file:
        monkeypatch.setattr(os, "pwrite", pwrite)
        # What is written whole is not joined once more to see what is left of it.
        monkeypatch.setattr("logbroker.storage.disk._pieces", failing(errno.EIO))
        file.pwrite_uncached(LARGE, 100)
        assert file.pread(4 << 20, 100) == b"".join(LARGE)
    assert all(offset % 4096 == 0 and size % 4096 == 0 for offset, size in direct)
    assert sum(size for _, size in direct) == (100 + 3_000_000) // 4096 * 4096 - 4096
    assert max(size for _, size in direct) <= 1 << 20


@pytest.mark.parametrize("refused_after", [0, 1, 2])
def test_where_the_file_system_takes_no_direct_writes_all_goes_through_the_cache(
    disk: RealDisk, monkeypatch: pytest.MonkeyPatch, refused_after: int
) -> None:
    real_pwrite = os.pwrite
    taken = 0

    def pwrite(handle: int, data: memoryview, offset: int) -> int:
        nonlocal taken
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT:
            if taken == refused_after:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            taken += 1
        return real_pwrite(handle, data, offset)

    with disk.open("a", create=True) as file:
        monkeypatch.setattr(os, "pwrite", pwrite)
        file.pwrite_uncached(LARGE, 100)
        assert file.pread(4 << 20, 100) == b"".join(LARGE)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOENT, errno.EMFILE])
def test_where_a_file_cannot_be_opened_for_direct_writes_all_goes_through_the_cache(
    disk: RealDisk, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    with disk.open("a", create=True) as file:
        monkeypatch.setattr(os, "open", failing(code))
        file.pwrite_uncached(LARGE, 100)
        assert file.pread(4 << 20, 100) == b"".join(LARGE)


@pytest.mark.parametrize("short", [1, 4096, 5000])
def test_short_counts_of_direct_writes_are_written_to_the_end(
    disk: RealDisk, monkeypatch: pytest.MonkeyPatch, short: int
) -> None:
    real_pwrite = os.pwrite

    def pwrite(handle: int, data: memoryview, offset: int) -> int:
        if len(data) <= short or not fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT:
            return real_pwrite(handle, data, offset)
        content = bytes(data[:-short])
        plain = os.open(f"/proc/self/fd/{handle}", os.O_WRONLY)
        try:
            return real_pwrite(plain, content, offset)
        finally:
            os.close(plain)

    with disk.open("a", create=True) as file:
        monkeypatch.setattr(os, "pwrite", pwrite)
        file.pwrite_uncached(LARGE, 100)
        assert file.pread(4 << 20, 100) == b"".join(LARGE)


def test_errors_of_direct_writes_are_errors_of_writes(disk: RealDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    with disk.open("a", create=True) as file:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", failing(errno.ENOSPC))
            with pytest.raises(DiskFullError, match="a: no room for 3000000 bytes at 100"):
                file.pwrite_uncached(LARGE, 100)
        assert disk.failure is None
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", failing(errno.EIO))
            with pytest.raises(StoreFailedError, match="a: write of 3000000 bytes at 100 failed"):
                file.pwrite_uncached(LARGE, 100)
        with pytest.raises(StoreFailedError, match="because earlier a: write"):
            file.pwrite_uncached(LARGE, 100)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_stops_nothing(disk: RealDisk, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    with disk.open("a", create=True) as file, monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", failing(code))
        patch.setattr(os, "posix_fallocate", failing(code))
        patch.setattr(os, "mkdir", failing(code))
        with pytest.raises(DiskFullError, match="no room for 3 bytes at 7"):
            file.pwrite([b"abc"], 7)
        with pytest.raises(DiskFullError, match="no room for 100 bytes at 50"):
            file.allocate(50, 100)
        with pytest.raises(DiskFullError):
            disk.mkdir("d")
    assert disk.failure is None


def test_a_write_that_takes_nothing_is_a_failure_and_no_endless_loop(
    disk: RealDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwritev", lambda handle, buffers, offset: 0)
    monkeypatch.setattr(os, "pwrite", lambda handle, data, offset: 0)
    with disk.open("a", create=True) as file, pytest.raises(StoreFailedError, match="nothing was written"):
        file.pwrite([b"abc"], 0)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_after_a_failed_sync_nothing_is_written_any_more(
    disk: RealDisk, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    file = disk.open("a", create=True)
    other = disk.open("b", create=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(code))
        with pytest.raises(StoreFailedError, match="a: sync failed"):
            file.sync()
    assert disk.failure is not None
    for attempt in (
        file.sync,
        lambda: other.pwrite([b"x"], 0),
        other.sync,
        lambda: other.allocate(0, 1),
        lambda: other.truncate(0),
        lambda: disk.open("c", create=True),
        lambda: disk.mkdir("c"),
        lambda: disk.rename("a", "c"),
        lambda: disk.unlink("a"),
        lambda: disk.rmdir("a"),
        lambda: disk.sync_dir(""),
    ):
        with pytest.raises(StoreFailedError, match="because earlier a: sync failed"):
            attempt()
    assert read_file(disk, "b") == b""
    file.close()
    other.close()


@pytest.mark.parametrize(
    ("function", "attempt"),
    [
        ("pwritev", lambda disk, file: file.pwrite([b"x"], 0)),
        ("ftruncate", lambda disk, file: file.truncate(0)),
        ("posix_fallocate", lambda disk, file: file.allocate(0, 1)),
        ("close", lambda disk, file: file.close()),
        ("fsync", lambda disk, file: disk.sync_dir("")),
        ("rename", lambda disk, file: disk.rename("a", "b")),
        ("unlink", lambda disk, file: disk.unlink("a")),
        ("mkdir", lambda disk, file: disk.mkdir("d")),
        ("rmdir", lambda disk, file: disk.rmdir("d")),
        ("open", lambda disk, file: disk.open("new", create=True)),
    ],
)
def test_an_error_of_the_device_while_changing_something_ends_the_store(
    disk: RealDisk,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    attempt: Callable[[RealDisk, disk_module.RealFile], object],
) -> None:
    file = disk.open("a", create=True)
    handle = file._handle
    with monkeypatch.context() as patch:
        patch.setattr(os, function, failing(errno.EIO))
        with pytest.raises(StoreFailedError):
            attempt(disk, file)
    assert disk.failure is not None
    if function == "close":
        os.close(handle)
    file.close()


def test_the_first_failure_is_the_one_that_is_told(disk: RealDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    file = disk.open("a", create=True)
    handle = file._handle
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO))
        patch.setattr(os, "close", failing(errno.EIO))
        with pytest.raises(StoreFailedError):
            file.sync()
        with pytest.raises(StoreFailedError, match="close failed"):
            file.close()
    os.close(handle)
    assert disk.failure == "a: sync failed: Input/output error"


def test_an_error_of_the_device_while_reading_is_damage(disk: RealDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    with disk.open("a", create=True) as file, monkeypatch.context() as patch:
        patch.setattr(os, "pread", failing(errno.EIO))
        patch.setattr(os, "listdir", failing(errno.EIO))
        with pytest.raises(DamageError, match="a: 4 bytes at 8 cannot be read"):
            file.pread(4, 8)
        with pytest.raises(DamageError):
            disk.list("")
    assert disk.failure is None


def test_too_many_open_files_does_not_end_the_store(disk: RealDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(errno.EMFILE))
        with pytest.raises(StorageError) as caught:
            disk.open("a", create=True)
    assert caught.value.hint == "raise the limit of open files"
    assert disk.failure is None


def test_a_read_that_is_refused_for_another_reason_is_told(disk: RealDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(errno.EACCES))
        with pytest.raises(StorageError, match="a: open failed: Permission denied"):
            disk.open("a")


def test_a_replacement_without_room_leaves_the_old_content_and_no_rubbish(
    disk: RealDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_file(disk, "record", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", failing(errno.ENOSPC))
        with pytest.raises(DiskFullError):
            replace_file(disk, "record", b"new")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(errno.ENOSPC))
        with pytest.raises(DiskFullError):
            replace_file(disk, "record", b"new")
    assert read_file(disk, "record") == b"old"
    assert disk.list("") == ["record"]


def test_replace_file_syncs_the_content_before_and_the_directory_after_the_rename(
    disk: RealDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noting(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def call(*args: object, **options: object) -> object:
            calls.append(name)
            return real(*args, **options)

        return call

    for name in ("pwritev", "fdatasync", "rename", "fsync"):
        monkeypatch.setattr(os, name, noting(name))
    replace_file(disk, "record", b"new")
    assert calls == ["pwritev", "fdatasync", "rename", "fsync"]


def test_no_call_gets_more_buffers_than_the_kernel_takes(disk: RealDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    real = os.pwritev

    def noting(handle: int, buffers: Sequence[bytes], offset: int) -> int:
        counts.append(len(buffers))
        return real(handle, buffers, offset)

    monkeypatch.setattr(os, "pwritev", noting)
    with disk.open("a", create=True) as file:
        file.pwrite([b"x"] * 512, 0)
        file.pwrite([b"x"] * 5000, 512)
        assert file.size() == 5512
    assert counts == [512]


def test_every_new_name_above_the_data_directory_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append((os.fstat(handle).st_dev, os.fstat(handle).st_ino)))
    with open_data_directory(tmp_path / "a" / "b"):
        pass
    names = (tmp_path, tmp_path / "a")
    assert synced == [(name.stat().st_dev, name.stat().st_ino) for name in names]
    with open_data_directory(tmp_path / "a" / "b"):
        assert len(synced) == 2


def test_one_process_holds_a_data_directory(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "data"
    with open_data_directory(root) as disk:
        assert disk.root == root
        assert disk.list("") == ["lock"]
        with (
            pytest.raises(DataDirectoryInUseError, match=f"is held by process {os.getpid()}"),
            open_data_directory(root),
        ):
            pass
    with open_data_directory(root):
        pass


def test_the_holder_of_a_fresh_lock_may_be_unknown(tmp_path: Path) -> None:
    handle = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(DataDirectoryInUseError, match="held by process unknown"), open_data_directory(tmp_path):
        pass
    os.close(handle)


def test_a_data_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError), open_data_directory(tmp_path / "file"):
        pass
