package floway

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/floway/floway/usage"
)

// verdictError ends a command with an exit code of its own.
type verdictError struct {
	code int
	err  error
}

func (v *verdictError) Error() string { return v.err.Error() }

// copyJSON prints the answer of the admin endpoint as it is.
func copyJSON(fl caddycmd.Flags, method, uri string) error {
	res, err := ask(fl, method, uri)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(os.Stdout, res.Body)
	return err
}

func ledgerCommand() *cobra.Command {
	flags := func(cmd *cobra.Command) { cmd.Flags().Bool("json", false, "Print JSON") }
	cmd := command("ledger", "Shows how far the account has been delivered to the store", flags, func(fl caddycmd.Flags, _ *cobra.Command) error {
		if fl.Bool("json") {
			return copyJSON(fl, http.MethodGet, "/floway/ledger")
		}
		list, err := askLedgers(fl, "")
		if err != nil {
			return err
		}
		return printLedgers(os.Stdout, list)
	})
	cmd.AddCommand(verifyCommand(), resumeCommand(), adoptCommand())
	return cmd
}

// askLedgers asks for all ledgers, or for the one with that log directory.
func askLedgers(fl caddycmd.Flags, log string) (list []ledgerReport, err error) {
	var answer struct{ Ledgers []ledgerReport }
	if err := askJSON(fl, http.MethodGet, "/floway/ledger", &answer); err != nil {
		return nil, err
	}
	for _, l := range answer.Ledgers {
		if log == "" || l.Log == log {
			list = append(list, l)
		}
	}
	if log != "" && len(list) == 0 {
		return nil, fmt.Errorf("no ledger in %s is open; `caddy floway ledger` lists those that are", log)
	}
	return list, nil
}

func printLedgers(to io.Writer, list []ledgerReport) error {
	if len(list) == 0 {
		fmt.Fprintln(to, "No account is kept.")
		return nil
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for i, l := range list {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "LOG\t%s\n", l.Log)
		fmt.Fprintf(w, "STORE\t%s\n", l.Store)
		fmt.Fprintf(w, "STREAM\t%v, opening %d\n", l.Stream, l.Epoch)
		fmt.Fprintf(w, "RECORDS\t%d, the store has %d\n", l.Last, l.Position)
		fmt.Fprintf(w, "NOT YET DELIVERED\t%d records, %s, the oldest for %s\n", l.LagRecords, size(l.LagBytes), span(l.LagSeconds))
		fmt.Fprintf(w, "STORE ANSWERED\t%s, its clock is %s\n", clock(l.Contact), ahead(l.SkewSeconds))
		fmt.Fprintf(w, "UNDER WAY\t%d attempts\n", l.Open)
		fmt.Fprintf(w, "SETTLED\t%d attempts since the start, %d estimated, %d unknown (%d of them left open by a process that died)\n",
			l.Settled, l.Estimated, l.Unknown, l.Recovered)
		fmt.Fprintf(w, "CORRECTED\t%d times, %d corrections left out\n", l.Corrected, l.Uncorrected)
		fmt.Fprintf(w, "NOT RECORDED\t%d attempts, %d more were refused\n", l.Unrecorded, l.Refused)
		fmt.Fprintf(w, "GAPS\t%d, with %d records\n", l.Gaps, l.Missing)
		fmt.Fprintf(w, "DEAD LETTERS\t%d increments that the store could not book, ever\n", l.DeadLetters)
		fmt.Fprintf(w, "DISK\t%s of %s in %d files\n", size(l.Bytes), size(l.MaxBytes), l.Segments)
		if l.Held > 0 {
			fmt.Fprintf(w, "TROUBLE\t%d records wait in memory for the disk\n", l.Held)
		}
		if l.Doubtful > 0 {
			fmt.Fprintf(w, "TROUBLE\t%d attempts lay beside damage and may be counted or not\n", l.Doubtful)
		}
		for _, trouble := range []string{l.Trouble, l.StoreError, l.Stopped, l.Warning} {
			if trouble != "" {
				fmt.Fprintf(w, "TROUBLE\t%s\n", trouble)
			}
		}
	}
	return w.Flush()
}

func span(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Millisecond).String()
}

func ahead(seconds float64) string {
	if seconds < 0 {
		return span(-seconds) + " behind"
	}
	return span(seconds) + " ahead"
}

func size(bytes int64) string {
	if bytes < 1<<20 {
		return fmt.Sprintf("%d KiB", (bytes+1<<10-1)>>10)
	}
	return fmt.Sprintf("%d MiB", bytes>>20)
}

