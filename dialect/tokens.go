package dialect

import (
	"strings"

	"github.com/floway/floway/usage"
)

// What the usage objects of the dialects mean. Sources: the typings of the
// services' SDKs; for the fields of compatible servers their own typings and
// answers that were seen.

// maxCount is beyond what any answer can have used: a greater number is a defect
// of the upstream.
const maxCount = 1 << 40

// What is wrong with numbers that are not taken.
const (
	anomalyFraction = "a count is not a whole number"
	anomalyAbsurd   = "a count is negative or absurd"
)

// counts reads the numbers of one usage object.
type counts struct {
	m       members
	anomaly string
}

func (c *counts) open(raw []byte, names []string) {
	c.m.reset(names, nil, "", 0)
	c.m.feed(raw)
}

// count returns the i-th number and whether it is there; null is not.
func (c *counts) count(i int) (int64, bool) {
	v := c.m.at(i)
	if !v.found() || string(v.raw) == "null" {
		return 0, false
	}
	n, ok := number(v.raw)
	switch {
	case !ok:
		noteFirst(&c.anomaly, anomalyFraction)
		return 0, false
	case n < 0 || n > maxCount:
		noteFirst(&c.anomaly, anomalyAbsurd)
		return 0, false
	}
	return n, true
}

// first returns the first of the numbers that is there.
func (c *counts) first(is ...int) (int64, bool) {
	for _, i := range is {
		if n, ok := c.count(i); ok {
			return n, true
		}
	}
	return 0, false
}

// into sets n to the i-th number if it is there, and says so.
func (c *counts) into(n *int64, i int) bool {
	v, ok := c.count(i)
	if ok {
		*n = v
	}
	return ok
}

func (c *counts) object(i int) []byte {
	if raw := c.m.at(i).raw; isObject(raw) {
		return raw
	}
	return nil
}

// note keeps the first thing that was wrong.
func note(t *usage.Tokens, what string) { noteFirst(&t.Anomaly, what) }

func noteFirst(anomaly *string, what string) {
	if *anomaly == "" {
		*anomaly = what
	}
}

// tier returns the service tier that raw names; empty for the standard one.
func tier(raw []byte) string {
	switch s := strings.ToLower(word(raw)); {
	case s == "standard", s == "default", s == "auto", s == "unspecified", len(s) > 32:
		return ""
	default:
		return s
	}
}

const (
	openAIPrompt = iota
	openAIInput
	openAICompletion
	openAIOutput
	openAITotal
	openAIPromptDetails
	openAIInputDetails
	openAIInputDetail // transcriptions have it in the singular
	openAICompletionDetails
	openAIOutputDetails
	openAICacheHit
	openAICached
	openAIType
	openAISeconds
)

var openAINames = []string{
	openAIPrompt:            "prompt_tokens",
	openAIInput:             "input_tokens",
	openAICompletion:        "completion_tokens",
	openAIOutput:            "output_tokens",
	openAITotal:             "total_tokens",
	openAIPromptDetails:     "prompt_tokens_details",
	openAIInputDetails:      "input_tokens_details",
	openAIInputDetail:       "input_token_details",
	openAICompletionDetails: "completion_tokens_details",
	openAIOutputDetails:     "output_tokens_details",
	openAICacheHit:          "prompt_cache_hit_tokens", // DeepSeek
	openAICached:            "cached_tokens",           // Moonshot
	openAIType:              "type",
	openAISeconds:           "seconds",
}

const (
	detailRead = iota
	detailWrite
	detailWriteInput
	detailWriteOld
	detailAudio
	detailImage
	detailReasoning
)

var openAIDetails = []string{
	detailRead:       "cached_tokens",
	detailWrite:      "cache_write_tokens",
	detailWriteInput: "cache_creation_input_tokens",
	detailWriteOld:   "cache_creation_tokens",
	detailAudio:      "audio_tokens",
	detailImage:      "image_tokens",
	detailReasoning:  "reasoning_tokens",
}

