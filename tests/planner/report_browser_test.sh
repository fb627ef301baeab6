#!/bin/bash
# Writes a report of each command that has one and runs report_browser_test.mjs on them.
#
#   report_browser_test.sh RECKON SCENARIO PLAYWRIGHT_CORE
#
# PLAYWRIGHT_CORE: folder of the npm package; it is installed with
#   ./setup packages chromium nodejs npm
#   npm install --prefix build/browser playwright-core
# Exit 77, skipped with the reason, where it, Chromium or node is missing.
set -euo pipefail
reckon=$1 scenario=$2 package=$3
skip() {
  echo "skipped: $*"
  exit 77
}
command -v node > /dev/null || skip "no node (./setup packages chromium nodejs npm)"
chromium=$(command -v chromium) || skip "no chromium (./setup packages chromium nodejs npm)"
[ -d "$package" ] || skip "no playwright-core (npm install --prefix build/browser playwright-core)"
folder=$(mktemp -d "${TMPDIR:-/tmp}/reckon-report-XXXXXX")
trap 'rm -rf "$folder"' EXIT
status=0
"$reckon" plan "$scenario" --report "$folder/report.html" > "$folder/out" || status=$?
[ $status -le 1 ] || exit $status  # 1: an answer, no plan meets the budget

# Pages of the other commands, of a search that takes a moment.
small=$(dirname "$scenario")/qwen3-235b-256-h100.json
sed 's|^  "campaign"|  "search": {"tp": [2, 4], "pp": [8], "micro_batch": [1], "precision": ["bf16"]},\n  "codesign": {"shape": {"top_k": [4, 8], "expert_ffn": [1024, 1536]}, "activated": {"parameters": 22e9, "within": 0.5}},\n&|' \
  "$small" > "$folder/small.json"
write() {  # COMMAND [OPTIONS...]
  "$reckon" "$@" "$folder/small.json" --report "$folder/$1.html" > "$folder/out" || [ $? -eq 1 ]
}
write explain
write sweep --vary "cluster.fabric.nic=25,50 GB/s" --vary cluster.gpus=128,256
write codesign
"$reckon" validate "$(dirname "$scenario")/tiny-moe-2-cpu.json" --steps 1 --report "$folder/validate.html" > "$folder/out"
node "$(dirname "${BASH_SOURCE[0]}")/report_browser_test.mjs" "$folder/report.html,$folder/explain.html,$folder/sweep.html,$folder/codesign.html,$folder/validate.html" \
  "$chromium" "$package" ${SCREENSHOTS:+"$SCREENSHOTS"}
