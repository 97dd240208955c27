#!/usr/bin/env bash
# Find, place, prepare and measure images with the workers of a Dask cluster, here a scheduler and two worker processes
# on this machine. Expected: exit code 0, and the files that `scan --prepare` writes without a cluster.
#
#   experiments/cluster/dask_scan.sh IMAGES RUN [OPTION ...]
#
# On a real cluster the scheduler and the workers run elsewhere (dask-jobqueue starts them under SLURM, dask-kubernetes
# in pods) and only the last command stays. All of them see the same paths, and have the same version installed: here
# that of the `python` that is found first, so activate the environment.
set -euo pipefail

images=${1:?give a folder of images}
run=${2:?give a run folder}
port=${PORT:-8786}
address=tcp://127.0.0.1:$port
scratch=$(mktemp -d)

python -m dask scheduler --host 127.0.0.1 --port "$port" --no-dashboard &
scheduler=$!
python -m dask worker "$address" --nworkers 2 --nthreads 1 --no-dashboard --local-directory "$scratch" &
workers=$!
trap 'kill $workers || true; wait $workers || true; kill $scheduler || true; wait $scheduler || true; rm -rf "$scratch"' EXIT

python -m dlslicer_geo scan "$images" --prepare --out "$run" --scheduler "$address" "${@:3}"
