package floway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/floway/floway/usage"
	"github.com/floway/floway/usage/boltstore"
	"github.com/floway/floway/usage/ledger"
)

// What an operator can ask of the ledgers and stores that are open, and do with
// those that nobody has open any more.

// ledgerReport is what is told of one ledger. Counts are since the start, but for
// those of dead letters.
type ledgerReport struct {
	Log      string         `json:"log"`
	Store    string         `json:"store"`
	Stream   usage.StreamID `json:"stream"`
	Epoch    uint64         `json:"epoch"`
	Last     uint64         `json:"last_record"`
	Position uint64         `json:"store_position"`

	LagRecords uint64  `json:"lag_records"`
	LagBytes   int64   `json:"lag_bytes"`
	LagSeconds float64 `json:"lag_seconds"`

	Open        int    `json:"open_attempts"`
	Settled     uint64 `json:"settled_attempts"`
	Estimated   uint64 `json:"estimated_attempts"`
	Unknown     uint64 `json:"unknown_attempts"`
	Corrected   uint64 `json:"corrections"`
	Uncorrected uint64 `json:"corrections_left_out"`
	Refused     uint64 `json:"refused_attempts"`
	Unrecorded  uint64 `json:"unrecorded_attempts"`
	Held        int    `json:"held_records"`
	Gaps        int    `json:"gaps"`
	Missing     uint64 `json:"missing_records"`
	DeadLetters uint64 `json:"dead_letters"`

	Segments int   `json:"segments"`
	Bytes    int64 `json:"bytes"`
	MaxBytes int64 `json:"max_bytes"`

	Unclean   bool `json:"unclean_start,omitempty"`
	Recovered int  `json:"recovered_attempts"`
	Doubtful  int  `json:"doubtful_attempts,omitempty"`

	Trouble     string     `json:"trouble,omitempty"`
	StoreError  string     `json:"store_error,omitempty"`
	Stopped     string     `json:"stopped,omitempty"`
	Warning     string     `json:"warning,omitempty"`
	Contact     *time.Time `json:"store_answered,omitempty"`
	SkewSeconds float64    `json:"clock_skew_seconds"`
}

func reportLedger(b *books) ledgerReport {
	s := b.ledger.Stats()
	return ledgerReport{
		Log: b.settings.log, Store: b.settings.sink,
		Stream: s.Stream, Epoch: s.Epoch, Last: s.Last, Position: s.Position,
		LagRecords: s.LagRecords, LagBytes: s.LagBytes, LagSeconds: s.LagAge.Seconds(),
		Open: s.Open, Settled: s.Settled, Estimated: s.Estimated, Unknown: s.Unknown,
		Corrected: s.Corrected, Uncorrected: s.Uncorrected,
		Refused: s.Refused, Unrecorded: s.Unrecorded, Held: s.Held,
		Gaps: s.Gaps, Missing: s.Missing, DeadLetters: s.DeadLetters,
		Segments: s.Segments, Bytes: s.Bytes, MaxBytes: s.MaxBytes,
		Unclean: s.Unclean, Recovered: s.Recovered, Doubtful: s.Doubtful,
		Trouble: s.Trouble, StoreError: s.StoreError, Stopped: s.Stopped, Warning: s.Warning,
		Contact: instant(s.Contact), SkewSeconds: s.Skew.Seconds(),
	}
}

// booksOf returns the books that are open, or the one with that log directory,
// each held open until it is released.
func booksOf(log string) (list []*books) {
	openBooks.Range(func(_, value any) bool {
		if b, ok := value.(*books); ok && (log == "" || b.settings.log == log) && b.hold() {
			list = append(list, b)
		}
		return true
	})
	slices.SortFunc(list, func(a, b *books) int { return slices.Compare([]byte(a.settings.log), []byte(b.settings.log)) })
	return list
}

// errNoLedger: no ledger is open, or not the one that was named.
var errNoLedger = errors.New("no such ledger is open; `caddy floway ledger` lists those that are")

// refusal is an error with a status for the admin endpoint.
func refusal(status int, format string, args ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, args...)}
}

// parameters reads the query of a request that may have only these, each once.
func parameters(r *http.Request, names ...string) (url.Values, error) {
	v := r.URL.Query()
	for name, values := range v {
		if !slices.Contains(names, name) || len(values) > 1 {
			return nil, refusal(http.StatusBadRequest, "parameter %.40q: there are %v, each once", name, names)
		}
	}
	return v, nil
}

