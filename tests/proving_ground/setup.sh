#!/usr/bin/env bash
# Install the system packages of the real-fleet tests. For root on Debian or Ubuntu.
#
# Installs only what is missing, starts no service, and leaves an engine that is there alone.
set -euo pipefail

missing=()
need() { # PROGRAM PACKAGE
    PATH=/usr/sbin:/usr/bin:/sbin:/bin command -v "$1" >/dev/null || missing+=("$2")
}
need sshd openssh-server
need ssh openssh-client
need dockerd docker.io
need docker-registry docker-registry
need ip iproute2
need mpirun openmpi-bin
need munged munge
need slurmctld slurmctld
need slurmd slurmd
need srun slurm-client
need mke2fs e2fsprogs
((${#missing[@]})) || exit 0

# invoke-rc.d asks this file whether a package may start its service: 101 forbids it.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet --quiet
apt-get install --quiet --quiet --yes --no-install-recommends "${missing[@]}"
