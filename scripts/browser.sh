#!/usr/bin/env bash
# Makes sure that a browser is there for the test that opens the report in one.
set -euo pipefail

found() { command -v chromium || command -v google-chrome; }

if browser=$(found); then
    echo "browser: $browser"
    exit 0
fi

as_root=()
if [[ $(id -u) -ne 0 ]]; then
    as_root=(sudo -n)
fi
if ! command -v apt-get >/dev/null || ! "${as_root[@]}" true 2>/dev/null; then
    echo 'browser: neither chromium nor google-chrome was found, and it cannot be installed here;' >&2
    echo 'browser: install one of them (on Debian, as root: apt-get install chromium)' >&2
    exit 1
fi

echo 'browser: installing chromium with apt-get (about 100 MB)'
"${as_root[@]}" apt-get update -qq -o DPkg::Lock::Timeout=300
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 chromium >/dev/null
browser=$(found)
echo "browser: $browser"
