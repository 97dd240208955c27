#!/usr/bin/env bash
# Run an experiment on the GPUs of several machines, one process for each GPU; what is finished is never done again.
#
#   sbatch experiments/cluster/slurm.sh EXPERIMENT.yaml RUN
#
# RUN and the images lie on a file system that all machines share. Expected: the files one process would write.
# When the time is over the job is put into the queue again and goes on: training from RUN/fit/last.ckpt, prediction
# and explanation with the parts that are missing. One GPU: --nodes 1 --ntasks-per-node 1 --gpus-per-node 1.
#SBATCH --job-name dlslicer
#SBATCH --nodes 2
#SBATCH --ntasks-per-node 4
#SBATCH --gpus-per-node 4
#SBATCH --cpus-per-task 8
#SBATCH --time 24:00:00
#SBATCH --requeue
#SBATCH --open-mode append
#SBATCH --signal B:TERM@120
set -euo pipefail

experiment=${1:?give an experiment file}
run=${2:?give a run folder that all machines see}
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK

again() { # two minutes before the end: stop the processes and stand in line again
    kill -TERM "$step" 2>/dev/null || true
    wait "$step" || true
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
trap again TERM

# every process of a step ends when one fails, so nobody waits for one that is gone
srun --kill-on-bad-exit=1 python -m dlslicer_geo run "$experiment" --out "$run" &
step=$!
wait "$step"
