#!/bin/sh
# Brings what the tests need beside Go: a redis-server, and a C compiler for the
# race detector. Installs what is missing where that takes no password; elsewhere
# prints the line to type, and fails.
set -eu

has_compiler() {
	echo '#include <stdlib.h>' | $(go env CC) -x c -fsyntax-only - 2>/dev/null
}

has_redis() {
	command -v redis-server >/dev/null
}

if has_compiler && has_redis; then
	exit
fi

line='install redis-server and a C compiler with your package manager'
if command -v apt-get >/dev/null; then
	packages=
	has_compiler || packages='gcc libc6-dev'
	has_redis || packages="$packages redis-server"
	line="sudo apt-get update && sudo apt-get install $packages"
	if [ "$(id -u)" = 0 ]; then
		sudo=env
	else
		sudo='sudo -n env'
	fi
	if $sudo true 2>/dev/null; then
		echo "prerequisites: apt-get install" $packages
		$sudo apt-get update -qq || true
		$sudo DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $packages || true
		# Debian starts a server with the package; the tests start their own.
		if [ -d /run/systemd/system ] && [ "${packages%redis-server}" != "$packages" ]; then
			$sudo systemctl disable --quiet --now redis-server || true
		fi
	fi
elif command -v brew >/dev/null; then
	line='brew install redis'
	has_compiler || line='xcode-select --install'
	has_redis || brew install --quiet redis || true
fi

if ! has_compiler || ! has_redis; then
	echo "prerequisites: the tests need redis-server and a C compiler; type: $line" >&2
	exit 1
fi
