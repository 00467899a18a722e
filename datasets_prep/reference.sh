#!/bin/sh
# The data of options/reference/, below datasets/reference.
#   sh datasets_prep/reference.sh 'PHOTOS ...' RAIN HAZE KODAK     four times folders; docs/datasets.md says where from
set -e
out=datasets/reference
if [ -f "$out/complete" ]; then
    exit
fi
if [ -z "$1" ] || [ ! -d "$2" ] || [ ! -d "$3" ] || [ ! -d "$4" ]; then
    echo 'Folders are needed: clean photographs (BSD400 first), pairs of Rain100L, pairs of SOTS outdoor, Kodak, as' >&2
    echo "    make reference PHOTOS='FOLDER FOLDER' RAIN=FOLDER HAZE=FOLDER KODAK=FOLDER" >&2
    exit 2
fi
prepare() {
    "${PYTHON:-python}" datasets_prep/prepare.py "$@"
}
# Not quoted: several folders.
prepare weather --photos $1 --rain "$2" --haze "$3" --out "$out/weather" --hold-out ${HOLD_OUT:-10 40 50}
prepare clean --name Kodak12 --source "$4" --out "$out"
touch "$out/complete"
