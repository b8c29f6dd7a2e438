package mockopenai

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"path"
	"strconv"
	"strings"
)

var imageFields = fields{
	"background": text, "complexity": text, "frame_count": integer, "frame_duration_ms": integer, "model": text, "moderation": text,
	"n": integer, "output_compression": integer, "output_format": text, "partial_images": integer, "prompt": text, "quality": text,
	"response_format": text, "safety_identifier": text, "size": text, "stream": boolean, "style": text, "svg": structure, "user": text,
}

var imageEditFields = fields{
	"background": text, "complexity": text, "image": file, "input_fidelity": text, "mask": file, "model": text, "n": integer,
	"output_compression": integer, "output_format": text, "partial_images": integer, "prompt": text, "quality": text,
	"response_format": text, "safety_identifier": text, "size": text, "stream": boolean, "user": text,
}

var imageVariationFields = fields{"image": file, "model": text, "n": integer, "response_format": text, "size": text, "user": text}

type imageUsage struct {
	InputTokens        int64 `json:"input_tokens"`
	InputTokensDetails struct {
		TextTokens  int64 `json:"text_tokens"`
		ImageTokens int64 `json:"image_tokens"`
	} `json:"input_tokens_details"`
	OutputTokens int64 `json:"output_tokens"`
	TotalTokens  int64 `json:"total_tokens"`
}

// generateImage serves POST /v1/images/generations.
func (s *Server) generateImage(x *exchange) error {
	if !x.has("prompt") {
		return bad("prompt", "missing_required_parameter", "Missing required parameter: 'prompt'.")
	}
	for name, high := range map[string]float64{"n": 10, "partial_images": 3, "output_compression": 100} {
		if err := x.between(name, 0, high); err != nil {
			return err
		}
	}
	var n, partial int
	x.decode("n", &n)
	x.decode("partial_images", &partial)
	if partial > 0 && !x.Entry.Stream {
		return bad("partial_images", "", "'partial_images' is only allowed when 'stream' is enabled.")
	}
	return x.images("image_generation", count(string(x.member["prompt"])), 0, max(n, 1), partial)
}

// editImage serves POST /v1/images/edits.
func (s *Server) editImage(x *exchange) error {
	pictures := x.form.files("image")
	if len(pictures) == 0 {
		return bad("image", "missing_required_parameter", "Missing required parameter: 'image'.")
	}
	if x.form.value("prompt") == "" {
		return bad("prompt", "missing_required_parameter", "Missing required parameter: 'prompt'.")
	}
	for _, p := range pictures {
		if !strings.HasPrefix(p.header.Get("Content-Type"), "image/") {
			return bad("image", "unsupported_file_mimetype", "Invalid file 'image': unsupported mimetype ('%s'). Supported file formats are 'image/jpeg', 'image/png', and 'image/webp'.", p.header.Get("Content-Type"))
		}
	}
	n, _ := strconv.Atoi(x.form.value("n"))
	partial, _ := strconv.Atoi(x.form.value("partial_images"))
	return x.images("image_edit", count(x.form.value("prompt")), int64(len(pictures)), max(n, 1), partial)
}

// varyImage serves POST /v1/images/variations.
func (s *Server) varyImage(x *exchange) error {
	if len(x.form.files("image")) != 1 {
		return bad("image", "missing_required_parameter", "Missing required parameter: 'image'.")
	}
	n, _ := strconv.Atoi(x.form.value("n"))
	return x.images("image_variation", 0, 1, max(n, 1), 0)
}

