package harness

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// Authority is a Caddy that issues certificates by ACME.
type Authority struct {
	// Directory is the URL that ACME clients take, Root the file with the
	// certificate that they must trust.
	Directory, Root string
	proc            *process
}

// StartAuthority starts an authority. It validates by http-01, through the proxy
// that env says. Its names have E2E in them.
func StartAuthority(t testing.TB, env ...string) *Authority {
	t.Helper()
	path, err := caddy()
	if err != nil {
		t.Fatal(err)
	}
	dir, port := t.TempDir(), strconv.Itoa(FreePort(t))
	a := &Authority{
		Directory: "https://127.0.0.1:" + port + "/acme/local/directory",
		Root:      filepath.Join(dir, "data/caddy/pki/authorities/local/root.crt"),
	}
	file := filepath.Join(dir, "Caddyfile")
	config := `{
	admin off
	default_bind 127.0.0.1
	skip_install_trust
	auto_https disable_redirects
	https_port ` + port + `
	pki {
		ca local {
			root_cn "E2E Root"
			intermediate_cn "E2E Intermediate"
		}
	}
}
https://127.0.0.1:` + port + ` {
	tls internal
	acme_server {
		challenges http-01
	}
}
`
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log := &logbook{}
	env = append([]string{"HOME=" + dir, "XDG_DATA_HOME=" + filepath.Join(dir, "data"), "XDG_CONFIG_HOME=" + filepath.Join(dir, "config")}, env...)
	a.proc, err = launch("authority", log, nil, env, path, "run", "--config", file, "--adapter", "caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.proc.signal(syscall.SIGTERM); err != nil {
			t.Errorf("the authority ended with: %v", err)
		}
		if t.Failed() {
			t.Logf("the authority's log:\n%s", log.tail())
		}
	})
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	a.proc.until(t, "ready", func() error {
		resp, err := client.Get(a.Directory)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
	return a
}

// Pool trusts the authority.
func (a *Authority) Pool(t testing.TB) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(a.Root)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatal(fmt.Errorf("no certificate in %s", a.Root))
	}
	return pool
}
