# Extra flags for go test, such as GOTESTFLAGS='-run Redis -v'.
GOTESTFLAGS ?=
# What to check and test, such as PKG=./internal/brokerd.
PKG ?= ./...

STATICCHECK := go run honnef.co/go/tools/cmd/staticcheck@v0.8.2

# What make soak runs, and for how long.
SOAK ?= -broker redis -for 10m

.PHONY: help test check lint bench bench-tiny soak

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: ## install the servers that the tests need, where missing, and run all tests
	scripts/install-test-servers
	LINDA_TEST_REQUIRE=$$(scripts/install-test-servers --list) go test -race -p 1 -timeout 15m $(GOTESTFLAGS) $(PKG)

check: lint test bench-tiny ## all that must pass before a change is merged

lint: ## formatting, vet, staticcheck, and a tidy go.mod
	@unformatted=$$(gofmt -l .) && test -z "$$unformatted" || { echo "run gofmt -w on:" $$unformatted; exit 1; }
	go vet $(PKG)
	$(STATICCHECK) $(PKG)
	go mod tidy -diff
	cd bench && go vet . && $(STATICCHECK) . && go mod tidy -diff

bench: ## measure linda beside asynq and a bare loop; rewrites docs/performance.md and .svg
	cd bench && go run .

bench-tiny: ## a few jobs of each measurement, to see that it works
	cd bench && go run . -tiny

soak: ## kill, stop and cut workers and server for 10 minutes and check every job; SOAK='-broker redis -for 24h'
	go run ./cmd/lindachaos $(SOAK)
