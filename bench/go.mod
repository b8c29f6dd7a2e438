module github.com/floway/floway/bench

go 1.26.0