// verifyReport is the comparison of one ledger with its store.
type verifyReport struct {
	Log    string         `json:"log"`
	Store  string         `json:"store"`
	Stream usage.StreamID `json:"stream"`
	// Result is equal, different, or unknown: then Why says what cannot be told.
	Result string   `json:"result"`
	Why    []string `json:"why,omitempty"`

	// The log holds the records behind Origin; those up to Position are compared.
	Origin   uint64     `json:"held_behind_record"`
	Position uint64     `json:"compared_up_to_record"`
	First    *time.Time `json:"held_since,omitempty"`

	Counted     usage.Counts       `json:"counted"`
	Totals      []differenceReport `json:"total_differences"`
	Rows        int                `json:"rows_compared"`
	Exact       int                `json:"rows_compared_exactly"`
	RowsSince   *time.Time         `json:"rows_since,omitempty"`
	Others      bool               `json:"other_streams"`
	Different   []differenceReport `json:"row_differences"`
	More        int                `json:"more_row_differences,omitempty"`
	Unbalanced  []differenceReport `json:"stream_differences"`
	DeadLetters uint64             `json:"dead_letters"`
}

// differenceReport is one counter that is not what it should be.
type differenceReport struct {
	Where  string `json:"where"`
	Bucket string `json:"bucket,omitempty"`
	Row    string `json:"row,omitempty"`
	Field  string `json:"field"`
	Log    int64  `json:"log"`
	Store  int64  `json:"store"`
}

const (
	verifiedEqual     = "equal"
	verifiedDifferent = "different"
	verifiedUnknown   = "unknown"

	// maxVerifyTime bounds a verification, during which nothing goes into the store.
	maxVerifyTime = 5 * time.Minute
)

func (b *books) verify(ctx context.Context) verifyReport {
	ctx, cancel := context.WithTimeout(ctx, maxVerifyTime)
	defer cancel()
	fresh, stop := context.WithTimeout(ctx, freshness)
	_ = b.ledger.Flush(fresh) // else it is compared as far as the store has it
	stop()
	r := verifyReport{
		Log: b.settings.log, Store: b.settings.sink, Stream: b.ledger.Stats().Stream, Result: verifiedUnknown,
		Totals: []differenceReport{}, Different: []differenceReport{}, Unbalanced: []differenceReport{},
	}
	v, err := b.ledger.Verify(ctx)
	if err != nil {
		r.Why = []string{err.Error()}
		return r
	}
	r.fill(v)
	return r
}

func (r *verifyReport) fill(v *ledger.Verification) {
	r.Stream, r.Origin, r.Position, r.First = v.Stream, v.Origin, v.Position, instant(v.First)
	r.Counted, r.DeadLetters = v.Log, v.DeadLetters
	r.Rows, r.Exact, r.RowsSince, r.Others, r.More = v.Rows.Compared, v.Rows.Exact, instant(v.Rows.Since), v.Rows.Others, v.Rows.More
	r.Totals = differences("totals of the stream", &v.Log, &v.Store)
	for _, d := range v.Rows.Differences {
		where := d.Table.String()
		if d.Table.Single() {
			where = fmt.Sprintf("%s %v", where, d.Dim)
		}
		var names []string
		for _, dim := range d.Table.Names(d.Dim) {
			names = append(names, d.Key[dim])
		}
		row, _ := json.Marshal(names) // strings only
		r.Different = append(r.Different, differenceReport{where, d.Bucket.Format(time.RFC3339), string(row), d.Field.String(), d.Log, d.Store})
	}
	for d := range usage.Dimension(usage.Dimensions) {
		where := fmt.Sprintf("all streams against all months by %v", d)
		r.Unbalanced = append(r.Unbalanced, differences(where, &v.Balance.Streams, &v.Balance.Months[d])...)
	}

	different := len(r.Different) > 0
	if v.Unsure && len(r.Totals) > 0 {
		r.Why = append(r.Why, "what the stream counted before the first record that the log holds is not known, or records are missing in between")
	} else {
		different = different || len(r.Totals) > 0
	}
	for _, g := range v.Gaps {
		r.Why = append(r.Why, fmt.Sprintf("records %d to %d are missing", g.From, g.To))
	}
	if len(r.Unbalanced) > 0 && !v.Balance.Quiet {
		r.Why = append(r.Why, "other instances were writing, so streams and months could not be compared: try again")
	} else {
		different = different || len(r.Unbalanced) > 0
	}
	switch {
	case different:
		r.Result = verifiedDifferent
	case len(r.Why) == 0:
		r.Result = verifiedEqual
	}
	if different && r.DeadLetters > 0 {
		r.Why = append(r.Why, fmt.Sprintf("the store put %d increments of this stream aside, which it could not book (dead letters)", r.DeadLetters))
	}
}

