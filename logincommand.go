package floway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/floway/floway/provider"
)

func loginCommand() *cobra.Command {
	login := &cobra.Command{Use: "login", Short: "Signs accounts in that take no key"}
	onlySubcommands(login)
	flags := func(cmd *cobra.Command) {
		f := cmd.Flags()
		f.String("host", "", "Where to sign in: github.com, or the domain of an enterprise such as octo.ghe.com; default that of the upstream")
		f.Bool("sign-out", false, "Sign the seat out")
		f.Bool("json", false, "Print JSON")
	}
	copilot := command("copilot [<name>]", "Signs a seat of GitHub Copilot in or out; without a name lists them", flags, func(fl caddycmd.Flags, _ *cobra.Command) error {
		name := fl.Arg(0)
		if name != "" {
			if err := provider.CheckSignInName(name); err != nil {
				return err
			}
		}
		desk, err := findDesk(fl)
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		switch {
		case name == "" && fl.Bool("sign-out"):
			return errors.New("--sign-out needs the name of a seat")
		case name == "":
			return listSeats(ctx, os.Stdout, desk, fl.Bool("json"))
		case fl.Bool("sign-out"):
			if err := desk.signOut(ctx, name); err != nil {
				return err
			}
			fmt.Printf("%s is signed out. What was granted at GitHub stays so until it is revoked there, under Settings, Applications.\n", name)
			return nil
		}
		return signIn(ctx, os.Stdout, desk, name, fl.Bool("json"))
	})
	copilot.Args = cobra.MaximumNArgs(1)
	login.AddCommand(copilot)
	return login
}

// desk is where seats are signed in: the running server, or the storage itself.
type desk interface {
	list(ctx context.Context) ([]provider.SignIn, error)
	signOut(ctx context.Context, name string) error
	// start begins a sign-in, wait returns what it came to.
	start(ctx context.Context, name string) (loginReport, error)
	wait(ctx context.Context, name string) (loginReport, error)
}

func listSeats(ctx context.Context, to io.Writer, d desk, asJSON bool) error {
	list, err := d.list(ctx)
	switch {
	case err != nil:
		return err
	case asJSON:
		return json.NewEncoder(to).Encode(map[string]any{"seats": list})
	case len(list) == 0:
		fmt.Fprintln(to, "No seat is signed in; type: caddy floway login copilot <name>")
		return nil
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tACCOUNT\tAT\tSINCE")
	for _, s := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Name, s.Login, s.Host, clock(&s.Since))
	}
	return w.Flush()
}

// signIn shows the code, waits until it was typed, and prints the line for the
// Caddyfile.
func signIn(ctx context.Context, to io.Writer, d desk, name string, asJSON bool) error {
	l, err := d.start(ctx, name)
	if err != nil {
		return err
	}
	if asJSON {
		_ = json.NewEncoder(to).Encode(l)
	} else {
		fmt.Fprintf(to, "Open %s and type the code %s (good until %s).\nWaiting for you there; Ctrl-C gives the sign-in up.\n", l.URL, l.Code, clock(&l.Expires))
	}
	l, err = d.wait(ctx, name)
	switch {
	case ctx.Err() != nil:
		return errors.New("the sign-in was given up; nothing was kept of it")
	case err != nil:
		return err
	case l.State != loginDone:
		return errors.New(l.Error)
	case asJSON:
		return json.NewEncoder(to).Encode(l)
	}
	fmt.Fprintf(to, "%s is signed in as %s. Line for the upstream's block in the Caddyfile:\n    key %s%s\n", name, l.Login, provider.SignInPrefix, name)
	return nil
}

// findDesk prefers the running server, whose upstreams then know at once. Without one
// it is the storage of the configuration.
func findDesk(fl caddycmd.Flags) (desk, error) {
	s := &serverDesk{fl: fl, host: fl.String("host")}
	_, err := s.list(context.Background())
	if err == nil || !errors.Is(err, errNoServer) {
		return s, err
	}
	if fl.String("address") != "" {
		return nil, err // it was said to be there
	}
	return openStorageDesk(fl)
}

// serverDesk asks the admin endpoint.
type serverDesk struct {
	fl   caddycmd.Flags
	host string
}

const loginPath = "/floway/login/copilot"

func (s *serverDesk) uri(path, name string) string {
	v := url.Values{}
	if name != "" {
		v.Set("name", name)
	}
	if s.host != "" {
		v.Set("host", s.host)
	}
	return path + "?" + v.Encode()
}

func (s *serverDesk) list(context.Context) ([]provider.SignIn, error) {
	var r loginsReport
	err := askJSON(s.fl, http.MethodGet, s.uri(loginPath, ""), &r)
	return r.Seats, err
}

func (s *serverDesk) signOut(_ context.Context, name string) error {
	return askJSON(s.fl, http.MethodDelete, s.uri(loginPath, name), new(any))
}

func (s *serverDesk) start(_ context.Context, name string) (l loginReport, err error) {
	err = askJSON(s.fl, http.MethodPost, s.uri(loginPath, name), &l)
	return l, err
}

