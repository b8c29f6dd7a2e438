package e2e

import (
	"strings"
	"sync"
	"testing"

	"github.com/floway/floway/e2e/harness"
)

func TestZZ(t *testing.T) {
	mock := harness.StartOpenAI(t)
	g := harness.StartGateway(t, pool(mock, 3, embedded))
	var wg sync.WaitGroup
	for _, slow := range []string{"0", "60", "100", "195", "199", "200", "201", "205", "250"} {
		for _, w := range []string{"", "+gzip", "+crlf+comments", "+pieces=3", "+usage=last"} {
			for range 4 {
				wg.Go(func() {
					for _, more := range []string{streamed, withUsage} {
						a := post(t, g.URL+"/v1/chat/completions", alice, chat("mock-mini+words=3+slow="+slow+w, "hi", more))
						if a.status != 200 || a.err != nil || !strings.Contains(string(a.body), "data: [DONE]") {
							t.Errorf("%s %s: %d %v %s", slow, w, a.status, a.err, a.body)
						}
					}
				})
			}
		}
	}
	wg.Wait()
}