// images answers with n pictures. Variations are of the days before usage.
func (x *exchange) images(kind string, words, given int64, n, partial int) error {
	usage := &imageUsage{OutputTokens: int64(n) * 272}
	usage.InputTokensDetails.TextTokens = words
	usage.InputTokensDetails.ImageTokens = given * 194
	usage.InputTokens = words + given*194
	usage.TotalTokens = usage.InputTokens + usage.OutputTokens
	x.Entry.Tokens = Tokens{Input: usage.InputTokens, InImage: given * 194, Output: usage.OutputTokens}
	if kind == "image_variation" {
		usage = nil
		x.Entry.Tokens = Tokens{Images: int64(n)}
	}
	if x.How.Usage == UsageAbsent {
		usage = nil
	}
	type picture struct {
		B64JSON       string `json:"b64_json"`
		RevisedPrompt string `json:"revised_prompt,omitempty"`
	}
	if !x.Entry.Stream {
		answer := struct {
			Created      int64       `json:"created"`
			Background   string      `json:"background"`
			Data         []picture   `json:"data"`
			OutputFormat string      `json:"output_format"`
			Quality      string      `json:"quality"`
			Size         string      `json:"size"`
			Usage        *imageUsage `json:"usage,omitempty"`
		}{created, "opaque", nil, "png", "low", "1024x1024", usage}
		for i := range n {
			answer.Data = append(answer.Data, picture{B64JSON: x.picture(i)})
		}
		return x.AnswerJSON(answer)
	}
	type data struct {
		Type              string      `json:"type"`
		B64JSON           string      `json:"b64_json"`
		PartialImageIndex *int        `json:"partial_image_index,omitempty"`
		CreatedAt         int64       `json:"created_at"`
		Size              string      `json:"size"`
		Quality           string      `json:"quality"`
		Background        string      `json:"background"`
		OutputFormat      string      `json:"output_format"`
		Usage             *imageUsage `json:"usage,omitempty"`
	}
	var events []event
	for i := range partial {
		name := kind + ".partial_image"
		events = append(events, event{Name: name, Data: encode(data{name, x.picture(i), &i, created, "1024x1024", "low", "opaque", "png", nil})})
	}
	name := kind + ".completed"
	events = append(events, event{Name: name, Last: true, Told: usage != nil, Data: encode(data{name, x.picture(partial), nil, created, "1024x1024", "low", "opaque", "png", usage})})
	return x.Stream(events, event{Name: "error", Data: []byte(`{"type":"error","error":{"type":"image_generation_server_error","code":"image_generation_failed","message":"Image generation failed","param":null}}`)})
}