func (s *serverDesk) wait(ctx context.Context, name string) (loginReport, error) {
	for {
		select {
		case <-ctx.Done():
			return loginReport{}, errors.Join(ctx.Err(), askJSON(s.fl, http.MethodPost, s.uri(loginPath+"/cancel", name), new(any)))
		case <-time.After(time.Second):
		}
		var r loginsReport
		if err := askJSON(s.fl, http.MethodGet, s.uri(loginPath, name), &r); err != nil {
			return loginReport{}, err
		}
		if len(r.Logins) == 0 {
			return loginReport{}, errors.New("the server knows nothing of the sign-in any more; was it restarted?")
		}
		if r.Logins[0].State != loginPending {
			return r.Logins[0], nil
		}
	}
}

// storageDesk works on the storage itself.
type storageDesk struct {
	config  any // as it was read
	storage provider.Storage
	host    string
	begun   *provider.Login
}

func openStorageDesk(fl caddycmd.Flags) (desk, error) {
	raw, file, _, err := caddycmd.LoadConfig(fl.String("config"), fl.String("adapter"))
	if err != nil {
		return nil, fmt.Errorf("read the configuration for its storage: %w", err)
	}
	var c struct {
		Storage json.RawMessage `json:"storage"`
	}
	d := &storageDesk{host: fl.String("host")}
	if len(raw) > 0 {
		if err := errors.Join(json.Unmarshal(raw, &c), json.Unmarshal(raw, &d.config)); err != nil {
			return nil, fmt.Errorf("read the configuration for its storage: %w", err)
		}
	}
	ctx, err := caddy.ProvisionContext(&caddy.Config{StorageRaw: c.Storage})
	if err != nil {
		return nil, fmt.Errorf("open the configuration's storage: %w", err)
	}
	d.storage = ctx.Storage()
	of := "Caddy's default storage"
	if file != "" {
		of = "the storage of " + file
	}
	fmt.Fprintf(os.Stderr, "No server is running; using %s.\n", of)
	return d, nil
}

func (d *storageDesk) signIns(name string) (*provider.SignIns, error) {
	host := d.host
	if host == "" {
		host = configuredHost(d.config, provider.SignInPrefix+name)
	}
	host, err := resolve(host)
	if err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	return &provider.SignIns{Storage: d.storage, Host: host}, nil
}

// configuredHost finds the option host of the upstream that has the key; empty if
// there is none.
func configuredHost(config any, key string) string {
	switch v := config.(type) {
	case []any:
		for _, e := range v {
			if host := configuredHost(e, key); host != "" {
				return host
			}
		}
	case map[string]any:
		keys, _ := v["keys"].([]any)
		for _, k := range keys {
			if k, _ := k.(map[string]any); k["secret"] == key {
				options, _ := v["options"].(map[string]any)
				if host, _ := options["host"].([]any); len(host) == 1 {
					s, _ := host[0].(string)
					return s
				}
			}
		}
		for _, e := range v {
			if host := configuredHost(e, key); host != "" {
				return host
			}
		}
	}
	return ""
}

func (d *storageDesk) list(ctx context.Context) ([]provider.SignIn, error) {
	in, err := d.signIns("")
	if err != nil {
		return nil, err
	}
	return in.List(ctx)
}

func (d *storageDesk) signOut(ctx context.Context, name string) error {
	in, err := d.signIns(name)
	if err != nil {
		return err
	}
	return in.SignOut(ctx, name)
}

func (d *storageDesk) start(ctx context.Context, name string) (loginReport, error) {
	in, err := d.signIns(name)
	if err != nil {
		return loginReport{}, err
	}
	if d.begun, err = in.Start(ctx, name); err != nil {
		return loginReport{}, err
	}
	return newLoginReport(d.begun), nil
}

func (d *storageDesk) wait(ctx context.Context, _ string) (loginReport, error) {
	l := newLoginReport(d.begun)
	in, err := d.begun.Wait(ctx)
	if err != nil {
		return l, err
	}
	l.State, l.Login = loginDone, in.Login
	return l, nil
}

// printAccount prints what is known of the account behind a key.
func printAccount(w io.Writer, a *accountReport) {
	for _, q := range a.Quotas {
		left := fmt.Sprintf("%.4g of %.4g left", q.Left, q.Entitled)
		if q.Unlimited {
			left = "without limit"
		}
		if q.Overage {
			left += ", more may be used at a price"
		}
		fmt.Fprintf(w, "\t  quota %s\t%s\t%s\t\t\t\t%s\n", strings.ReplaceAll(q.Name, "_", " "), quotaState(&q), clock(q.Reset), left)
	}
	if a.Trouble != "" {
		fmt.Fprintf(w, "\t  account\t\t\t\t\t\t%s\n", a.Trouble)
	}
}

func quotaState(q *quotaReport) string {
	if !q.Unlimited && q.Left <= 0 && q.Percent <= 0 {
		return "spent"
	}
	return "ok"
}
