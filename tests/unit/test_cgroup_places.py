"""Claims about what the kernel's lists say of cgroups."""

from __future__ import annotations

from pathlib import Path

from highlanderd.system.cgroup_places import lines


def test_a_name_that_holds_what_ends_lines_elsewhere_ends_none(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_bytes(
        b"1 0 0:1 / /mnt/a\rb\x0cc\xe2\x80\xa8d\xff rw - fuse fuse rw\n2 0 0:2 / /sys rw - cgroup2 none rw\n"
    )
    assert [line.partition(" - ")[2] for line in lines(str(mountinfo))] == ["fuse fuse rw", "cgroup2 none rw"]
    assert lines(str(tmp_path / "none")) == []
