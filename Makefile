# What a contributor needs: make alone lists it.

.DEFAULT_GOAL := help
.PHONY: help run build test lint bench faults fmt

# Each module is built as its own go.mod says.
export GOWORK := off

CADDY := build/caddy
SOURCES := $(shell find . \( -name '.?*' -o -path ./build -o -path ./bench -o -path ./docs -o -path ./e2e -o -path ./examples -o -path ./tools \) -prune \
	-o -type f ! -name '*_test.go' ! -name '*.md' ! -path ./caddy -print)
TESTFLAGS := -race -shuffle=on -timeout 10m

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(CADDY) ## build Caddy with floway and start the quickstart, which needs no keys
	$(CADDY) run --config examples/quickstart/Caddyfile

build: $(CADDY) ## build Caddy with floway into build/caddy

$(CADDY): $(SOURCES)
	./xcaddy.sh --output $@

test: ## bring what the tests need, lint, then run every test with the race detector
	./tools/prerequisites.sh
	./tools/lint.sh
	go test $(TESTFLAGS) ./...
	cd e2e && go test $(TESTFLAGS) ./...
	cd bench && go test $(TESTFLAGS) ./...
	cd examples/ownprovider && go test $(TESTFLAGS) ./...

lint: ## gofmt, gofumpt, go vet, staticcheck and govulncheck on all modules
	./tools/lint.sh

bench: ## compare with Caddy's reverse_proxy; make bench ARGS=-help tells more
	cd bench && go run . $(ARGS)

faults: ## kill, cut and starve all that keeps the account, and compare; ARGS='-run F3,F9', ARGS=-break
	cd e2e && go test -count=1 -timeout 3h -v ./faults -args -scale full $(ARGS)

fmt: ## format all Go code
	go tool -modfile=tools/lint/go.mod gofumpt -w .
