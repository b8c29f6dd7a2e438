package dialect

import (
	"fmt"
	"strings"
	"testing"

	"github.com/floway/floway/usage"
)

// tokensOf reads one usage object, or several in the order of a stream.
func tokensOf(d Dialect, objects ...string) usage.Tokens {
	var a Answer
	for _, raw := range objects {
		switch d {
		case Messages:
			a.takeMessages([]byte(raw))
		case Gemini:
			a.gemini.merge([]byte(raw))
		default:
			a.takeOpenAI([]byte(raw))
		}
	}
	return a.Tokens()
}

func TestTokens(t *testing.T) {
	T := func(in, read, write, write1h, out int64) usage.Tokens {
		return usage.Tokens{Input: in, CacheRead: read, CacheWrite: write, CacheWrite1h: write1h, Output: out}
	}
	reasoned := func(t usage.Tokens, n int64) usage.Tokens { t.Reasoning, t.ReasoningKnown = n, true; return t }
	odd := func(t usage.Tokens, what string) usage.Tokens { t.Anomaly = what; return t }
	const (
		notSum   = "the total is not the sum of its parts"
		bigCache = "more tokens from the cache than in the prompt"
		negative = "a count is negative or absurd"
		noNumber = "a count is not a whole number"
	)
	for _, tt := range []struct {
		name    string
		d       Dialect
		objects []string
		want    usage.Tokens
	}{
		// The vectors of the services' documentation and of their invoices.
		{
			"messages", Messages,
			[]string{`{"input_tokens":21,"cache_creation_input_tokens":1200,"cache_read_input_tokens":5000,"cache_creation":{"ephemeral_5m_input_tokens":1000,"ephemeral_1h_input_tokens":200},"output_tokens":340,"output_tokens_details":{"thinking_tokens":210}}`},
			reasoned(T(21, 5000, 1000, 200, 340), 210),
		},
		{
			"messages stream: the delta overwrites", Messages,
			[]string{`{"input_tokens":25,"output_tokens":1}`, `{"input_tokens":10682,"cache_read_input_tokens":0,"output_tokens":510}`},
			T(10682, 0, 0, 0, 510),
		},
		{
			"messages stream: null keeps", Messages,
			[]string{`{"input_tokens":21,"cache_read_input_tokens":5000,"output_tokens":2}`, `{"input_tokens":null,"cache_read_input_tokens":null,"output_tokens":57}`},
			T(21, 5000, 0, 0, 57),
		},
		{
			"responses", Responses,
			[]string{`{"input_tokens":2600,"input_tokens_details":{"cached_tokens":2000,"cache_write_tokens":400},"output_tokens":90,"output_tokens_details":{"reasoning_tokens":64}}`},
			reasoned(T(200, 2000, 400, 0, 90), 64),
		},
		{"chat", Chat, []string{`{"prompt_tokens":2006,"prompt_tokens_details":{"cached_tokens":1920},"completion_tokens":300}`}, T(86, 1920, 0, 0, 300)},
		{"DeepSeek", Chat, []string{`{"prompt_tokens":100,"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36,"completion_tokens":20}`}, T(36, 64, 0, 0, 20)},
		{"xAI", Chat, []string{`{"prompt_tokens":32,"completion_tokens":9,"completion_tokens_details":{"reasoning_tokens":94},"total_tokens":135}`}, reasoned(T(32, 0, 0, 0, 103), 94)},
		{
			"gemini with a tool", Gemini,
			[]string{`{"promptTokenCount":151,"toolUsePromptTokenCount":18329,"candidatesTokenCount":1089,"thoughtsTokenCount":1120,"totalTokenCount":20689}`},
			func() usage.Tokens { t := reasoned(T(18480, 0, 0, 0, 2209), 1120); t.ToolPrompt = 18329; return t }(),
		},
		{"gemini with a cache", Gemini, []string{`{"promptTokenCount":1000,"cachedContentTokenCount":800,"candidatesTokenCount":50,"totalTokenCount":1050}`}, T(200, 800, 0, 0, 50)},
		{"two answers of one cache", Responses, []string{`{"input_tokens":18014,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":18011},"output_tokens":1}`}, T(3, 0, 18011, 0, 1)},
		{"the second of them", Responses, []string{`{"input_tokens":18014,"input_tokens_details":{"cached_tokens":18011,"cache_write_tokens":0},"output_tokens":1}`}, T(3, 18011, 0, 0, 1)},

		// OpenAI's dialects.
		{"all zero", Chat, []string{`{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}`}, T(0, 0, 0, 0, 0)},
		{"a reported zero is known", Chat, []string{`{"prompt_tokens":1,"completion_tokens":2,"completion_tokens_details":{"reasoning_tokens":0}}`}, reasoned(T(1, 0, 0, 0, 2), 0)},
		{"an absent count is not", Chat, []string{`{"prompt_tokens":1,"completion_tokens":2,"completion_tokens_details":{"reasoning_tokens":null}}`}, T(1, 0, 0, 0, 2)},
		{"details null", Chat, []string{`{"prompt_tokens":1,"completion_tokens":2,"prompt_tokens_details":null,"completion_tokens_details":null}`}, T(1, 0, 0, 0, 2)},
		{"a real zero wins over the fallback", Chat, []string{`{"prompt_tokens":100,"prompt_tokens_details":{"cached_tokens":0},"prompt_cache_hit_tokens":64,"completion_tokens":20}`}, T(100, 0, 0, 0, 20)},
		{"null does not", Chat, []string{`{"prompt_tokens":100,"prompt_tokens_details":{"cached_tokens":null},"prompt_cache_hit_tokens":64,"completion_tokens":20}`}, T(36, 64, 0, 0, 20)},
		{"Moonshot", Chat, []string{`{"prompt_tokens":100,"cached_tokens":10,"completion_tokens":20,"total_tokens":120}`}, T(90, 10, 0, 0, 20)},
		{
			"OpenRouter", Chat,
			[]string{`{"prompt_tokens":2600,"completion_tokens":90,"total_tokens":2690,"cost":0.01,"is_byok":false,"cost_details":{"upstream_inference_cost":null},"prompt_tokens_details":{"cached_tokens":2000,"cache_write_tokens":400,"audio_tokens":0,"video_tokens":0},"completion_tokens_details":{"reasoning_tokens":64}}`},
			reasoned(T(200, 2000, 400, 0, 90), 64),
		},
		{"writes under other names", Chat, []string{`{"prompt_tokens":100,"completion_tokens":1,"prompt_tokens_details":{"cache_creation_input_tokens":30}}`}, T(70, 0, 30, 0, 1)},
		{"and another", Chat, []string{`{"prompt_tokens":100,"completion_tokens":1,"prompt_tokens_details":{"cache_creation_tokens":30}}`}, T(70, 0, 30, 0, 1)},
		{
			"audio and images", Chat,
			[]string{`{"prompt_tokens":100,"completion_tokens":50,"prompt_tokens_details":{"audio_tokens":30,"image_tokens":20},"completion_tokens_details":{"audio_tokens":40,"image_tokens":5}}`},
			usage.Tokens{Input: 100, Output: 50, InAudio: 30, InImage: 20, OutAudio: 40, OutImage: 5},
		},
		{"predictions are within", Chat, []string{`{"prompt_tokens":10,"completion_tokens":50,"total_tokens":60,"completion_tokens_details":{"accepted_prediction_tokens":20,"rejected_prediction_tokens":10}}`}, T(10, 0, 0, 0, 50)},
		{"the cache is beside the prompt", Chat, []string{`{"prompt_tokens":10,"completion_tokens":5,"total_tokens":115,"prompt_tokens_details":{"cached_tokens":100}}`}, T(10, 100, 0, 0, 5)},
		{"all of the cache is", Chat, []string{`{"prompt_tokens":10,"completion_tokens":5,"total_tokens":155,"prompt_tokens_details":{"cached_tokens":100,"cache_write_tokens":40}}`}, T(10, 100, 40, 0, 5)},
		{"only what was read is", Chat, []string{`{"prompt_tokens":50,"completion_tokens":5,"total_tokens":155,"prompt_tokens_details":{"cached_tokens":100,"cache_write_tokens":40}}`}, T(10, 100, 40, 0, 5)},
		{"a wrong total", Chat, []string{`{"prompt_tokens":10,"completion_tokens":5,"total_tokens":99}`}, odd(T(10, 0, 0, 0, 5), notSum)},
		{"more cached than asked", Chat, []string{`{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":100}}`}, odd(T(10, 100, 0, 0, 5), bigCache)},
		{"only a total", Chat, []string{`{"total_tokens":38}`}, T(38, 0, 0, 0, 0)},
		{"the last counts", Chat, []string{`{"prompt_tokens":1,"completion_tokens":2}`, `{"prompt_tokens":1,"completion_tokens":3}`}, T(1, 0, 0, 0, 3)},
		{"nothing does not undo it", Chat, []string{`{"prompt_tokens":1,"completion_tokens":2}`, `null`, `{}`, `[]`, ``}, T(1, 0, 0, 0, 2)},
		{"decimals", Chat, []string{`{"prompt_tokens":12.0,"completion_tokens":1e1}`}, T(12, 0, 0, 0, 10)},
		{"as texts", Chat, []string{`{"prompt_tokens":"12","completion_tokens":3}`}, odd(T(0, 0, 0, 0, 3), noNumber)},
		{"broken decimals", Chat, []string{`{"prompt_tokens":12.5,"completion_tokens":3}`}, odd(T(0, 0, 0, 0, 3), noNumber)},
		{"NaN", Chat, []string{`{"prompt_tokens":NaN,"completion_tokens":3}`}, odd(T(0, 0, 0, 0, 3), noNumber)},
		{"negative", Chat, []string{`{"prompt_tokens":-12,"completion_tokens":3}`}, odd(T(0, 0, 0, 0, 3), negative)},
		{"absurd", Chat, []string{`{"prompt_tokens":12,"completion_tokens":9007199254740992}`}, odd(T(12, 0, 0, 0, 0), negative)},
		{"the most", Chat, []string{`{"prompt_tokens":1099511627776,"completion_tokens":1}`}, T(1<<40, 0, 0, 0, 1)},
		{"negative details", Chat, []string{`{"prompt_tokens":12,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":-5}}`}, odd(T(12, 0, 0, 0, 3), negative)},
		{"two things wrong", Chat, []string{`{"prompt_tokens":-12,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":"x"}}`}, odd(T(0, 0, 0, 0, 3), negative)},
		{"nested too deep", Chat, []string{`{"x":{"prompt_tokens":1},"completion_tokens":2}`}, T(0, 0, 0, 0, 2)},
		{"seconds", Chat, []string{`{"type":"duration","seconds":9}`}, usage.Tokens{AudioMillis: 9000}},
		{"parts of them", Chat, []string{`{"type":"duration","seconds":0.0004}`}, usage.Tokens{}},
		{"rounded", Chat, []string{`{"type":"duration","seconds":1.2345}`}, usage.Tokens{AudioMillis: 1235}},
		{"no seconds", Chat, []string{`{"type":"duration","seconds":NaN}`}, usage.Tokens{}},
		{"negative seconds", Chat, []string{`{"type":"duration","seconds":-1}`}, usage.Tokens{}},
		{"infinite seconds", Chat, []string{`{"type":"duration","seconds":1e400}`}, usage.Tokens{}},
		{
			"transcription by tokens", Chat,
			[]string{`{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":4,"audio_tokens":10},"output_tokens":45,"total_tokens":59}`},
			usage.Tokens{Input: 14, InAudio: 10, Output: 45},
		},

		// Messages.
		{"flat writes", Messages, []string{`{"input_tokens":1,"cache_creation_input_tokens":100,"output_tokens":2}`}, T(1, 0, 100, 0, 2)},
		{"only short ones known", Messages, []string{`{"input_tokens":1,"cache_creation_input_tokens":100,"cache_creation":{"ephemeral_5m_input_tokens":30},"output_tokens":2}`}, T(1, 0, 30, 70, 2)},
		{"only long ones known", Messages, []string{`{"input_tokens":1,"cache_creation_input_tokens":100,"cache_creation":{"ephemeral_1h_input_tokens":30},"output_tokens":2}`}, T(1, 0, 70, 30, 2)},
		{"a split without a sum", Messages, []string{`{"input_tokens":1,"cache_creation":{"ephemeral_5m_input_tokens":30,"ephemeral_1h_input_tokens":5},"output_tokens":2}`}, T(1, 0, 30, 5, 2)},
		{"a split that is null", Messages, []string{`{"input_tokens":1,"cache_creation_input_tokens":100,"cache_creation":null,"output_tokens":2}`}, T(1, 0, 100, 0, 2)},
		{"the split of the start stays", Messages, []string{`{"input_tokens":1,"cache_creation_input_tokens":100,"cache_creation":{"ephemeral_5m_input_tokens":60,"ephemeral_1h_input_tokens":40},"output_tokens":1}`, `{"cache_creation_input_tokens":100,"output_tokens":9}`}, T(1, 0, 60, 40, 9)},
		{
			"writes grow in the delta", Messages,
			[]string{`{"input_tokens":1,"cache_creation_input_tokens":100,"cache_creation":{"ephemeral_5m_input_tokens":60,"ephemeral_1h_input_tokens":40},"output_tokens":1}`, `{"cache_creation_input_tokens":130,"output_tokens":9}`},
			odd(T(1, 0, 90, 40, 9), "more cache writes than their split accounts for"),
		},
		{"a tier", Messages, []string{`{"input_tokens":1,"output_tokens":2,"service_tier":"priority"}`, `{"output_tokens":3}`}, usage.Tokens{Input: 1, Output: 3, Tier: "priority"}},
		{"the standard one", Messages, []string{`{"input_tokens":1,"output_tokens":2,"service_tier":"standard","speed":"standard"}`}, T(1, 0, 0, 0, 2)},
		{"fast", Messages, []string{`{"input_tokens":1,"output_tokens":2,"service_tier":"standard","speed":"fast"}`, `{"output_tokens":3,"speed":null}`}, usage.Tokens{Input: 1, Output: 3, Tier: "fast"}},
		{
			"a compaction is beside the rest", Messages,
			[]string{`{"input_tokens":10,"output_tokens":20,"cache_read_input_tokens":5,"iterations":[{"type":"compaction","input_tokens":100,"output_tokens":7,"cache_read_input_tokens":50,"cache_creation_input_tokens":9,"cache_creation":{"ephemeral_5m_input_tokens":4,"ephemeral_1h_input_tokens":5}},{"type":"message","input_tokens":10,"output_tokens":20}]}`},
			T(110, 55, 4, 5, 27),
		},
		{"thoughts of a compaction", Messages, []string{`{"input_tokens":10,"output_tokens":20,"output_tokens_details":{"thinking_tokens":4},"iterations":[{"type":"compaction","input_tokens":1,"output_tokens":7,"output_tokens_details":{"thinking_tokens":3}}]}`}, reasoned(T(11, 0, 0, 0, 27), 7)},
		{"and counted once", Messages, []string{`{"input_tokens":10,"output_tokens":20,"iterations":[{"type":"compaction","input_tokens":100,"output_tokens":7}]}`, `{"output_tokens":25,"iterations":[{"type":"compaction","input_tokens":100,"output_tokens":7}]}`, `{"output_tokens":26}`}, T(110, 0, 0, 0, 33)},
		{"advisors have prices of their own", Messages, []string{`{"input_tokens":10,"output_tokens":20,"iterations":[{"type":"advisor_message","model":"x","input_tokens":5,"output_tokens":5},{"type":"fallback_message","input_tokens":5,"output_tokens":5}]}`}, T(10, 0, 0, 0, 20)},
		{"something wrong in one", Messages, []string{`{"input_tokens":10,"output_tokens":20,"iterations":[{"type":"compaction","input_tokens":-1,"output_tokens":7}]}`}, odd(T(10, 0, 0, 0, 27), negative)},
		{"messages negative", Messages, []string{`{"input_tokens":-3,"output_tokens":2}`}, odd(T(0, 0, 0, 0, 2), negative)},
		{"messages negative delta", Messages, []string{`{"input_tokens":3,"output_tokens":2}`, `{"output_tokens":-1}`}, odd(T(3, 0, 0, 0, 2), negative)},

		// Gemini.
		{"thoughts within the candidates", Gemini, []string{`{"promptTokenCount":10,"candidatesTokenCount":50,"thoughtsTokenCount":20,"totalTokenCount":60}`}, reasoned(T(10, 0, 0, 0, 50), 20)},
		{"no total", Gemini, []string{`{"promptTokenCount":10,"candidatesTokenCount":50,"thoughtsTokenCount":20}`}, reasoned(T(10, 0, 0, 0, 70), 20)},
		{"thoughts of zero", Gemini, []string{`{"promptTokenCount":10,"candidatesTokenCount":50,"thoughtsTokenCount":0,"totalTokenCount":60}`}, reasoned(T(10, 0, 0, 0, 50), 0)},
		{"a greater total", Gemini, []string{`{"promptTokenCount":10,"candidatesTokenCount":50,"totalTokenCount":75}`}, odd(T(10, 0, 0, 0, 65), "the total is greater than its parts")},
		{"a smaller total", Gemini, []string{`{"promptTokenCount":10,"candidatesTokenCount":50,"totalTokenCount":30}`}, odd(T(10, 0, 0, 0, 50), "the total is less than its parts")},
		{"more cached than asked in gemini", Gemini, []string{`{"promptTokenCount":10,"cachedContentTokenCount":50,"candidatesTokenCount":5}`}, odd(T(10, 50, 0, 0, 5), bigCache)},
		{"the last of each field", Gemini, []string{`{"promptTokenCount":10,"totalTokenCount":10}`, `{"candidatesTokenCount":5,"totalTokenCount":15}`, `{}`}, T(10, 0, 0, 0, 5)},
		{
			"modalities", Gemini,
			[]string{`{"promptTokenCount":100,"candidatesTokenCount":50,"promptTokensDetails":[{"modality":"TEXT","tokenCount":40},{"modality":"AUDIO","tokenCount":35},{"modality":"IMAGE","tokenCount":25}],"candidatesTokensDetails":[{"modality":"IMAGE","tokenCount":50}]}`},
			usage.Tokens{Input: 100, Output: 50, InAudio: 35, InImage: 25, OutImage: 50},
		},
		{"gemini's tier", Gemini, []string{`{"promptTokenCount":1,"serviceTier":"PRIORITY"}`}, usage.Tokens{Input: 1, Tier: "priority"}},
		{"gemini's standard tier", Gemini, []string{`{"promptTokenCount":1,"serviceTier":"STANDARD"}`}, usage.Tokens{Input: 1}},
		{"gemini negative", Gemini, []string{`{"promptTokenCount":-1,"candidatesTokenCount":4}`}, odd(T(0, 0, 0, 0, 4), negative)},
	} {
		if got := tokensOf(tt.d, tt.objects...); got != tt.want {
			t.Errorf("%s:\n got %+v\nwant %+v", tt.name, got, tt.want)
		}
	}
}

