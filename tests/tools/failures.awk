# What each failed test said, in few lines: for the end of a long log.
#
# Reads what results.awk reads. Of a Rust test the panics count, and where it names its case; of anything
# else, of a test that was ended without a word, and of a runner that named no test, the last that it said.
# Usage: awk -f failures.awk LOG
BEGIN { LINES_MAX = 15; PANICS_MAX = 3; WIDTH_MAX = 500 }
function say(line) { print "    " (length(line) > WIDTH_MAX ? substr(line, 1, WIDTH_MAX) " …" : line) }
function forget() { name = ""; count = 0 }
# Nothing of ours: what the runner frames a test with.
function is_frame(line) {
  return line ~ /^[ ─]*$/ || line ~ /^ *(stdout|stderr|output) ───/ || line ~ /^ *running [0-9]+ tests?$/ ||
    line ~ /^ *test .* \.\.\. FAILED$/ || line ~ /^ *test result: / || line ~ /^ *failures:$/ || line ~ /^ *note: run with /
}
function tell(    at, left, panics, seen) {
  if (name == "") return
  told++
  print "---- " name
  for (at = 1; at <= count; at++) {
    if (lines[at] ~ / panicked at /) {
      left = (++panics <= PANICS_MAX) ? LINES_MAX : 0
    } else if (lines[at] ~ /^ *(note: run with|stack backtrace:)/) {
      left = 0
    } else if (lines[at] ~ /^ *failed in /) {
      if (!left) { say(lines[at]); continue }
    }
    if (left > 0 && !is_frame(lines[at])) { say(lines[at]); left-- }
  }
  if (!panics) {
    for (at = count; at >= 1 && seen < LINES_MAX; at--) if (!is_frame(lines[at])) last[++seen] = lines[at]
    while (seen) say(last[seen--])
  }
  forget()
}
function keep(line) { lines[++count] = line }

{ gsub(/\033\[[0-9;]*m/, "") }
/^ +Summary \[/ { tell(); exit }
/^ +(FAIL|TIMEOUT|ABORT|SIG[A-Z]+|LEAK-FAIL) \[/ {
  tell()
  name = $0; sub(/^ +/, "", name); runner = "nextest"
  next
}
/^ +(PASS|SKIP|LEAK|SLOW|START|SETUP|TERMINATING|TRY [0-9]+ [A-Z]+) *\[/ { if (runner == "nextest") tell(); next }
# cargo test repeats what failed tests said under such a heading.
/^---- .* stdout ----$/ { tell(); name = $2; runner = "cargo"; next }
runner == "cargo" && /^failures:$/ { tell(); runner = ""; next }
/^not ok / { if (name == "") name = $0; tell(); next }
/^(ok|skip) / { forget(); next }
{ keep($0) }
END { if (!told && name == "" && count) name = "(no test)"; tell() }
