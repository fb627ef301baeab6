#!/bin/bash
# Writes a report and runs report_browser_test.mjs on it.
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
node "$(dirname "${BASH_SOURCE[0]}")/report_browser_test.mjs" "$folder/report.html" "$chromium" "$package"
