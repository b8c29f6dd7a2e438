package floway

import (
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/ledger"
)

// The collectors are made once for the process, so that they keep their counts
// over reloads. Their labels are names that the configuration spells.
var (
	attemptsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "floway", Name: "attempts_total",
		Help: "Attempts at upstreams that have ended, by outcome.",
	}, []string{"upstream", "operation", "outcome"})
	requestsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "floway", Name: "requests_total",
		Help: "Requests that were sent to an upstream and have ended, by the outcome of their last attempt.",
	}, []string{"client", "operation", "outcome"})
	tokensTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "floway", Name: "tokens_total",
		Help: "Tokens used, by kind: input, cache_read, cache_write or output.",
	}, []string{"upstream", "kind"})
	firstByteSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "caddy", Subsystem: "floway", Name: "first_byte_seconds",
		Help:    "Time from sending an attempt to its first content.",
		Buckets: prometheus.ExponentialBuckets(0.01, 2, 14),
	}, []string{"upstream"})
	durationSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "caddy", Subsystem: "floway", Name: "duration_seconds",
		Help:    "Time from sending an attempt to its end.",
		Buckets: prometheus.ExponentialBuckets(0.01, 2, 16),
	}, []string{"upstream"})
)

// stateCollector tells values that are read when they are asked for.
type stateCollector struct {
	keys, unestimated *prometheus.Desc
	ledgers           []ledgerMetric
}

// ledgerMetric is a number of each ledger.
type ledgerMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*ledger.Stats) float64
}

func ledgerValue(name, help string, kind prometheus.ValueType, value func(*ledger.Stats) float64) ledgerMetric {
	return ledgerMetric{prometheus.NewDesc("caddy_floway_"+name, help, []string{"log"}, nil), kind, value}
}

var states = stateCollector{
	keys: prometheus.NewDesc("caddy_floway_keys", "Keys of an upstream by their state.", []string{"upstream", "state"}, nil),
	unestimated: prometheus.NewDesc("caddy_floway_unestimated_total",
		"Attempts without a report of usage that are counted by their bytes alone, because too many waited for the tokenizer.", nil, nil),
	ledgers: []ledgerMetric{
		ledgerValue("ledger_lag_records", "Records that the store has not yet taken in.", prometheus.GaugeValue,
			func(s *ledger.Stats) float64 { return float64(s.LagRecords) }),
		ledgerValue("ledger_lag_seconds", "Age of the oldest settled attempt that the store has not yet taken in.", prometheus.GaugeValue,
			func(s *ledger.Stats) float64 { return s.LagAge.Seconds() }),
		ledgerValue("ledger_bytes", "Bytes that the ledger takes on the disk.", prometheus.GaugeValue,
			func(s *ledger.Stats) float64 { return float64(s.Bytes) }),
		ledgerValue("ledger_max_bytes", "Bytes that the ledger may take on the disk.", prometheus.GaugeValue,
			func(s *ledger.Stats) float64 { return float64(s.MaxBytes) }),
		ledgerValue("ledger_open_attempts", "Attempts that are under way.", prometheus.GaugeValue,
			func(s *ledger.Stats) float64 { return float64(s.Open) }),
		ledgerValue("ledger_unknown_total", "Attempts of which nobody knows what they used, those found open at the start among them.", prometheus.CounterValue,
			func(s *ledger.Stats) float64 { return float64(s.Unknown) }),
		ledgerValue("ledger_estimated_total", "Attempts whose use is estimated, wholly or partly.", prometheus.CounterValue,
			func(s *ledger.Stats) float64 { return float64(s.Estimated) }),
		ledgerValue("ledger_refused_total", "Attempts that were refused, since they could not be recorded.", prometheus.CounterValue,
			func(s *ledger.Stats) float64 { return float64(s.Refused) }),
		ledgerValue("ledger_missing_records_total", "Records that could not be read.", prometheus.CounterValue,
			func(s *ledger.Stats) float64 { return float64(s.Missing) }),
		ledgerValue("ledger_dead_letters", "Increments of the stream that the store could not book, ever.", prometheus.GaugeValue,
			func(s *ledger.Stats) float64 { return float64(s.DeadLetters) }),
		ledgerValue("ledger_stopped", "1 if nothing is delivered until somebody decides, else 0.", prometheus.GaugeValue,
			func(s *ledger.Stats) float64 { return oneIf(s.Stopped != "") }),
		ledgerValue("ledger_trouble", "1 if the disk takes no records, else 0.", prometheus.GaugeValue,
			func(s *ledger.Stats) float64 { return oneIf(s.Trouble != "") }),
		ledgerValue("ledger_clock_skew_seconds", "How far the store's clock is ahead.", prometheus.GaugeValue,
			func(s *ledger.Stats) float64 { return s.Skew.Seconds() }),
		ledgerValue("unrecorded_total", "Attempts that could not be recorded.", prometheus.CounterValue,
			func(s *ledger.Stats) float64 { return float64(s.Unrecorded) }),
	},
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func (s stateCollector) Describe(out chan<- *prometheus.Desc) {
	out <- s.keys
	out <- s.unestimated
	for _, m := range s.ledgers {
		out <- m.desc
	}
}

func (s stateCollector) Collect(out chan<- prometheus.Metric) {
	counts := map[[2]string]int{}
	for _, h := range generations.handlers() {
		for _, u := range h.Upstreams {
			for _, k := range u.upstream.Pool.States() {
				counts[[2]string{u.Name, k.State.String()}]++
			}
		}
	}
	for k, n := range counts {
		out <- prometheus.MustNewConstMetric(s.keys, prometheus.GaugeValue, float64(n), k[0], k[1])
	}
	out <- prometheus.MustNewConstMetric(s.unestimated, prometheus.CounterValue, float64(estimates.Skipped()))
	openBooks.Range(func(key, value any) bool {
		if b, ok := value.(*books); ok {
			st := b.ledger.Stats()
			for _, m := range s.ledgers {
				out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(&st), key.(string))
			}
		}
		return true
	})
}

