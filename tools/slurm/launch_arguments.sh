# Derives the arguments of paddle.distributed.launch from a Slurm allocation; sourced by the *.sbatch files.
#
#   slurm_tasks_per_node 'FORM'    "8(x4)" -> 8, "12" -> 12; fails for nodes with unequal counts ("8(x3),4")
#   slurm_launch_arguments         prints "--nnodes=4 --master=node01:29600 --devices=0,1,2,3,4,5,6,7"
#
# The first node of the allocation is the master. Its port follows from the job id, so that two jobs of one node do not
# meet; set PASSL_MASTER_PORT to choose it. With no GPU in the allocation --nproc_per_node takes the place of --devices.

slurm_tasks_per_node() {
    local form="$1"
    if [[ "$form" =~ ^([0-9]+)(\(x[0-9]+\))?$ ]]; then
        echo "${BASH_REMATCH[1]}"
    else
        echo "SLURM_TASKS_PER_NODE='$form': every node must run the same number of ranks; ask for" \
             "--nodes and --ntasks-per-node instead of --ntasks alone" >&2
        return 1
    fi
}

slurm_launch_arguments() {
    local tasks nodes master port
    if [[ -z "${SLURM_JOB_ID:-}" || -z "${SLURM_JOB_NODELIST:-}" ]]; then
        echo "not inside a Slurm allocation (SLURM_JOB_ID, SLURM_JOB_NODELIST): submit this file with sbatch" >&2
        return 1
    fi
    tasks="$(slurm_tasks_per_node "${SLURM_TASKS_PER_NODE:-}")" || return 1
    nodes="${SLURM_NNODES:-${SLURM_JOB_NUM_NODES:-1}}"
    master="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
    if [[ -z "$master" ]]; then
        echo "scontrol names no host for SLURM_JOB_NODELIST='$SLURM_JOB_NODELIST'" >&2
        return 1
    fi
    port="${PASSL_MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}"
    if [[ -n "${SLURM_GPUS_ON_NODE:-}${SLURM_JOB_GPUS:-}${CUDA_VISIBLE_DEVICES:-}" ]]; then
        echo "--nnodes=$nodes --master=$master:$port --devices=$(seq -s, 0 $((tasks - 1)))"
    else
        echo "--nnodes=$nodes --master=$master:$port --nproc_per_node=$tasks"
    fi
}