// openAITokens reads the usage object of Chat Completions, Completions,
// Embeddings, Responses, images and audio, which differ only in their names:
// the prompt's count includes what was read from and written to a cache, and
// the answer's includes reasoning. ok is false if the object holds no count.
func openAITokens(raw []byte) (t usage.Tokens, ok bool) {
	var c, d counts
	c.open(raw, openAINames)
	if string(c.m.at(openAIType).raw) == `"duration"` {
		t.AudioMillis, ok = millis(c.m.at(openAISeconds).raw)
		return t, ok
	}
	prompt, okPrompt := c.first(openAIPrompt, openAIInput)
	output, okOutput := c.first(openAICompletion, openAIOutput)
	total, okTotal := c.count(openAITotal)
	if !okPrompt && !okOutput {
		if !okTotal {
			return usage.Tokens{Anomaly: c.anomaly}, false
		}
		prompt = total // rerankers report nothing else
	}
	var read, write, reasoning int64
	var okRead bool
	for _, i := range [...]int{openAIPromptDetails, openAIInputDetails, openAIInputDetail} {
		if o := c.object(i); o != nil {
			d.open(o, openAIDetails)
			read, okRead = d.count(detailRead)
			write, _ = d.first(detailWrite, detailWriteInput, detailWriteOld)
			t.InAudio, _ = d.count(detailAudio)
			t.InImage, _ = d.count(detailImage)
			break
		}
	}
	if !okRead {
		read, _ = c.first(openAICacheHit, openAICached)
	}
	for _, i := range [...]int{openAICompletionDetails, openAIOutputDetails} {
		if o := c.object(i); o != nil {
			d.open(o, openAIDetails)
			reasoning, t.ReasoningKnown = d.count(detailReasoning)
			t.OutAudio, _ = d.count(detailAudio)
			t.OutImage, _ = d.count(detailImage)
			break
		}
	}
	t.Output, t.Reasoning = output, reasoning
	t.CacheRead, t.CacheWrite = read, write
	t.Input = prompt - read - write
	t.Anomaly = c.anomaly
	note(&t, d.anomaly)
	if okTotal && okOutput {
		switch total {
		case prompt + output:
		case prompt + output + reasoning: // xAI: reasoning is beside the output
			t.Output += reasoning
		case prompt + output + read + write: // the cache is beside the prompt
			t.Input = prompt
		case prompt + output + read: // what was read is, what was written is not
			t.Input = prompt - write
		default:
			note(&t, "the total is not the sum of its parts")
		}
	}
	if t.Input < 0 {
		t.Input = prompt
		note(&t, "more tokens from the cache than in the prompt")
	}
	return t, true
}

// millis returns the milliseconds of a number of seconds.
func millis(raw []byte) (int64, bool) {
	f, ok := float(raw)
	if !ok || !(f >= 0 && f <= 1e9) { // NaN neither
		return 0, false
	}
	return int64(f*1000 + 0.5), true
}

// messagesUsage is the usage of a Messages answer. A stream tells it in parts:
// each member that is there overwrites what was known of it.
type messagesUsage struct {
	input, output, read, thinking int64
	// Written to the cache: in all, and split by how long it is kept.
	flat, short, long                   int64
	okFlat, okShort, okLong, okThinking bool
	any                                 bool
	extra                               usage.Tokens // of compactions, which the counts above leave out
	tier, anomaly                       string
	fast                                bool
}

const (
	messagesInput = iota
	messagesOutput
	messagesRead
	messagesWrite
	messagesWriteSplit
	messagesOutputDetails
	messagesTier
	messagesSpeed
	messagesIterations
	messagesType
)

var (
	messagesNames = []string{
		messagesInput:         "input_tokens",
		messagesOutput:        "output_tokens",
		messagesRead:          "cache_read_input_tokens",
		messagesWrite:         "cache_creation_input_tokens",
		messagesWriteSplit:    "cache_creation",
		messagesOutputDetails: "output_tokens_details",
		messagesTier:          "service_tier",
		messagesSpeed:         "speed",
		messagesIterations:    "iterations",
		messagesType:          "type",
	}
	writeSplitNames    = []string{"ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"}
	outputDetailsNames = []string{"thinking_tokens"}
)

func (u *messagesUsage) merge(raw []byte) {
	var c counts
	c.open(raw, messagesNames)
	u.take(&c)
	if v := c.m.at(messagesSpeed); full(v.raw) {
		u.fast = string(v.raw) == `"fast"`
	}
	if v := c.m.at(messagesTier); full(v.raw) {
		u.tier = tier(v.raw)
	}
	iterations := c.m.at(messagesIterations).raw
	if len(iterations) == 0 || iterations[0] != '[' {
		return
	}
	u.extra = usage.Tokens{}
	each(iterations, func(el []byte) bool {
		if c.open(el, messagesNames); string(c.m.at(messagesType).raw) == `"compaction"` {
			var one messagesUsage
			one.take(&c)
			t := one.tokens()
			u.extra.Input += t.Input
			u.extra.CacheRead += t.CacheRead
			u.extra.CacheWrite += t.CacheWrite
			u.extra.CacheWrite1h += t.CacheWrite1h
			u.extra.Output += t.Output
			u.extra.Reasoning += t.Reasoning
		}
		return true
	})
	noteFirst(&u.anomaly, c.anomaly)
}

// take takes over the counts that are there.
func (u *messagesUsage) take(c *counts) {
	var d counts
	input := c.into(&u.input, messagesInput)
	output := c.into(&u.output, messagesOutput)
	read := c.into(&u.read, messagesRead)
	flat := c.into(&u.flat, messagesWrite)
	u.any = u.any || input || output || read || flat
	u.okFlat = u.okFlat || flat
	if o := c.object(messagesWriteSplit); o != nil {
		d.open(o, writeSplitNames)
		u.okShort = d.into(&u.short, 0) || u.okShort
		u.okLong = d.into(&u.long, 1) || u.okLong
	}
	if o := c.object(messagesOutputDetails); o != nil {
		d.open(o, outputDetailsNames)
		u.okThinking = d.into(&u.thinking, 0) || u.okThinking
	}
	noteFirst(&u.anomaly, c.anomaly)
	noteFirst(&u.anomaly, d.anomaly)
}

