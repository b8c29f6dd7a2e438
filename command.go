package floway

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/floway/floway/access"
	"github.com/floway/floway/usage"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "floway",
		Usage: "usage|upstreams|models|check|ledger|key|login",
		Short: "Asks a running LLM gateway and makes client keys",
		Long: `
Asks a running gateway who used how much, how its upstream keys are doing and
how far its account has been delivered. The server is found like that of
` + "`caddy reload`" + `: by --address, or by the admin address of --config.
`,
		CobraFunc: func(cmd *cobra.Command) {
			onlySubcommands(cmd)
			cmd.PersistentFlags().String("address", "", "Address of the admin endpoint")
			cmd.PersistentFlags().StringP("config", "c", "", "Configuration file to find the admin address in")
			cmd.PersistentFlags().StringP("adapter", "a", "", "Adapter of the configuration file")
			cmd.AddCommand(usageCommand(), upstreamsCommand(), modelsCommand(), checkCommand(), ledgerCommand(), keyCommand(), loginCommand())
		},
	})
}

// ask sends a request to the admin endpoint. A refusal becomes an error in words.
func ask(fl caddycmd.Flags, method, uri string) (*http.Response, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), nil, fl.String("config"), fl.String("adapter"))
	if err != nil {
		return nil, fmt.Errorf("find the admin endpoint: %w", err)
	}
	res, err := caddycmd.AdminAPIRequest(address, method, uri, nil, nil)
	if err != nil {
		if strings.HasSuffix(err.Error(), syscall.ECONNREFUSED.Error()) { // Caddy does not wrap it
			return nil, fmt.Errorf("%w at %s: %w; is a server running there? --address or --config says where it is", errNoServer, address, err)
		}
		if refused := refusedBecause(err); refused != "" {
			return nil, errors.New(refused)
		}
		return nil, fmt.Errorf("ask the admin endpoint at %s: %w", address, err)
	}
	return res, nil
}

// refusedBecause finds the words of a refusal in what Caddy makes of it.
func refusedBecause(err error) string {
	_, answer, _ := strings.Cut(err.Error(), "caddy responded with error: HTTP ")
	_, body, _ := strings.Cut(answer, ": ")
	var refusal struct{ Error string }
	if json.Unmarshal([]byte(body), &refusal) != nil {
		return ""
	}
	return refusal.Error
}

// errNoServer: nobody listens where the admin endpoint should be.
var errNoServer = errors.New("ask the admin endpoint")

func askJSON(fl caddycmd.Flags, method, uri string, into any) error {
	res, err := ask(fl, method, uri)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		return unreadable(err)
	}
	return nil
}

// unreadable is the error of an answer that is not floway's: whatever listens at an
// address answers something.
func unreadable(err error) error {
	return fmt.Errorf("read the answer of the admin endpoint: %w; is that the admin address of a Caddy with floway?", err)
}

// onlySubcommands makes a word that is no command an error: without a function of
// its own a command would print its help and end well.
func onlySubcommands(cmd *cobra.Command) {
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}

// command makes a subcommand out of what it does.
func command(use, short string, flags func(*cobra.Command), run func(caddycmd.Flags, *cobra.Command) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs}
	if flags != nil {
		flags(cmd)
	}
	cmd.RunE = caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
		err := run(fl, cmd)
		var verdict *verdictError
		switch {
		case errors.As(err, &verdict):
			return verdict.code, err
		case err != nil:
			return caddy.ExitCodeFailedStartup, err
		}
		return caddy.ExitCodeSuccess, nil
	})
	return cmd
}

func usageCommand() *cobra.Command {
	flags := func(cmd *cobra.Command) {
		f := cmd.Flags()
		f.String("by", "client", "What to divide by: client, group, upstream, key, model, or several with commas")
		f.String("since", "30d", "From when: 24h, 7d, 2026-11, 2026-11-23, RFC 3339")
		f.String("until", "", "Until when; default now")
		f.String("bucket", "total", "How to divide time: total, hour, day or month")
		f.String("zone", "", "Time zone of days and months; default UTC")
		f.StringArray("where", nil, "Only these: client=alice,bob; repeatable")
		f.String("store", "", "Which store, if there are several")
		f.Bool("json", false, "Print JSON")
		f.Bool("csv", false, "Print CSV")
		cmd.MarkFlagsMutuallyExclusive("json", "csv")
	}
	cmd := command("usage", "Shows who used how much", flags, func(fl caddycmd.Flags, cmd *cobra.Command) error {
		v := url.Values{}
		for _, name := range []string{"by", "since", "until", "bucket", "zone", "store"} {
			if s := fl.String(name); s != "" {
				v.Set(name, s)
			}
		}
		where, err := cmd.Flags().GetStringArray("where")
		if err != nil {
			return err
		}
		for _, w := range where {
			name, names, ok := strings.Cut(w, "=")
			if !ok {
				return fmt.Errorf("--where %q: expected <dimension>=<name>,…", w)
			}
			if _, err := usage.ParseDimension(name); err != nil {
				return fmt.Errorf("--where: %w", err)
			}
			v.Add(name, names)
		}
		if fl.Bool("csv") {
			v.Set("format", "csv")
		}
		res, err := ask(fl, http.MethodGet, "/floway/usage?"+v.Encode())
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if fl.Bool("csv") || fl.Bool("json") {
			_, err := io.Copy(os.Stdout, res.Body)
			return err
		}
		return printUsage(os.Stdout, res.Body)
	})
	cmd.AddCommand(moveCommand())
	return cmd
}