func verifyCommand() *cobra.Command {
	flags := func(cmd *cobra.Command) {
		cmd.Flags().Bool("json", false, "Print JSON")
		cmd.Flags().String("log", "", "Which ledger, by its directory; default all")
	}
	cmd := command("verify", "Compares the ledger with the store", flags, func(fl caddycmd.Flags, _ *cobra.Command) error {
		v := url.Values{}
		if log := fl.String("log"); log != "" {
			v.Set("log", log)
		}
		res, err := ask(fl, http.MethodPost, "/floway/ledger/verify?"+v.Encode())
		if err != nil {
			return &verdictError{2, err}
		}
		defer res.Body.Close()
		var answer struct{ Ledgers []verifyReport }
		raw, err := io.ReadAll(res.Body)
		if err == nil {
			err = json.Unmarshal(raw, &answer)
		}
		if err != nil {
			return &verdictError{2, unreadable(err)}
		}
		if fl.Bool("json") {
			if _, err := os.Stdout.Write(raw); err != nil {
				return err
			}
		} else if err := printVerified(os.Stdout, answer.Ledgers); err != nil {
			return err
		}
		return verdict(answer.Ledgers)
	})
	cmd.Long = `
Adds up the records of the ledger and compares the sums with what the store has
counted: the totals of this stream; each row that the records make; and all
streams with all months. While that is done, nothing goes into the store.

Where other instances count in the same store, a row must have as much as the
records make, at least; where nobody else does, it must be equal. Of records that
the ledger has let go of, because the store had them for long, only the sum is
known, as it was when they went.

Exit code: 0 equal, 1 different, 2 cannot be told.
`
	return cmd
}

// verdict makes an exit code of what was found.
func verdict(list []verifyReport) error {
	var worst *verdictError
	for _, r := range list {
		switch r.Result {
		case verifiedEqual:
		case verifiedDifferent:
			return &verdictError{1, errors.New("the store does not have what the ledger says")}
		default:
			worst = &verdictError{2, errors.New("it cannot be told whether the store has what the ledger says")}
		}
	}
	if worst != nil {
		return worst
	}
	return nil
}

func printVerified(to io.Writer, list []verifyReport) error {
	for i := range list {
		r := &list[i]
		if i > 0 {
			fmt.Fprintln(to)
		}
		w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
		fmt.Fprintf(w, "LOG\t%s\n", r.Log)
		fmt.Fprintf(w, "STORE\t%s\n", r.Store)
		switch {
		case r.Position == 0 && len(r.Why) > 0: // nothing could be compared
			printVerdict(w, r)
			if err := w.Flush(); err != nil {
				return err
			}
			continue
		case r.Origin == 0:
			fmt.Fprintf(w, "LOG HOLDS\tall of this stream, records 1 to %d%s\n", r.Position, since(r.First))
		case r.Position <= r.Origin:
			fmt.Fprintf(w, "LOG HOLDS\tnothing yet of this stream; up to record %d its sum is remembered\n", r.Origin)
		default:
			fmt.Fprintf(w, "LOG HOLDS\trecords %d to %d%s; up to record %d only their sum is remembered\n", r.Origin+1, r.Position, since(r.First), r.Origin)
		}
		fmt.Fprintf(w, "TOTALS\t%d requests, %d attempts, %d tokens: %s\n",
			r.Counted[usage.Requests], r.Counted[usage.Attempts], r.Counted.TotalTokens(), found(len(r.Totals)))
		fmt.Fprintf(w, "ROWS\t%d compared: %s\n", r.Rows, found(len(r.Different)+r.More))
		switch {
		case r.Exact == r.Rows:
		case r.Others:
			fmt.Fprintf(w, "\tother instances count in this store, so that a row may have more than this ledger makes it\n")
		default:
			fmt.Fprintf(w, "\tin %d of them the store may have more: the log does not hold all that belongs there\n", r.Rows-r.Exact)
		}
		if r.RowsSince != nil {
			fmt.Fprintf(w, "\tthere are too many rows: those before %s were not compared\n", clock(r.RowsSince))
		}
		fmt.Fprintf(w, "STREAMS\tall streams of the store against all its months: %s\n", found(len(r.Unbalanced)))
		printVerdict(w, r)
		if err := w.Flush(); err != nil {
			return err
		}
		if err := printDifferences(to, r); err != nil {
			return err
		}
	}
	return nil
}

func printVerdict(w io.Writer, r *verifyReport) {
	fmt.Fprintf(w, "RESULT\t%s\n", r.Result)
	for _, why := range r.Why {
		fmt.Fprintf(w, "\t%s\n", why)
	}
}