func (u *messagesUsage) tokens() usage.Tokens {
	t := usage.Tokens{
		Input: u.input, CacheRead: u.read, Output: u.output,
		Reasoning: u.thinking, ReasoningKnown: u.okThinking,
		Tier: u.tier, Anomaly: u.anomaly,
	}
	switch {
	case u.okShort && u.okLong:
		t.CacheWrite, t.CacheWrite1h = u.short, u.long
		if rest := u.flat - u.short - u.long; u.okFlat && rest > 0 {
			t.CacheWrite += rest
			note(&t, "more cache writes than their split accounts for")
		}
	case u.okShort:
		t.CacheWrite, t.CacheWrite1h = u.short, max(u.flat-u.short, 0)
	case u.okLong:
		t.CacheWrite, t.CacheWrite1h = max(u.flat-u.long, 0), u.long
	default:
		t.CacheWrite = u.flat
	}
	t.Input += u.extra.Input
	t.CacheRead += u.extra.CacheRead
	t.CacheWrite += u.extra.CacheWrite
	t.CacheWrite1h += u.extra.CacheWrite1h
	t.Output += u.extra.Output
	t.Reasoning += u.extra.Reasoning
	if u.fast {
		t.Tier = "fast"
	}
	return t
}

// geminiUsage is the usage of a Gemini answer; of a stream each field's last
// value counts.
type geminiUsage struct {
	prompt, tool, candidates, thoughts, cached, total int64
	okThoughts, okTotal, any                          bool
	inAudio, inImage, outAudio, outImage              int64
	tier, anomaly                                     string
}

const (
	geminiPrompt = iota
	geminiTool
	geminiCandidates
	geminiThoughts
	geminiCached
	geminiTotal
	geminiPromptDetails
	geminiCandidatesDetails
	geminiTier
)

var (
	geminiNames = []string{
		geminiPrompt:            "promptTokenCount",
		geminiTool:              "toolUsePromptTokenCount",
		geminiCandidates:        "candidatesTokenCount",
		geminiThoughts:          "thoughtsTokenCount",
		geminiCached:            "cachedContentTokenCount",
		geminiTotal:             "totalTokenCount",
		geminiPromptDetails:     "promptTokensDetails",
		geminiCandidatesDetails: "candidatesTokensDetails",
		geminiTier:              "serviceTier",
	}
	modalityNames = []string{"modality", "tokenCount"}
)

func (u *geminiUsage) merge(raw []byte) {
	var c counts
	c.open(raw, geminiNames)
	okPrompt := c.into(&u.prompt, geminiPrompt)
	okTool := c.into(&u.tool, geminiTool)
	okCandidates := c.into(&u.candidates, geminiCandidates)
	okThoughts := c.into(&u.thoughts, geminiThoughts)
	okCached := c.into(&u.cached, geminiCached)
	okTotal := c.into(&u.total, geminiTotal)
	u.okThoughts = u.okThoughts || okThoughts
	u.okTotal = u.okTotal || okTotal
	u.any = u.any || okPrompt || okTool || okCandidates || okThoughts || okCached || okTotal
	u.modalities(c.m.at(geminiPromptDetails).raw, &u.inAudio, &u.inImage)
	u.modalities(c.m.at(geminiCandidatesDetails).raw, &u.outAudio, &u.outImage)
	if v := c.m.at(geminiTier); full(v.raw) {
		u.tier = tier(v.raw)
	}
	noteFirst(&u.anomaly, c.anomaly)
}

func (u *geminiUsage) modalities(raw []byte, audio, image *int64) {
	if len(raw) == 0 || raw[0] != '[' {
		return
	}
	var c counts
	each(raw, func(el []byte) bool {
		c.open(el, modalityNames)
		switch string(c.m.at(0).raw) {
		case `"AUDIO"`:
			c.into(audio, 1)
		case `"IMAGE"`:
			c.into(image, 1)
		}
		return true
	})
	noteFirst(&u.anomaly, c.anomaly)
}

func (u *geminiUsage) tokens() usage.Tokens {
	t := usage.Tokens{
		Input: u.prompt - u.cached + u.tool, CacheRead: u.cached, ToolPrompt: u.tool,
		Output: u.candidates + u.thoughts, Reasoning: u.thoughts, ReasoningKnown: u.okThoughts,
		InAudio: u.inAudio, InImage: u.inImage, OutAudio: u.outAudio, OutImage: u.outImage,
		Tier: u.tier, Anomaly: u.anomaly,
	}
	if t.Input < 0 || u.cached > u.prompt {
		t.Input = u.prompt + u.tool
		note(&t, "more tokens from the cache than in the prompt")
	}
	if u.okTotal {
		switch sum := u.prompt + u.tool + u.candidates; {
		case u.total == sum+u.thoughts:
		case u.total == sum:
			t.Output = u.candidates // the thoughts are within
		case u.total > sum+u.thoughts:
			t.Output = u.total - u.prompt - u.tool
			note(&t, "the total is greater than its parts")
		default:
			note(&t, "the total is less than its parts")
		}
	}
	return t
}