func differences(where string, log, store *usage.Counts) []differenceReport {
	list := []differenceReport{}
	for f := range log {
		if log[f] != store[f] {
			list = append(list, differenceReport{Where: where, Field: usage.Field(f).String(), Log: log[f], Store: store[f]})
		}
	}
	return list
}

func adminVerify(w http.ResponseWriter, r *http.Request) error {
	v, err := parameters(r, "log")
	if err != nil {
		return err
	}
	list := booksOf(v.Get("log"))
	if len(list) == 0 {
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: errNoLedger}
	}
	reports := []verifyReport{}
	for _, b := range list {
		reports = append(reports, b.verify(r.Context()))
		b.release()
	}
	writeJSON(w, map[string]any{"ledgers": reports})
	return nil
}

// resumeTimeout is how long a stream may take to go on.
const resumeTimeout = 10 * time.Second

func adminResume(w http.ResponseWriter, r *http.Request) error {
	v, err := parameters(r, "log")
	if err != nil {
		return err
	}
	list := booksOf(v.Get("log"))
	defer func() {
		for _, b := range list {
			b.release()
		}
	}()
	switch {
	case len(list) == 0:
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: errNoLedger}
	case len(list) > 1:
		return refusal(http.StatusBadRequest, "there are several ledgers; name one of them by log=…")
	}
	b := list[0]
	if err := b.ledger.Resume(); err != nil {
		return refusal(http.StatusConflict, "the ledger in %s has not stopped: there is nothing to resume", b.settings.log)
	}
	ctx, cancel := context.WithTimeout(r.Context(), resumeTimeout)
	defer cancel()
	for b.ledger.Stats().Stopped != "" && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	_ = b.ledger.Flush(ctx) // what is left is in the report
	writeJSON(w, reportLedger(b))
	return nil
}

// adoptReport says what an adopted log added to a store.
type adoptReport struct {
	Dir    string         `json:"dir"`
	Store  string         `json:"store"`
	Stream usage.StreamID `json:"stream"`
	// Recovered is how many attempts were found open.
	Recovered int `json:"recovered_attempts"`
	// Added is what the store counts more than before.
	Added   usage.Counts `json:"added"`
	Gaps    int          `json:"gaps"`
	Missing uint64       `json:"missing_records"`
	// Verified is the comparison of log and store afterwards.
	Verified verifyReport `json:"verified"`
}

// maxAdoptTime bounds how long a log is delivered at a time. What is left waits for
// the next try.
const maxAdoptTime = 10 * time.Minute

func adminAdopt(w http.ResponseWriter, r *http.Request) error {
	v, err := parameters(r, "dir", "resume")
	if err != nil {
		return err
	}
	dir := v.Get("dir")
	if !filepath.IsAbs(dir) {
		return refusal(http.StatusBadRequest, "dir %.200q is not an absolute path on this server", dir)
	}
	a, err := adopt(r.Context(), filepath.Clean(dir), v.Get("resume") == "true")
	if err != nil {
		return err
	}
	writeJSON(w, a)
	return nil
}

