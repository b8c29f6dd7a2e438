#!/bin/sh
# Builds Caddy with the floway of this checkout, by a pinned xcaddy.
#
#   ./xcaddy.sh [<caddy-version>] [<option of "xcaddy build">...]
#
#   ./xcaddy.sh                                  ./caddy, in the current directory
#   ./xcaddy.sh --output /usr/local/bin/caddy
#   ./xcaddy.sh --with github.com/caddy-dns/cloudflare
#   CADDY_VERSION=v2.11.9 ./xcaddy.sh
#
# Caddy's version defaults to the one that go.mod names, which is also the oldest
# that will do. GOOS and GOARCH build for another system, XCADDY_* are xcaddy's own.

set -eu

case ${1-} in
-h | --help)
	sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
	exit
	;;
'' | -*) ;;
*)
	CADDY_VERSION=$1
	shift
	;;
esac

output=caddy$(go env GOEXE) previous=
for argument do
	case $previous in --output) output=$argument ;; esac
	case $argument in --output=*) output=${argument#*=} ;; esac
	previous=$argument
done

root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
export GOWORK=off
export CADDY_VERSION="${CADDY_VERSION:-$(go list -C "$root" -m -f '{{.Version}}' github.com/caddyserver/caddy/v2)}"

# xcaddy works in TMPDIR, so whatever an interrupted build leaves goes with it.
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
trap 'exit 1' HUP INT TERM

# xcaddy runs here, whatever system Caddy is built for; and from the caller's
# directory, so that relative paths among the options mean what they say.
GOOS='' GOARCH='' go build -C "$root/tools/xcaddy" -o "$TMPDIR/xcaddy" github.com/caddyserver/xcaddy/cmd/xcaddy
# A module that is not published yet needs a version to be replaced at all.
"$TMPDIR/xcaddy" build --with "github.com/floway/floway@v0.0.0=$root" "$@"

echo "xcaddy.sh: built $output: Caddy $CADDY_VERSION with floway from $root"
