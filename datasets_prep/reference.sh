#!/bin/sh
# The data of options/reference/: LMDBs below datasets/reference, from two folders of clean photographs.
#   sh datasets_prep/reference.sh BSD400_FOLDER KODAK_FOLDER
set -e
out=datasets/reference
if [ -f "$out/complete" ]; then
    exit
fi
if [ ! -d "$1" ] || [ ! -d "$2" ]; then
    echo 'Two folders of photographs are needed: BSD400 (docs/datasets.md says where from) and Kodak, as' >&2
    echo '    make reference BSD400=FOLDER KODAK=FOLDER' >&2
    exit 2
fi
prepare() {
    "${PYTHON:-python}" datasets_prep/prepare.py "$@"
}
synthesized=$out/synthesized
rm -rf "$synthesized"

prepare bsd400 --source "$1" --out "$out" --sub-images 160 80
prepare synthesize rain --source "$1" --out "$synthesized/rain"
prepare rain100l-train --source "$synthesized/rain" --out "$out" --sub-images 160 80
prepare synthesize haze --source "$1" --out "$synthesized/haze" --per-image 4
prepare ots --source "$synthesized/haze" --out "$out" --sub-images 160 80

prepare clean --name Kodak12 --source "$2" --out "$out"
prepare synthesize rain --source "$2" --out "$synthesized/val_rain" --seed 1
prepare synthesize haze --source "$2" --out "$synthesized/val_haze" --seed 1
# Back to the photographs' own names, by which the five degradations of one photograph find each other.
for kind in rain haze; do
    mkdir "$synthesized/$kind-gt" "$synthesized/$kind-lq"
done
number=0
for photo in "$2"/*.*; do
    number=$((number + 1))
    name=$(basename "${photo%.*}").png
    four_digits=$(printf %04d $number)
    mv "$synthesized/val_rain/gt/norain-$number.png" "$synthesized/rain-gt/$name"
    mv "$synthesized/val_rain/rainy/rain-$number.png" "$synthesized/rain-lq/$name"
    mv "$synthesized/val_haze/clear/$four_digits.png" "$synthesized/haze-gt/$name"
    mv "$synthesized/val_haze/haze/part1/$four_digits"_* "$synthesized/haze-lq/$name"
done
for kind in rain haze; do
    prepare pairs --name Kodak12_$kind --gt "$synthesized/$kind-gt" --lq "$synthesized/$kind-lq" --out "$out"
done
rm -r "$synthesized"
touch "$out/complete"