// adopt delivers the log in dir, which nobody has open any more, to the store that
// it belongs to. The log itself and the store's position in it see to it that
// nothing is counted twice, however often that is done.
func adopt(ctx context.Context, dir string, resume bool) (*adoptReport, error) {
	ctx, cancel := context.WithTimeout(ctx, maxAdoptTime)
	defer cancel()
	who, err := ledger.Identify(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, refusal(http.StatusNotFound, "%s holds no ledger: name the directory with the files \"stream\" and *.log in it", dir)
	case err != nil:
		return nil, caddy.APIError{HTTPStatus: http.StatusConflict, Err: err}
	}
	if list := booksOf(dir); len(list) > 0 {
		list[0].release()
		return nil, refusal(http.StatusConflict, "%s is a ledger of this server, which delivers it by itself", dir)
	}
	b, err := storeOf(ctx, dir, who)
	if err != nil {
		return nil, err
	}
	defer b.release()

	before, err := b.store.Hello(ctx, who.Stream)
	if err != nil {
		return nil, caddy.APIError{HTTPStatus: http.StatusBadGateway, Err: err}
	}
	led, err := ledger.Open(ledger.Config{Dir: dir, Store: b.store, Sink: who.Sink, Log: b.log})
	switch {
	case errors.Is(err, ledger.ErrLocked):
		return nil, refusal(http.StatusConflict, "%s is in use by another process: as long as that one lives it delivers the ledger by itself; stop it first", dir)
	case err != nil:
		return nil, caddy.APIError{HTTPStatus: http.StatusConflict, Err: err}
	}
	err = led.Flush(ctx)
	if stopped := led.Stats().Stopped != ""; err != nil && stopped && resume {
		if err = led.Resume(); err == nil {
			err = flushResumed(ctx, led)
		}
	} else if stopped {
		err = fmt.Errorf("%w (here: by --resume)", err)
	}
	s := led.Stats()
	report := &adoptReport{Dir: dir, Store: b.settings.sink, Stream: s.Stream, Recovered: s.Recovered, Gaps: s.Gaps, Missing: s.Missing}
	if err == nil {
		adopted := &books{settings: b.settings, ledger: led, store: b.store}
		adopted.settings.log = dir
		report.Verified = adopted.verify(ctx)
	}
	closing, stop := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer stop()
	if cerr := led.Close(closing); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, refusal(http.StatusBadGateway, "the ledger in %s is not wholly in the store; nothing is lost, try again: %w", dir, err)
	}
	after, err := b.store.Hello(ctx, s.Stream)
	if err != nil {
		return nil, caddy.APIError{HTTPStatus: http.StatusBadGateway, Err: err}
	}
	report.Added = after.Position.Totals
	if s.Stream == who.Stream {
		for f, n := range before.Position.Totals {
			report.Added[f] -= n
		}
	}
	return report, nil
}

