#!/bin/sh
# Runs `cuda-green info` on a machine with a GPU in the situations in which users meet errors, and prints what it
# says in each. Nothing of the machine is changed: each situation is made in a mount namespace of its own.
#
#   ./situations.sh [./cuda-green [SITUATION…]]
set -u
PATH=$PATH:/usr/sbin:/sbin # for ldconfig

program=${1:-./cuda-green}
[ $# -gt 0 ] && shift
names=${*:-normal devices_visible_none devices_visible_wrong device_out_of_range driver_text
    denied_to_all denied_to_group no_uvm no_uvm_unprivileged no_device_files no_device_files_unprivileged
    no_libcuda no_libcuda_no_nvml}

say() { # words: runs the program, and tells how it ended
    "$@" "$program" info 2>&1
    echo "-- exit code $?"
}

unprivileged() { # command: as nobody, where this is root; else as the user that this is
    if [ "$(id -u)" = 0 ] && setpriv --reuid=65534 --regid=65534 --clear-groups true 2>/dev/null; then
        setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
    else
        echo "(not root, or alone in a user namespace: run as this user)"
        "$@"
    fi
}

# A /dev without what matches a pattern. Device files cannot be made in a user namespace, so all are mounted.
dev_without() { # pattern
    mkdir -p "$tmp/dev" && mount --rbind /dev "$tmp/dev" && mount -t tmpfs none /dev || return 1
    for path in "$tmp"/dev/* "$tmp"/dev/.[!.]*; do
        name=${path##*/}
        # shellcheck disable=SC2254 # the pattern is to match as one
        case $name in $1) continue ;; esac
        if [ -L "$path" ]; then
            cp -P "$path" "/dev/$name"
        elif [ -d "$path" ]; then
            mkdir "/dev/$name" && mount --rbind "$path" "/dev/$name"
        elif [ -e "$path" ]; then
            : >"/dev/$name" && mount --bind "$path" "/dev/$name"
        fi
    done
}

# The folder of libcuda.so.1 without what matches a pattern; all else is there as links.
libraries_without() { # patterns
    library=$(ldconfig -p | sed -n 's/.*libcuda\.so\.1 .* => //p' | head -n 1)
    if [ -z "$library" ]; then
        echo "skipped: ldconfig knows no libcuda.so.1"
        return 1
    fi
    folder=$(dirname "$(readlink -f "$(dirname "$library")")/x")
    mkdir -p "$tmp/old" "$tmp/new" && mount --rbind "$folder" "$tmp/old" || return 1
    for path in "$tmp"/old/*; do
        name=${path##*/}
        hidden=
        for pattern in "$@"; do
            # shellcheck disable=SC2254
            case $name in $pattern) hidden=yes ;; esac
        done
        [ -n "$hidden" ] || ln -s "$path" "$tmp/new/$name"
    done
    mount --rbind "$tmp/new" "$folder"
}

situation() { # name
    case $1 in
    normal)
        say env
        "$program" check 2>&1
        echo "-- exit code $?"
        ;;
    devices_visible_none) say env CUDA_VISIBLE_DEVICES=-1 ;;
    devices_visible_wrong) say env CUDA_VISIBLE_DEVICES=77 ;;
    device_out_of_range)
        "$program" info --device 77 2>&1
        echo "-- exit code $?"
        ;;
    driver_text)
        "$program" info --driver h200@13.0 2>&1
        echo "-- exit code $?"
        ;;
    denied_to_all)
        # No device file opens where it is mounted so, not even for root. In a user namespace the flags that
        # the mount has already must be given too.
        for file in /dev/nvidiactl; do
            mount --bind "$file" "$file" || return
            mount -o remount,bind,nodev,nosuid,noexec "$file" || mount -o remount,bind,nodev "$file" || return
        done
        say env
        ;;
    denied_to_group)
        if ! mknod -m 660 "$tmp/nvidiactl" c 195 255 2>/dev/null; then
            echo "skipped: this user cannot make device files"
            return
        fi
        chgrp video "$tmp/nvidiactl"
        mount --bind "$tmp/nvidiactl" /dev/nvidiactl && say unprivileged
        ;;
    no_uvm) dev_without nvidia-uvm && say env ;;
    no_uvm_unprivileged) dev_without nvidia-uvm && say unprivileged ;;
    no_device_files) dev_without 'nvidia*' && say env ;;
    no_device_files_unprivileged) dev_without 'nvidia*' && say unprivileged ;;
    no_libcuda) libraries_without 'libcuda.so*' && say env ;;
    no_libcuda_no_nvml) libraries_without 'libcuda.so*' 'libnvidia-ml.so*' && say env ;;
    *) echo "no situation is called $1" ;;
    esac
}

if [ -n "${CUDA_GREEN_SITUATION:-}" ]; then
    tmp=$CUDA_GREEN_SITUATION
    situation "$names"
    exit
fi

for namespace in "-m" "-rm"; do
    # shellcheck disable=SC2086
    unshare $namespace true 2>/dev/null && break
    namespace=
done
echo "namespaces: ${namespace:-none, so that only the environment is changed}"
head -n 1 /proc/driver/nvidia/version 2>&1
ls -l /dev/nvidia* 2>&1
# A copy that every user can reach.
reach=$(mktemp -d) && chmod 755 "$reach" && cp "$program" "$reach/cuda-green" && chmod 755 "$reach/cuda-green"
trap 'rm -rf "$reach"' EXIT
for name in $names; do
    echo
    echo "== $name"
    tmp=$(mktemp -d)
    chmod 755 "$tmp"
    case $name in
    normal | devices_* | device_* | driver_*)
        CUDA_GREEN_SITUATION=$tmp sh "$0" "$reach/cuda-green" "$name"
        ;;
    *)
        if [ -n "$namespace" ]; then
            CUDA_GREEN_SITUATION=$tmp unshare $namespace sh "$0" "$reach/cuda-green" "$name"
        else
            echo "skipped: no mount namespace can be made"
        fi
        ;;
    esac
    # What was mounted there is gone with its namespace.
    rm -rf --one-file-system "$tmp"
done
exit 0