// printUsage prints the answer as a table for people.
func printUsage(to io.Writer, from io.Reader) error {
	var answer struct {
		Since, Until string
		Bucket       string
		By           []string
		Rows         []map[string]any
		Sum          map[string]any
	}
	if err := json.NewDecoder(from).Decode(&answer); err != nil {
		return unreadable(err)
	}
	if len(answer.Rows) == 0 {
		fmt.Fprintln(to, "No requests in this time.")
		return nil
	}
	head := answer.By
	if answer.Bucket != usage.Total.String() {
		head = append([]string{"start"}, head...)
	}
	numbers := []string{"requests", "attempts", "errors", "input_tokens", "cache_read_tokens", "output_tokens", "estimated_attempts", "unknown_attempts"}
	titles := []string{"REQUESTS", "ATTEMPTS", "ERRORS", "INPUT", "CACHED", "OUTPUT", "ESTIMATED", "UNKNOWN"}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, h := range head {
		fmt.Fprint(w, strings.ToUpper(h), "\t")
	}
	fmt.Fprintln(w, strings.Join(titles, "\t"))
	line := func(row map[string]any, total bool) {
		for i, h := range head {
			name, _ := row[h].(string)
			switch {
			case total && i == 0:
				name = "TOTAL"
			case name == "" && !total:
				name = "-"
			}
			fmt.Fprint(w, name, "\t")
		}
		cells := make([]string, len(numbers))
		for i, n := range numbers {
			f, _ := row[n].(float64)
			cells[i] = strconv.FormatInt(int64(f), 10)
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	for _, row := range answer.Rows {
		line(row, false)
	}
	if len(answer.Rows) > 1 {
		line(answer.Sum, true)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(to, "\nFrom %s to %s.\n", answer.Since, answer.Until)
	return nil
}

func upstreamsCommand() *cobra.Command {
	flags := func(cmd *cobra.Command) {
		cmd.Flags().Bool("json", false, "Print JSON")
		cmd.Flags().String("reset", "", "Forget what is known of a key: <upstream>/<label>")
	}
	return command("upstreams", "Shows the upstream keys and how they are doing", flags, func(fl caddycmd.Flags, _ *cobra.Command) error {
		if key := fl.String("reset"); key != "" {
			upstream, label, ok := strings.Cut(key, "/")
			if !ok {
				return fmt.Errorf("--reset %q: expected <upstream>/<label>", key)
			}
			v := url.Values{"upstream": {upstream}, "key": {label}}
			return askJSON(fl, http.MethodPost, "/floway/upstreams/reset?"+v.Encode(), new(any))
		}
		if fl.Bool("json") {
			res, err := ask(fl, http.MethodGet, "/floway/upstreams")
			if err != nil {
				return err
			}
			defer res.Body.Close()
			_, err = io.Copy(os.Stdout, res.Body)
			return err
		}
		var answer struct{ Upstreams []upstreamReport }
		if err := askJSON(fl, http.MethodGet, "/floway/upstreams", &answer); err != nil {
			return err
		}
		return printUpstreams(os.Stdout, answer.Upstreams)
	})
}

func printUpstreams(to io.Writer, list []upstreamReport) error {
	if len(list) == 0 {
		fmt.Fprintln(to, "No floway block is running.")
		return nil
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "UPSTREAM\tKEY\tSTATE\tUNTIL\tIN FLIGHT\tSERVED\tSHARE\tWHY")
	for _, u := range list {
		for _, k := range u.Keys {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%.0f %%\t%s\n",
				u.Name, k.Label, k.State, clock(k.Until), k.InFlight, k.Served, 100*k.Share, k.Reason)
			if k.Account != nil {
				printAccount(w, k.Account)
			}
			for _, m := range k.Models {
				fmt.Fprintf(w, "\t  %s\t%s\t%s\t\t\t\t%s\n", m.Model, m.State, clock(m.Until), m.Reason)
			}
		}
		if u.ListErr != "" {
			fmt.Fprintf(w, "%s\t\t\t\t\t\t\tits models cannot be listed: %s\n", u.Name, u.ListErr)
		}
	}
	return w.Flush()
}

func modelsCommand() *cobra.Command {
	flags := func(cmd *cobra.Command) { cmd.Flags().Bool("json", false, "Print JSON") }
	return command("models", "Shows which upstreams serve which models", flags, func(fl caddycmd.Flags, _ *cobra.Command) error {
		if fl.Bool("json") {
			res, err := ask(fl, http.MethodGet, "/floway/models")
			if err != nil {
				return err
			}
			defer res.Body.Close()
			_, err = io.Copy(os.Stdout, res.Body)
			return err
		}
		var answer modelsReport
		if err := askJSON(fl, http.MethodGet, "/floway/models", &answer); err != nil {
			return err
		}
		return printModels(os.Stdout, &answer)
	})
}

func printModels(to io.Writer, answer *modelsReport) error {
	if len(answer.Upstreams) == 0 {
		fmt.Fprintln(to, "No floway block is running.")
		return nil
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MODEL\tUPSTREAM\tBY\tNATIVELY\tTRANSLATED")
	for _, m := range answer.Models {
		name := m.Model
		for _, s := range m.By {
			at := s.Upstream
			if s.Name != m.Model {
				at += " as " + s.Name
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", name, at, s.Rule, words(s.Native), words(s.Translated))
			name = ""
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(to)
	for _, u := range answer.Upstreams {
		what := "lists " + strconv.Itoa(u.Listed) + " models"
		switch {
		case u.Declared:
			what = "serves what its lines name"
		case u.Fetched == nil && u.Error == "" && u.Listed == 0:
			what = "lists nothing yet"
		case u.Error != "":
			what += "; its list cannot be fetched: " + u.Error
		}
		if u.Any {
			what += "; takes any name that no other claims"
		}
		fmt.Fprintf(to, "%s (%s): %s\n", u.Upstream, u.Provider, what)
	}
	return nil
}

// words spells a list that may be empty.
func words(list []string) string {
	if len(list) == 0 {
		return "-"
	}
	return strings.Join(list, " ")
}

func clock(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func checkCommand() *cobra.Command {
	flags := func(cmd *cobra.Command) { cmd.Flags().Bool("json", false, "Print JSON, a line for each key") }
	return command("check", "Tries every upstream key with a call that costs nothing", flags, func(fl caddycmd.Flags, _ *cobra.Command) error {
		res, err := ask(fl, http.MethodPost, "/floway/check")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		bad := 0
		lines := bufio.NewScanner(res.Body)
		for lines.Scan() {
			var c checkReport
			if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
				return unreadable(err)
			}
			if !c.OK && !c.Untried {
				bad++
			}
			switch {
			case fl.Bool("json"):
				fmt.Println(lines.Text())
			case c.OK:
				fmt.Printf("ok    %s %s: %d models, %d ms\n", c.Upstream, c.Key, c.Models, c.Millis)
			case c.Untried:
				fmt.Printf("-     %s %s: not tried: %s\n", c.Upstream, c.Key, c.Error)
			default:
				fmt.Printf("BAD   %s %s: %s\n", c.Upstream, c.Key, c.Error)
			}
		}
		if err := lines.Err(); err != nil {
			return fmt.Errorf("read the answer of the admin endpoint: %w", err)
		}
		if bad > 0 {
			return fmt.Errorf("%d of the upstream keys cannot be used", bad)
		}
		return nil
	})
}

func keyCommand() *cobra.Command {
	flags := func(cmd *cobra.Command) {
		cmd.Flags().Bool("digest", false, "Read a key from standard input and print the line for it")
	}
	return command("key", "Makes a client key, and the line for it in the Caddyfile", flags, func(fl caddycmd.Flags, _ *cobra.Command) error {
		if fl.Bool("digest") {
			line, err := bufio.NewReader(io.LimitReader(os.Stdin, 4096)).ReadString('\n')
			if err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("read the key: %w", err)
			}
			key := strings.TrimSpace(line)
			if len(key) < minSecret {
				return fmt.Errorf("the key is shorter than %d characters", minSecret)
			}
			fmt.Println(digestLine(key))
			return nil
		}
		key := newClientKey()
		fmt.Println("key for the client, shown only now:")
		fmt.Println("    " + key)
		fmt.Println("line for the client's block in the Caddyfile:")
		fmt.Println("    " + digestLine(key))
		return nil
	})
}

// newClientKey returns a key of 256 random bits.
func newClientKey() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return "sk-floway-" + hex.EncodeToString(b)
}

func digestLine(key string) string {
	d := access.DigestOf(key)
	return "key sha256:" + hex.EncodeToString(d[:])
}