// flushResumed is Flush of a stream that was told to go on.
func flushResumed(ctx context.Context, led *ledger.Ledger) error {
	for led.Stats().Stopped != "" {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return led.Flush(ctx)
}

// storeOf finds the open store that a log belongs to: the one of that address, or
// the very same one under another. Its books are held.
func storeOf(ctx context.Context, dir string, who ledger.Identity) (*books, error) {
	list := booksOf("")
	var found *books
	var names []string
	for _, b := range list {
		names = append(names, b.settings.sink)
		if b.settings.sink == who.Sink {
			found = b
		}
	}
	for _, b := range list {
		if found == nil {
			// A store that has counted some of the log knows its name, also where the
			// log's process died before it took down the store's.
			g, err := b.store.Hello(ctx, who.Stream)
			if err == nil && (g.Known || who.Genesis != "" && g.Genesis == who.Genesis) {
				found = b
			}
		}
	}
	for _, b := range list {
		if b != found {
			b.release()
		}
	}
	if found == nil {
		return nil, refusal(http.StatusConflict, "the ledger in %s belongs to the store %q; this server keeps its account in %q: "+
			"ask a server that uses that store, or add a floway block with it here", dir, who.Sink, names)
	}
	return found, nil
}

// moveReport says what was moved. While a move is under way, only Rows and Of tell
// how far it is.
type moveReport struct {
	Rows    uint64        `json:"rows"`
	Of      uint64        `json:"of"`
	Error   string        `json:"error,omitempty"`
	Done    bool          `json:"done"`
	Before  bool          `json:"moved_before,omitempty"`
	Expired uint64        `json:"expired_rows,omitempty"`
	From    string        `json:"from,omitempty"`
	To      string        `json:"to,omitempty"`
	Months  []string      `json:"months,omitempty"`
	Counted *usage.Counts `json:"counted,omitempty"`
	// Even says that all streams of the store and all its months are equal; it is
	// left out if others were writing meanwhile.
	Even *bool `json:"even,omitempty"`
}

// adminMove answers line by line, as rows arrive.
func adminMove(w http.ResponseWriter, r *http.Request) error {
	v, err := parameters(r, "dir", "log", "no_log", "store")
	if err != nil {
		return err
	}
	dir := v.Get("dir")
	if dir == "" {
		dir = defaultDir()
	}
	log := v.Get("log")
	if log == "" {
		log = filepath.Join(dir, "ledger")
	}
	if !filepath.IsAbs(dir) || !filepath.IsAbs(log) {
		return refusal(http.StatusBadRequest, "dir %.200q or log %.200q is not an absolute path on this server", dir, log)
	}
	if v.Get("no_log") == "true" {
		log = ""
	}
	to, err := redisBooks(v.Get("store"))
	if err != nil {
		return err
	}
	defer to.release()
	from, err := openHistory(r.Context(), filepath.Clean(dir), log, to)
	if err != nil {
		return err
	}
	defer from.Close()

	w.Header().Set("Content-Type", "application/x-ndjson")
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	say := func(m moveReport) {
		_ = enc.Encode(m)
		_ = flush.Flush()
	}
	m, err := usage.MoveHistory(r.Context(), from, to.store, to.settings.sink, func(done, all uint64) { say(moveReport{Rows: done, Of: all}) })
	if err != nil {
		say(moveReport{Error: err.Error()})
		return nil
	}
	report := moveReport{
		Rows: m.Rows, Of: m.Rows, Done: true, Before: m.Before, Expired: m.Expired,
		From: from.String(), To: to.settings.sink, Counted: &m.Totals,
	}
	if months, err := from.Months(r.Context()); err == nil {
		for _, at := range months {
			report.Months = append(report.Months, at.Format("2006-01"))
		}
	}
	if b, err := usage.Weigh(r.Context(), to.store); err == nil && (b.Quiet || b.Even()) {
		even := b.Even()
		report.Even = &even
	}
	say(report)
	return nil
}

// redisBooks returns the books of the Redis store of that name, or of the only one;
// they are held.
func redisBooks(sink string) (*books, error) {
	var found *books
	var names []string
	for _, b := range booksOf("") {
		fits := b.settings.store == storeRedis && (sink == "" || b.settings.sink == sink)
		if fits && !slices.Contains(names, b.settings.sink) {
			names = append(names, b.settings.sink)
		}
		if fits && found == nil {
			found = b
			continue
		}
		b.release()
	}
	switch {
	case found == nil && sink == "":
		return nil, refusal(http.StatusConflict, "no account is kept in Redis here: write `usage redis <url>` into the Caddyfile and reload, then move the history")
	case found == nil:
		return nil, caddy.APIError{HTTPStatus: http.StatusNotFound, Err: errNoStore}
	case len(names) > 1:
		found.release()
		return nil, refusal(http.StatusBadRequest, "there are several stores in Redis; name one of them by store=…: %q", names)
	}
	return found, nil
}

// openHistory opens the embedded store in dir, which nobody may be counting in, and
// brings it up to date with its log.
func openHistory(ctx context.Context, dir, log string, to *books) (*boltstore.Store, error) {
	path := filepath.Join(dir, storeFile)
	if _, err := os.Stat(path); err != nil {
		return nil, refusal(http.StatusNotFound, "%s holds no embedded store: %w; name the directory that was written behind `usage embedded`", dir, err)
	}
	if n, _ := stores.References(embeddedSink(dir)); n > 0 {
		return nil, refusal(http.StatusConflict, "this server still counts in %s: write `usage redis <url>` in its place, reload, and wait until the last request of before has ended", path)
	}
	s, err := boltstore.Open(path, boltstore.Options{Retention: to.store.Retention(), Moved: true})
	if err != nil {
		return nil, caddy.APIError{HTTPStatus: http.StatusConflict, Err: err}
	}
	if err := deliver(ctx, s, dir, log, to); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// deliver brings what the log holds into the embedded store.
func deliver(ctx context.Context, s *boltstore.Store, dir, log string, to *books) error {
	moved, err := s.Moved(ctx)
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusConflict, Err: err}
	}
	if log == "" || moved != (usage.Moved{}) {
		return nil // there is none, or it was delivered before the move began
	}
	who, err := ledger.Identify(log)
	if errors.Is(err, fs.ErrNotExist) {
		return refusal(http.StatusNotFound, "%s holds no ledger, and what it has not delivered yet would be left out: name the directory that was written as `log`, "+
			"or say that there is none (--log, --no-log)", log)
	}
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusConflict, Err: err}
	}
	g, err := s.Hello(ctx, who.Stream)
	if err == nil && who.Sink != embeddedSink(dir) && who.Genesis != g.Genesis {
		err = fmt.Errorf("the ledger in %s belongs to the store %q, not to the one in %s", log, who.Sink, dir)
	}
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusConflict, Err: err}
	}
	led, err := ledger.Open(ledger.Config{Dir: log, Store: s, Sink: who.Sink, Log: to.log})
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusConflict, Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, maxAdoptTime)
	defer cancel()
	if err := errors.Join(led.Flush(ctx), led.Close(ctx)); err != nil {
		return refusal(http.StatusConflict, "bring the ledger in %s into the embedded store: %w", log, err)
	}
	return nil
}