// registerMetrics registers the collectors in the configuration's registry. A
// second handler of the same configuration finds them there already.
func registerMetrics(ctx caddy.Context) error {
	registry := ctx.GetMetricsRegistry()
	if registry == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{attemptsTotal, requestsTotal, tokensTotal, firstByteSeconds, durationSeconds, states} {
		if err := registry.Register(c); err != nil {
			var already prometheus.AlreadyRegisteredError
			if !errors.As(err, &already) {
				return err
			}
		}
	}
	return nil
}

// settled counts an attempt that has ended.
func settled(r *usage.Record) {
	outcome := r.Outcome.String()
	attemptsTotal.WithLabelValues(r.Upstream, r.Operation, outcome).Inc()
	if r.Final {
		requestsTotal.WithLabelValues(r.Client, r.Operation, outcome).Inc()
	}
	if !r.Estimating { // else when they are estimated: counters cannot go back
		countTokens(r)
	}
	if r.FirstByte > 0 {
		firstByteSeconds.WithLabelValues(r.Upstream).Observe(r.FirstByte.Seconds())
	}
	durationSeconds.WithLabelValues(r.Upstream).Observe(r.Duration.Seconds())
}

// countTokens counts what an attempt used, once nothing about it changes any more.
func countTokens(r *usage.Record) {
	for _, t := range [...]struct {
		kind string
		n    int64
	}{
		{"input", r.Tokens.Input},
		{"cache_read", r.Tokens.CacheRead},
		{"cache_write", r.Tokens.CacheWrite + r.Tokens.CacheWrite1h},
		{"output", r.Tokens.Output},
	} {
		if t.n > 0 {
			tokensTotal.WithLabelValues(r.Upstream, t.kind).Add(float64(t.n))
		}
	}
}