func printDifferences(to io.Writer, r *verifyReport) error {
	var list []differenceReport
	list = append(append(append(list, r.Totals...), r.Different...), r.Unbalanced...)
	if len(list) == 0 {
		return nil
	}
	fmt.Fprintln(to)
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHERE\tBUCKET\tROW\tFIELD\tLEDGER\tSTORE\tDIFFERENCE")
	for _, d := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%+d\n", d.Where, d.Bucket, d.Row, d.Field, d.Log, d.Store, d.Store-d.Log)
	}
	if r.More > 0 {
		fmt.Fprintf(w, "and %d more\n", r.More)
	}
	return w.Flush()
}

func found(differences int) string {
	switch differences {
	case 0:
		return "no difference"
	case 1:
		return "1 DIFFERENCE"
	}
	return fmt.Sprintf("%d DIFFERENCES", differences)
}

func since(t *time.Time) string {
	if t == nil {
		return ""
	}
	return ", since " + clock(t)
}

func resumeCommand() *cobra.Command {
	flags := func(cmd *cobra.Command) {
		cmd.Flags().String("log", "", "Which ledger, by its directory, if several have stopped")
		cmd.Flags().Bool("yes", false, "Do it, and do not only say what would be done")
	}
	return command("resume", "Lets a ledger go on that has stopped to deliver", flags, func(fl caddycmd.Flags, _ *cobra.Command) error {
		list, err := askLedgers(fl, fl.String("log"))
		if err != nil {
			return err
		}
		var stopped []ledgerReport
		for _, l := range list {
			if l.Stopped != "" {
				stopped = append(stopped, l)
			}
		}
		switch len(stopped) {
		case 0:
			fmt.Println("No ledger has stopped: there is nothing to resume.")
			return nil
		case 1:
		default:
			return errors.New("several ledgers have stopped: name one of them by --log; `caddy floway ledger` lists them")
		}
		l := stopped[0]
		if !fl.Bool("yes") {
			fmt.Printf(`The ledger in %s
has stopped: %s.

It has records up to %d; the store acknowledged those up to %d.
If it is resumed, it takes a new name and delivers what comes behind that. Nothing
is delivered of which the store may have counted something already: should there
be such records, they are left out, reported as a gap, and stay in the log.
`, l.Log, l.Stopped, l.Last, l.Position)
			return errors.New("nothing was changed; say --yes to resume the ledger")
		}
		var after ledgerReport
		if err := askJSON(fl, http.MethodPost, "/floway/ledger/resume?"+url.Values{"log": {l.Log}}.Encode(), &after); err != nil {
			return err
		}
		if after.Stopped != "" {
			return fmt.Errorf("the ledger has stopped again: %s", after.Stopped)
		}
		fmt.Printf("The ledger goes on as stream %v. The store has its records up to %d of %d; %d are missing.\n",
			after.Stream, after.Position, after.Last, after.Missing)
		return nil
	})
}

func adoptCommand() *cobra.Command {
	flags := func(cmd *cobra.Command) {
		cmd.Flags().Bool("json", false, "Print JSON")
		cmd.Flags().Bool("resume", false, "Go on behind what was acknowledged, if the store has lost the ledger's position")
	}
	cmd := command("adopt <dir>", "Delivers the ledger of a host that is gone", flags, func(fl caddycmd.Flags, cmd *cobra.Command) error {
		dir, err := filepath.Abs(cmd.Flags().Arg(0))
		if err != nil {
			return err
		}
		v := url.Values{"dir": {dir}}
		if fl.Bool("resume") {
			v.Set("resume", "true")
		}
		uri := "/floway/ledger/adopt?" + v.Encode()
		if fl.Bool("json") {
			return copyJSON(fl, http.MethodPost, uri)
		}
		var a adoptReport
		if err := askJSON(fl, http.MethodPost, uri, &a); err != nil {
			return err
		}
		return printAdopted(os.Stdout, &a)
	})
	cmd.Args = cobra.ExactArgs(1)
	cmd.Long = `
Delivers what the ledger in a directory still holds into the store that it belongs
to. The running server does it, which must use the same store and be able to read
and write the directory: mount the disk of the host that is gone, or copy all of
the directory. It can be done again and again: nothing is counted twice. Attempts
that were under way when the host died are counted as unknown.
`
	return cmd
}