// What holds no count is not taken for a report of zeros.
func TestTokensNothingReported(t *testing.T) {
	for _, raw := range []string{``, `null`, `{}`, `[]`, `"x"`, `12`, `{"prompt_tokens":null}`, `{"prompt_tokens":-1}`, `{"prompt_tokens":"5"}`, `{"input_tokens":"5","output_tokens":true}`, `{"trafficType":"ON_DEMAND"}`, `{"x":1}`, `{"type":"duration"}`, `{"type":"duration","seconds":"9"}`} {
		var a Answer
		if a.takeOpenAI([]byte(raw)); a.Reported {
			t.Errorf("chat takes %s for usage", raw)
		}
		if a.takeMessages([]byte(raw)); a.Reported {
			t.Errorf("messages takes %s for usage", raw)
		}
		a.Reset(StreamContent, true, false)
		if a.Split([]byte(events(`{"candidates":[],"usageMetadata":`+strings.ReplaceAll(raw, "prompt_tokens", "promptTokenCount")+`}`)), false); a.Reported {
			t.Errorf("gemini takes %s for usage", raw)
		}
	}
}

// Whatever the upstream says, no count is negative, and where the total agrees
// with the parts it is what is billed.
func FuzzTokens(f *testing.F) {
	for _, raw := range []string{
		`{"prompt_tokens":32,"completion_tokens":9,"completion_tokens_details":{"reasoning_tokens":94},"total_tokens":135}`,
		`{"input_tokens":10,"output_tokens":20,"iterations":[{"type":"compaction","input_tokens":100}],"cache_creation":{"ephemeral_1h_input_tokens":3}}`,
		`{"promptTokenCount":151,"toolUsePromptTokenCount":18329,"candidatesTokenCount":1089,"thoughtsTokenCount":1120,"totalTokenCount":20689}`,
		`{"type":"duration","seconds":1e3}`,
	} {
		f.Add([]byte(raw), []byte(raw))
	}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		for _, d := range []Dialect{Chat, Messages, Gemini} {
			got := tokensOf(d, string(one), string(two))
			for _, n := range []int64{got.Input, got.CacheRead, got.CacheWrite, got.CacheWrite1h, got.Output, got.Reasoning, got.ToolPrompt, got.InAudio, got.InImage, got.OutAudio, got.OutImage, got.AudioMillis, got.Images} {
				if n < 0 || n > 1<<50 {
					t.Fatalf("%v of %s and %s: %+v", d, one, two, got)
				}
			}
		}
	})
}

