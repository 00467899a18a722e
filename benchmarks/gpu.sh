#!/bin/sh
# Checks and measures AirNet on a machine with a GPU, in parts of at most eight minutes. A part that ran out of time ends
# with status 75 and resumes when it is called again.
#
#   benchmarks/gpu.sh tests                  the tests marked gpu
#   benchmarks/gpu.sh backends               the deformable convolution: all backends, values and speed
#   benchmarks/gpu.sh throughput             the paper's network: training steps and restoring, precisions, memory
#   benchmarks/gpu.sh pack datasets/reference DATA   where `make reference` has made it: into DATA, at most 40 MB
#   benchmarks/gpu.sh train DATA             trains the network that ships on, by options/reference/train_gpu.yml
#
# It takes this checkout, PyTorch, torchvision and, where they are not installed, wheels of BasicSR and what that needs
# in WHEELS (default: wheels). Results go to OUT (default: results/gpu), one file for each part, of `train` also the
# network, its training state and the log; a part resumes from what it finds in FROM (default: OUT). PYTHON chooses the
# interpreter, LIMIT the seconds after which a part begins nothing new, and DEVICE=cpu rehearses everything, tiny. Paths
# are taken from the checkout's root.
set -e
cd "$(dirname "$0")/.."
started=$(date +%s)
PYTHON=${PYTHON:-python3}
WHEELS=${WHEELS:-wheels}
export OUT="${OUT:-results/gpu}" DEVICE="${DEVICE:-cuda}" LIMIT="${LIMIT:-420}"
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
export FROM="${FROM:-$OUT}"
part=$1
[ $# -gt 0 ] && shift
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [ -d "$WHEELS" ]; then
    site=build/gpu_site
    [ -d "$site" ] || $PYTHON -m pip install --quiet --no-index --no-deps --target "$site" "$WHEELS"/*.whl
    export PYTHONPATH="$PWD/$site:$PYTHONPATH"
fi
mkdir -p "$OUT"

train() {
    experiment=experiments/train_gpu
    mkdir -p datasets
    [ -e datasets/reference ] || ln -s "$(cd "$1" && pwd)" datasets/reference
    mkdir -p "$experiment/models" "$experiment/training_states"
    for state in "$FROM"/*.state; do
        [ -e "$state" ] || continue
        cp "$state" "$experiment/training_states/"
        cp "$FROM/net_g_$(basename "$state" .state).pth" "$experiment/models/"
    done
    set -- --force_yml compute:dcn_backend=triton  # the fastest in docs/performance.md
    if [ "$DEVICE" = cpu ]; then
        set -- --force_yml num_gpu=0 train:amp=~ train:total_iter=6 datasets:train:batch_size_per_gpu=1 \
            datasets:train:gt_size=64 datasets:train:num_worker_per_gpu=0 \
            logger:print_freq=1 logger:save_checkpoint_freq=2 val:val_freq=100
    fi
    status=0
    # SIGTERM: the iteration is finished and saved, and the status is 75. timeout's own says only that the time was up.
    left=$((LIMIT - $(date +%s) + started))
    timeout --signal TERM "$((left > 1 ? left : 1))" \
        "$PYTHON" basicsr/train.py -opt options/reference/train_gpu.yml --auto_resume "$@" || status=$?
    [ $status -ne 124 ] || status=75
    newest=$(ls "$experiment/training_states" | sed -n 's/\.state$//p' | sort -n | tail -n 1)
    if [ -n "$newest" ]; then
        rm -f "$OUT"/*.state "$OUT"/net_g_*.pth
        cp "$experiment/training_states/$newest.state" "$experiment/models/net_g_$newest.pth" "$OUT/"
    fi
    [ ! -e "$experiment/models/net_g_latest.pth" ] || cp "$experiment/models/net_g_latest.pth" "$OUT/"
    cat "$experiment"/train_train_gpu_*.log >"$OUT/train.log" || true
    return $status
}

case $part in
tests | backends | throughput | pack) exec "$PYTHON" benchmarks/gpu.py "$part" "$@" ;;
train) train "$@" ;;
*) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0" >&2; exit 2 ;;
esac
