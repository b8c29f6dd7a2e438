#!/bin/sh
# Lints every module of the tree with the versions pinned in tools/lint/go.mod.
set -eu

cd "$(dirname -- "$0")/.."
export GOWORK=off
root=$PWD

tool() {
	go tool -modfile="$root/tools/lint/go.mod" "$@"
}

echo 'lint: gofmt, gofumpt'
unformatted=$(
	gofmt -l .
	tool gofumpt -l .
)
if [ -n "$unformatted" ]; then
	echo "not formatted; type: make fmt"
	echo "$unformatted" | sort -u
	exit 1
fi >&2

# Only a database that answers has a date.
vulnerabilities=skip
if tool govulncheck -version | grep -q '^DB updated:'; then
	vulnerabilities=look
else
	echo 'lint: govulncheck skipped: its database cannot be reached'
fi

for mod in go.mod */go.mod examples/*/go.mod; do
	module=$(dirname "$mod")
	(
		cd "$module"
		echo "lint: $module: go vet, staticcheck"
		go vet ./...
		tool staticcheck ./...
		if [ $vulnerabilities = look ]; then
			echo "lint: $module: govulncheck"
			tool govulncheck ./...
		fi
	)
done
