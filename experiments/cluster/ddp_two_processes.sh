#!/usr/bin/env bash
# Two processes on the CPU of one machine (DDP over gloo) run an experiment, then one process predicts and explains
# with the same model.ckpt. Expected: "N files, all the same", and exit code 0.
#
#   experiments/cluster/ddp_two_processes.sh EXPERIMENT.yaml [RUN]
set -euo pipefail

experiment=${1:?give an experiment file}
run=${2:-runs/two-processes}
alone="$run-alone"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # the last bits of sums depend on it, so it is the same for all

python -m torch.distributed.run --standalone --nproc-per-node 2 \
    -m dlslicer_geo run "$experiment" --out "$run" --compute.accelerator cpu

rm -rf "$alone"
cp -r "$run" "$alone"
rm -rf "$alone"/{predictions,explain,gis}
for verb in predict explain; do
    python -m dlslicer_geo "$verb" "$experiment" --out "$alone" --compute.accelerator cpu
done

files=$(cd "$alone" && find predictions gis -name '*.parquet' -o -name '*.tif' -o -name manifest.json | sort)
for file in $files; do
    cmp "$run/$file" "$alone/$file"
done
echo "$(wc -w <<<"$files") files, all the same"