func printAdopted(to io.Writer, a *adoptReport) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "LOG\t%s\n", a.Dir)
	fmt.Fprintf(w, "STORE\t%s\n", a.Store)
	fmt.Fprintf(w, "ADDED\t%d requests, %d attempts, %d tokens, %d unknown outcomes\n",
		a.Added[usage.Requests], a.Added[usage.Attempts], a.Added.TotalTokens(), a.Added[usage.UnknownAttempts])
	fmt.Fprintf(w, "FOUND OPEN\t%d attempts\n", a.Recovered)
	fmt.Fprintf(w, "GAPS\t%d, with %d records\n", a.Gaps, a.Missing)
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(to)
	if err := printVerified(to, []verifyReport{a.Verified}); err != nil {
		return err
	}
	if a.Verified.Result == verifiedEqual {
		fmt.Fprintf(to, "\nAll of it is in the store. %s is not needed any more.\n", a.Dir)
	}
	return nil
}

func moveCommand() *cobra.Command {
	flags := func(cmd *cobra.Command) {
		cmd.Flags().String("dir", "", "Directory of the embedded store; default the server's own")
		cmd.Flags().String("log", "", "Directory of its ledger; default ledger in --dir")
		cmd.Flags().Bool("no-log", false, "There is no ledger")
		cmd.Flags().String("store", "", "Which Redis, if there are several")
		cmd.Flags().Bool("json", false, "Print JSON, a line for each step")
	}
	cmd := command("move", "Carries an embedded history into Redis", flags, func(fl caddycmd.Flags, _ *cobra.Command) error {
		v := url.Values{}
		for _, name := range []string{"dir", "log"} {
			if path := fl.String(name); path != "" {
				abs, err := filepath.Abs(path)
				if err != nil {
					return err
				}
				v.Set(name, abs)
			}
		}
		if fl.Bool("no-log") {
			v.Set("no_log", "true")
		}
		if s := fl.String("store"); s != "" {
			v.Set("store", s)
		}
		res, err := ask(fl, http.MethodPost, "/floway/usage/move?"+v.Encode())
		if err != nil {
			return err
		}
		defer res.Body.Close()
		return printMove(os.Stdout, res.Body, fl.Bool("json"))
	})
	cmd.Long = `
Carries everything that was counted in an embedded store into the Redis that the
running server uses now: write ` + "`usage redis <url>`" + ` in place of ` + "`usage embedded`" + `, reload,
and say this. It can be said again after whatever went wrong, and goes on where it
was. From its beginning on the embedded store takes nothing in any more.
`
	return cmd
}

// printMove prints the lines of a move as they come.
func printMove(to io.Writer, from io.Reader, asJSON bool) error {
	var last moveReport
	terminal := isTerminal(os.Stderr)
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		last = moveReport{}
		if err := json.Unmarshal(lines.Bytes(), &last); err != nil {
			return fmt.Errorf("read the answer of the admin endpoint: %w", err)
		}
		switch {
		case asJSON:
			fmt.Fprintln(to, lines.Text())
		case terminal && !last.Done && last.Error == "":
			fmt.Fprintf(os.Stderr, "\r%d of %d rows", last.Rows, last.Of)
		}
	}
	if terminal && !asJSON {
		fmt.Fprint(os.Stderr, "\r\033[K")
	}
	switch err := lines.Err(); {
	case err != nil:
		return fmt.Errorf("read the answer of the admin endpoint: %w; say it again, and it goes on where it was", err)
	case last.Error != "":
		return fmt.Errorf("%s; what has arrived counts, and the next try goes on behind it", last.Error)
	case !last.Done:
		return errors.New("the server broke off; say it again, and the move goes on where it was")
	case asJSON:
		return nil
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "FROM\t%s\n", last.From)
	fmt.Fprintf(w, "TO\t%s\n", last.To)
	if len(last.Months) > 0 {
		fmt.Fprintf(w, "MONTHS\t%s\n", strings.Join(last.Months, " "))
	}
	fmt.Fprintf(w, "ROWS\t%d, and %d more are past their retention\n", last.Rows-last.Expired, last.Expired)
	if c := last.Counted; c != nil {
		fmt.Fprintf(w, "COUNTED\t%d requests, %d attempts, %d tokens\n", c[usage.Requests], c[usage.Attempts], c.TotalTokens())
	}
	switch {
	case last.Even == nil:
		fmt.Fprintf(w, "CHECK\tothers are writing; `caddy floway ledger verify` compares all streams with all months\n")
	case *last.Even:
		fmt.Fprintf(w, "CHECK\tall streams of the store and all its months are equal\n")
	default:
		fmt.Fprintf(w, "CHECK\tALL STREAMS AND ALL MONTHS ARE NOT EQUAL: see `caddy floway ledger verify`\n")
	}
	if last.Before {
		fmt.Fprintf(w, "RESULT\tit was all there before; nothing was changed\n")
	} else {
		fmt.Fprintf(w, "RESULT\tmoved\n")
	}
	return w.Flush()
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