// picture is a small PNG in base64.
func (x *exchange) picture(i int) string {
	m := image.NewRGBA(image.Rect(0, 0, 8, 8))
	for p := range 64 {
		m.Set(p%8, p/8, color.RGBA{uint8(x.Number(p+i, 256)), uint8(i), uint8(p), 255})
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(b.Bytes())
}

var speechFields = fields{
	"input": text, "instructions": text, "model": text, "response_format": text, "speed": number, "stream_format": text, "voice": anything,
}

var speechTypes = map[string]string{
	"mp3": "audio/mpeg", "opus": "audio/opus", "aac": "audio/aac", "flac": "audio/flac", "wav": "audio/wav", "pcm": "audio/pcm",
}

// speech serves POST /v1/audio/speech.
func (s *Server) speech(x *exchange) error {
	for _, name := range []string{"input", "voice"} {
		if !x.has(name) {
			return bad(name, "missing_required_parameter", "Missing required parameter: '%s'.", name)
		}
	}
	if err := x.between("speed", 0.25, 4); err != nil {
		return err
	}
	if err := x.oneOf("response_format", "mp3", "opus", "aac", "flac", "wav", "pcm"); err != nil {
		return err
	}
	if err := x.oneOf("stream_format", "sse", "audio"); err != nil {
		return err
	}
	format, shape := "mp3", "audio"
	x.decode("response_format", &format)
	x.decode("stream_format", &shape)
	sound := make([]byte, 4096)
	for i := range sound {
		sound[i] = byte(x.Number(i, 256))
	}
	x.Entry.Tokens = Tokens{Input: count(string(x.member["input"])), Output: 128, OutAudio: 128}
	if shape == "audio" {
		// Nothing in the bytes says what they cost.
		x.How.Usage = UsageAbsent
		x.How.Chunked = true
		x.Answer(speechTypes[format], sound)
		return nil
	}
	var events []event
	for len(sound) > 0 {
		n := min(1000, len(sound))
		events = append(events, event{Name: "speech.audio.delta", Data: encode(map[string]string{"type": "speech.audio.delta", "audio": base64.StdEncoding.EncodeToString(sound[:n])})})
		sound = sound[n:]
	}
	t := x.Entry.Tokens
	events = append(events, event{Name: "speech.audio.done", Last: true, Told: true, Data: encode(map[string]any{
		"type": "speech.audio.done", "usage": map[string]int64{"input_tokens": t.Input, "output_tokens": t.Output, "total_tokens": t.Input + t.Output},
	})})
	return x.Stream(events, event{Name: "error", Data: streamFailure})
}

var transcriptionFields = fields{
	"chunking_strategy": anything, "file": file, "include": anything, "keywords": anything, "known_speaker_names": anything,
	"known_speaker_references": anything, "language": text, "languages": anything, "model": text, "prompt": text,
	"response_format": text, "stream": boolean, "temperature": number, "timestamp_granularities": anything,
}

var translationFields = fields{"file": file, "model": text, "prompt": text, "response_format": text, "temperature": number}

// sound returns the recording that a form brings.
func (x *exchange) sound() (part, error) {
	files := x.form.files("file")
	if len(files) != 1 {
		return part{}, bad("file", "missing_required_parameter", "Missing required parameter: 'file'.")
	}
	switch strings.ToLower(path.Ext(files[0].filename)) {
	case ".flac", ".m4a", ".mp3", ".mp4", ".mpeg", ".mpga", ".oga", ".ogg", ".wav", ".webm":
	default:
		return part{}, bad("file", "unsupported_format", "Unrecognized file format. Supported formats: ['flac', 'm4a', 'mp3', 'mp4', 'mpeg', 'mpga', 'oga', 'ogg', 'wav', 'webm']")
	}
	if len(files[0].data) == 0 {
		return part{}, bad("file", "", "Audio file is too short. Minimum audio length is 0.1 seconds.")
	}
	return files[0], nil
}

// transcription serves POST /v1/audio/transcriptions.
func (s *Server) transcription(x *exchange) error {
	sound, err := x.sound()
	if err != nil {
		return err
	}
	format := x.form.value("response_format")
	if format == "" {
		format = "json"
	}
	if err := choice("response_format", format, "json", "text", "srt", "verbose_json", "vtt", "diarized_json"); err != nil {
		return err
	}
	base, _, _ := strings.Cut(x.Entry.Model, "+")
	whisper := base == "mock-whisper"
	if !whisper && (format == "srt" || format == "vtt" || format == "verbose_json") {
		return bad("response_format", "unsupported_value", "response_format '%s' is not compatible with model '%s'. Use 'json' or 'text' instead.", format, base)
	}
	if whisper && x.Entry.Stream {
		return bad("stream", "unsupported_value", "Streaming is not supported with this model.")
	}
	words, _ := x.Say(0, 0)
	said := strings.TrimSpace(strings.NewReplacer("\n", " ", "\r", " ").Replace(strings.Join(words, "")))
	seconds := int64(len(sound.data))/1000 + 1
	audio := seconds * 10
	prompt := count(x.form.value("prompt"))
	x.Entry.Tokens = Tokens{Input: audio + prompt, InAudio: audio, Output: int64(len(words))}
	usage := map[string]any{
		"type": "tokens", "input_tokens": audio + prompt, "output_tokens": len(words), "total_tokens": audio + prompt + int64(len(words)),
		"input_token_details": map[string]int64{"text_tokens": prompt, "audio_tokens": audio},
	}
	if whisper {
		x.Entry.Tokens = Tokens{AudioMillis: seconds * 1000}
		usage = map[string]any{"type": "duration", "seconds": seconds}
	}
	if x.Entry.Stream {
		var events []event
		for _, w := range words {
			events = append(events, event{Name: "transcript.text.delta", Data: encode(map[string]string{"type": "transcript.text.delta", "delta": w})})
		}
		events = append(events, event{Name: "transcript.text.done", Last: true, Told: true, Data: encode(map[string]any{"type": "transcript.text.done", "text": strings.Join(words, ""), "usage": usage})})
		return x.Stream(events, event{Name: "error", Data: streamFailure})
	}
	switch format {
	case "text", "srt", "vtt":
		x.How.Usage = UsageAbsent
		x.Answer("text/plain; charset=utf-8", []byte(subtitles(format, said)))
		return nil
	case "verbose_json":
		return x.AnswerJSON(map[string]any{
			"task": "transcribe", "language": "english", "duration": seconds, "text": said, "usage": usage,
			"segments": []any{map[string]any{"id": 0, "seek": 0, "start": 0, "end": seconds, "text": said, "tokens": []int{50364}, "temperature": 0, "avg_logprob": -0.25, "compression_ratio": 1.5, "no_speech_prob": 0.125}},
		})
	}
	return x.AnswerJSON(map[string]any{"text": said, "usage": usage})
}

func subtitles(format, said string) string {
	switch format {
	case "srt":
		return fmt.Sprintf("1\n00:00:00,000 --> 00:00:03,000\n%s\n\n", said)
	case "vtt":
		return fmt.Sprintf("WEBVTT\n\n00:00:00.000 --> 00:00:03.000\n%s\n\n", said)
	default:
		return said + "\n"
	}
}

// translation serves POST /v1/audio/translations, which reports no usage.
func (s *Server) translation(x *exchange) error {
	if _, err := x.sound(); err != nil {
		return err
	}
	format := x.form.value("response_format")
	if format == "" {
		format = "json"
	}
	if err := choice("response_format", format, "json", "text", "srt", "verbose_json", "vtt"); err != nil {
		return err
	}
	words, _ := x.Say(0, 0)
	said := strings.TrimSpace(strings.NewReplacer("\n", " ", "\r", " ").Replace(strings.Join(words, "")))
	x.How.Usage = UsageAbsent
	if format == "text" || format == "srt" || format == "vtt" {
		x.Answer("text/plain; charset=utf-8", []byte(subtitles(format, said)))
		return nil
	}
	return x.AnswerJSON(map[string]any{"text": said})
}
