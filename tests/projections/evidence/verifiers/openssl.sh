#!/usr/bin/env bash
# Checks a proof file with openssl, xxd and coreutils alone: openssl.sh VKEY inclusion PROOF SCRATCH
set -euo pipefail
vkey=$1 file=$3 scratch=$4

bytes() { xxd -r -p; }
hash_of() { bytes | sha256sum | cut -c1-64; }
hex_of_base64() { base64 -d <<<"$1" | xxd -p -c 64; }

# The checkpoint stands behind the first empty line, its text before the next one.
sed '1,/^$/d' "$file" >"$scratch/checkpoint"
sed '/^$/,$d' "$scratch/checkpoint" >"$scratch/text"
signature=$(sed -n 's/^— [^ ]* //p' "$scratch/checkpoint" | head -n 1)
base64 -d <<<"$signature" | tail -c 64 >"$scratch/signature"
{ # SubjectPublicKeyInfo of an Ed25519 key, RFC 8410
    bytes <<<302a300506032b6570032100
    base64 -d <<<"${vkey#*+*+}" | tail -c 32
} >"$scratch/public.der"
openssl pkeyutl -verify -pubin -keyform DER -inkey "$scratch/public.der" -rawin \
    -in "$scratch/text" -sigfile "$scratch/signature" >/dev/null

size=$(sed -n 2p "$scratch/text")
root=$(hex_of_base64 "$(sed -n 3p "$scratch/text")")
node=$(sed -n 's/^index //p' "$file") last=$((size - 1))
found=$({ printf '\0'; sed -n 's/^extra //p' "$file" | base64 -d; } | sha256sum | cut -c1-64)
while read -r encoded; do
    sibling=$(hex_of_base64 "$encoded")
    if ((node % 2 == 1 || node == last)); then
        found=$(hash_of <<<"01$sibling$found")
        while ((node % 2 == 0 && node > 0)); do node=$((node / 2)) last=$((last / 2)); done
    else
        found=$(hash_of <<<"01$found$sibling")
    fi
    node=$((node / 2)) last=$((last / 2))
done < <(sed '/^$/,$d' "$file" | sed 1,3d)
[[ $last == 0 && $found == "$root" ]]
