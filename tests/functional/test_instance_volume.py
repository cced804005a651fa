"""The data volume is formatted only when it is blank: whatever else is on it, nothing of it is touched."""

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.instance_sandbox import Instance, Metadata, bare_instance, metadata_service

_MIB = 1024 * 1024


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    """The instance's metadata service."""
    with metadata_service() as service:
        yield service


@pytest.fixture
def instance(tmp_path: Path, metadata: Metadata) -> Instance:
    """An instance that calls nobody."""
    return bare_instance(tmp_path, metadata, 1, {"admin": "admin", "loader": "loader"})


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A blank volume, as a file."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(64 * _MIB)
    return image


def _type(image: Path) -> str:
    found = subprocess.run(
        ["/usr/sbin/blkid", "--probe", "--match-tag", "TYPE", "--output", "value", str(image)],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip()


def _digest(image: Path) -> str:
    return hashlib.sha256(image.read_bytes()).hexdigest()


def test_a_blank_volume_gets_a_file_system_and_keeps_it(instance: Instance, volume: Path) -> None:
    done = instance.bash(f"format_if_blank {volume}")
    assert done.returncode == 0, done.stderr
    assert _type(volume) == "ext4"
    before = _digest(volume)
    again = instance.bash(f"format_if_blank {volume}")
    assert again.returncode == 0
    assert again.stdout == ""
    assert _digest(volume) == before


@pytest.mark.parametrize("made_by", ["swap", "partitions", "luks", "raid", "late data"])
def test_anything_else_is_refused_and_left_as_it_is(instance: Instance, volume: Path, made_by: str) -> None:
    with volume.open("r+b") as file:
        match made_by:
            case "swap":
                file.close()
                subprocess.run(["/usr/sbin/mkswap", str(volume)], check=True, capture_output=True)
            case "partitions":
                file.seek(446)
                file.write(bytes([0x80, 0, 2, 0, 0x83, 0, 2, 0]) + (2048).to_bytes(4, "little") * 2)
                file.seek(510)
                file.write(b"\x55\xaa")
            case "luks":
                file.write(b"LUKS\xba\xbe\x00\x02")
            case "raid":  # version 1.0: its superblock is at the end, https://raid.wiki.kernel.org/index.php/RAID_superblock_formats
                sector = 64 * _MIB // 512 - 16
                superblock = bytearray(256)
                superblock[0:8] = (0xA92B4EFC).to_bytes(4, "little") + (1).to_bytes(4, "little")
                superblock[144:152] = sector.to_bytes(8, "little")
                file.seek(sector * 512)
                file.write(superblock)
            case "late data":  # no signature that any tool knows
                file.seek(9 * _MIB)
                file.write(b"x")
    before = _digest(volume)
    done = instance.bash(f"format_if_blank {volume}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: volume vol-0123456789abcdef0 holds ")
    assert "nothing was formatted" in line
    assert _digest(volume) == before


def test_the_device_is_found_by_the_volumes_id(instance: Instance) -> None:
    assert instance.bash("volume_device").stdout.endswith(
        "/devices/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0"
    )


def test_fstab_names_the_volume_once(instance: Instance) -> None:
    fstab = instance.root / "fstab"
    fstab.write_text("LABEL=cloudimg-rootfs / ext4 defaults 0 1\n")
    for uuid in ("aaaa-old", "bbbb-new", "bbbb-new"):
        done = instance.bash(f"write_fstab {uuid}")
        assert done.returncode == 0, done.stderr
    root, data = fstab.read_text().splitlines()
    assert root.startswith("LABEL=cloudimg-rootfs / ")
    assert data.startswith(f"UUID=bbbb-new {instance.volume} ext4 noatime,nofail")
