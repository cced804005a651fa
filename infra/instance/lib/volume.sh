# The data volume: found by its id, formatted only when it is blank, mounted by UUID.
# shellcheck shell=bash

# An EBS volume's device appears under its id: vol-0123 as ..._vol0123.
# https://docs.aws.amazon.com/ebs/latest/userguide/identify-nvme-ebs-device.html
volume_device() {
  printf '%s/nvme-Amazon_Elastic_Block_Store_%s' "$DEVICE_FOLDER" "${DATA_VOLUME_ID//-/}"
}

# Whether a device holds nothing whatever: no signature that wipefs or blkid knows, and only zeros in its first 16 MiB.
is_blank() {
  local found status=0
  found=$(wipefs --no-act --parsable "$1") || return 1
  [[ -z $found ]] || return 1
  blkid --probe "$1" >/dev/null 2>&1 || status=$?
  # https://man7.org/linux/man-pages/man8/blkid.8.html: 2 is "nothing was found", 8 "more than one was".
  ((status == 2)) || return 1
  cmp --silent --bytes=$((16 * 1024 * 1024)) "$1" /dev/zero
}

# Makes a file system on a blank device; leaves ext4 as it is; refuses anything else.
format_if_blank() {
  local device=$1 type
  if is_blank "$device"; then
    say "the volume is blank: making a file system"
    mkfs.ext4 -q -m 1 -L fleetledger "$device"
    return
  fi
  type=$(blkid --probe --match-tag TYPE --output value "$device") || type=""
  [[ $type == ext4 ]] ||
    die "volume $DATA_VOLUME_ID holds ${type:-data that is no file system}, not ext4: nothing was formatted; attach the right volume"
}

# The line of fstab, which replaces an earlier one for the same place: write_fstab UUID
write_fstab() {
  local others
  others=$(awk -v place="$DATA_MOUNT" '$2 != place' "$FSTAB")
  printf '%s\nUUID=%s %s ext4 noatime,nofail,x-systemd.device-timeout=60 0 2\n' "$others" "$1" "$DATA_MOUNT" |
    install_file "$FSTAB" 0644 "$(id -un)"
}

prepare_volume() {
  local device uuid
  device=$(volume_device)
  say "waiting for volume $DATA_VOLUME_ID"
  wait_for 600 test -b "$device" || die "volume $DATA_VOLUME_ID did not appear within 10 minutes: is it attached?"
  format_if_blank "$device"
  uuid=$(blkid --probe --match-tag UUID --output value "$device")
  write_fstab "$uuid"
  mkdir -p "$DATA_MOUNT"
  "$SYSTEMCTL" daemon-reload
  mountpoint --quiet "$DATA_MOUNT" || mount "$DATA_MOUNT"
  [[ $(findmnt --noheadings --output UUID --mountpoint "$DATA_MOUNT") == "$uuid" ]] ||
    die "$DATA_MOUNT is not volume $DATA_VOLUME_ID: another is mounted there"
  # A volume that was enlarged; nothing to do is no error.
  resize2fs "$device"
}
