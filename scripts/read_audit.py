"""Read pip-audit's report from stdin, and say what is known against the lock.

Exit codes: 0 nothing; 1 something; 3 less than nine tenths of the packages were looked up, so that nothing can be said.
"""

import json
import sys

NEEDED_SHARE = 0.9


def main(report: str) -> int:
    found = json.loads(report)["dependencies"]
    looked_up = [entry for entry in found if "skip_reason" not in entry]
    known = [(entry, advisory) for entry in looked_up for advisory in entry["vulns"]]
    for entry, advisory in known:
        mended = ", ".join(advisory["fix_versions"]) or "no version yet"
        print(f"{entry['name']} {entry['version']}: {advisory['id']}, mended in {mended}")
    print(f"{len(looked_up)} of {len(found)} packages were looked up, {len(known)} advisories apply")
    if known:
        return 1
    return 3 if len(looked_up) < NEEDED_SHARE * len(found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.stdin.read()))
