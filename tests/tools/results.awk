# Turns the output of test runners into one line per test: "passed|failed|skipped <suite>::<name>".
#
# Reads three forms: cargo nextest ("PASS [ 0.1s] crate::binary name"), cargo test
# ("test name ... ok"), and that of our own scripts ("ok name", "not ok name", "skip name reason").
# Usage: awk -v suite=NAME -f results.awk LOG
function result(kind, name) { gsub(/[ \t]+/, " ", name); print kind, suite "::" name }
{ gsub(/\033\[[0-9;]*m/, "") }
# cargo nextest repeats its failures after the summary.
/^ +Summary \[/ { summary = 1 }
!summary && /^ +PASS \[/ { sub(/^ +PASS \[[^]]*\] *(\([^)]*\) *)?/, ""); result("passed", $0); next }
!summary && /^ +(FAIL|TIMEOUT|ABORT|SIG[A-Z]+|LEAK-FAIL|LEAK) \[/ {
  kind = ($1 == "LEAK") ? "passed" : "failed"
  sub(/^ +[A-Z-]+ \[[^]]*\] *(\([^)]*\) *)?/, ""); result(kind, $0); next
}
!summary && /^ +SKIP \[/ { sub(/^ +SKIP \[[^]]*\] *(\([^)]*\) *)?/, ""); result("skipped", $0); next }
/^test .* \.\.\. ok$/ { sub(/^test /, ""); sub(/ \.\.\. ok$/, ""); result("passed", $0); next }
/^test .* \.\.\. FAILED$/ { sub(/^test /, ""); sub(/ \.\.\. FAILED$/, ""); result("failed", $0); next }
/^test .* \.\.\. ignored/ { sub(/^test /, ""); sub(/ \.\.\. ignored.*$/, ""); result("skipped", $0); next }
/^ok / { sub(/^ok /, ""); result("passed", $0); next }
/^not ok / { sub(/^not ok /, ""); result("failed", $0); next }
/^skip / { result("skipped", $2); next }