func TestTokensTotalsAgree(t *testing.T) {
	for prompt := int64(0); prompt < 200; prompt += 50 {
		for _, read := range []int64{0, 10, 50} {
			for _, write := range []int64{0, 20} {
				for _, reasoning := range []int64{0, 7} {
					for _, total := range []int64{prompt + 30, prompt + 30 + reasoning, prompt + 30 + read, prompt + 30 + read + write} {
						got := tokensOf(Chat, fmt.Sprintf(`{"prompt_tokens":%d,"completion_tokens":30,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d,"cache_write_tokens":%d},"completion_tokens_details":{"reasoning_tokens":%d}}`,
							prompt, total, read, write, reasoning))
						if got.Anomaly == "" && got.Total() != total {
							t.Errorf("prompt %d, read %d, write %d, reasoning %d, total %d: billed %d of it: %+v", prompt, read, write, reasoning, total, got.Total(), got)
						}
					}
				}
			}
		}
	}
}

func TestTier(t *testing.T) {
	for raw, want := range map[string]string{
		`"priority"`: "priority", `"FLEX"`: "flex", `"default"`: "", `"auto"`: "", `null`: "", ``: "",
		`"` + strings.Repeat("x", 40) + `"`: "",
	} {
		if got := tier([]byte(raw)); got != want {
			t.Errorf("%s: got %q", raw, got)
		}
	}
}
