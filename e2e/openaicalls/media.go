package openaicalls

import (
	"bytes"
	"context"
	"encoding/base64"
	"image"
	"image/png"
	"io"
	"strings"

	"github.com/openai/openai-go/v3"
)

var mediaCalls = []Call{
	{Name: "image", Do: generate},
	{Name: "image stream", Do: generateStream},
	{Name: "image edit", Do: edit},
	{Name: "image edit stream", Do: editStream},
	{Name: "image variation", Do: vary},
	{Name: "speech", Do: speech},
	{Name: "transcription", Do: transcribe},
	{Name: "transcription stream", Do: transcribeStream},
	{Name: "transcription as subtitles", Do: subtitles},
	{Name: "translation", Do: translate},
	{Name: "models", Do: models},
}

// picture is a small image to upload.
func picture() io.Reader {
	var b bytes.Buffer
	png.Encode(&b, image.NewRGBA(image.Rect(0, 0, 4, 4)))
	return openai.File(&b, "picture.png", "image/png")
}

// recording is a sound of n bytes, none of which is text.
func recording(n int) io.Reader {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	copy(b, "RIFF")
	return openai.File(bytes.NewReader(b), "recording.wav", "audio/wav")
}

func isPicture(b64 string) error {
	b, err := base64.StdEncoding.DecodeString(b64)
	if err != nil {
		return err
	}
	_, err = png.Decode(bytes.NewReader(b))
	return err
}

func generate(ctx context.Context, c *openai.Client, t *Tape) error {
	r, err := c.Images.Generate(ctx, openai.ImageGenerateParams{Model: "mock-image", Prompt: "A river", N: openai.Int(2), Size: "1024x1024"})
	if err != nil {
		return err
	}
	t.Add(r.RawJSON())
	return first(
		expect(len(r.Data) == 2, "%d images", len(r.Data)),
		expect(r.Usage.TotalTokens > 0, "usage is %+v", r.Usage),
		isPicture(r.Data[1].B64JSON),
	)
}

func generateStream(ctx context.Context, c *openai.Client, t *Tape) error {
	s := c.Images.GenerateStreaming(ctx, openai.ImageGenerateParams{Model: "mock-image", Prompt: "A river", PartialImages: openai.Int(2)})
	defer s.Close()
	var last string
	for s.Next() {
		t.Add(s.Current().RawJSON())
		last = s.Current().Type
	}
	return first(s.Err(), expect(last == "image_generation.completed", "the last event is %q", last))
}

func edit(ctx context.Context, c *openai.Client, t *Tape) error {
	r, err := c.Images.Edit(ctx, openai.ImageEditParams{
		Model: "mock-image", Prompt: "Make it – wider", Image: openai.ImageEditParamsImageUnion{OfFileArray: []io.Reader{picture(), picture()}}, Mask: picture(),
	})
	if err != nil {
		return err
	}
	t.Add(r.RawJSON())
	return first(expect(r.Usage.InputTokensDetails.ImageTokens > 0, "usage is %+v", r.Usage), isPicture(r.Data[0].B64JSON))
}

func editStream(ctx context.Context, c *openai.Client, t *Tape) error {
	s := c.Images.EditStreaming(ctx, openai.ImageEditParams{Model: "mock-image", Prompt: "Wider", Image: openai.ImageEditParamsImageUnion{OfFile: picture()}, PartialImages: openai.Int(1)})
	defer s.Close()
	var last string
	for s.Next() {
		t.Add(s.Current().RawJSON())
		last = s.Current().Type
	}
	return first(s.Err(), expect(last == "image_edit.completed", "the last event is %q", last))
}

func vary(ctx context.Context, c *openai.Client, t *Tape) error {
	//lint:ignore SA1019 applications still call it
	r, err := c.Images.NewVariation(ctx, openai.ImageNewVariationParams{Model: "mock-image", Image: picture(), N: openai.Int(1)})
	if err != nil {
		return err
	}
	t.Add(r.RawJSON())
	return isPicture(r.Data[0].B64JSON)
}

func speech(ctx context.Context, c *openai.Client, t *Tape) error {
	r, err := c.Audio.Speech.New(ctx, openai.AudioSpeechNewParams{
		Model: "mock-tts", Input: "Hello.", Voice: openai.AudioSpeechNewParamsVoiceUnion{OfString: openai.String("alloy")}, ResponseFormat: "wav",
	})
	if err != nil {
		return err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	t.Add(string(b))
	return first(
		expect(len(b) == 4096, "%d bytes", len(b)),
		expect(r.Header.Get("Content-Type") == "audio/wav", "content type %q", r.Header.Get("Content-Type")),
	)
}

func transcribe(ctx context.Context, c *openai.Client, t *Tape) error {
	r, err := c.Audio.Transcriptions.New(ctx, openai.AudioTranscriptionNewParams{
		Model: "mock-transcribe", File: recording(1 << 20), Language: openai.String("en"), Include: []openai.TranscriptionInclude{"logprobs"},
	})
	if err != nil {
		return err
	}
	t.Add(r.RawJSON())
	return expect(r.Text != "" && r.Usage.InputTokenDetails.AudioTokens > 0, "%s", r.RawJSON())
}

func transcribeStream(ctx context.Context, c *openai.Client, t *Tape) error {
	s := c.Audio.Transcriptions.NewStreaming(ctx, openai.AudioTranscriptionNewParams{Model: "mock-transcribe", File: recording(5000)})
	defer s.Close()
	var last string
	for s.Next() {
		t.Add(s.Current().RawJSON())
		last = s.Current().Type
	}
	return first(s.Err(), expect(last == "transcript.text.done", "the last event is %q", last))
}

// subtitles are text and no JSON.
func subtitles(ctx context.Context, c *openai.Client, t *Tape) error {
	var srt string
	err := c.Post(ctx, "audio/transcriptions", openai.AudioTranscriptionNewParams{Model: "mock-whisper", File: recording(5000), ResponseFormat: "srt"}, &srt)
	if err != nil {
		return err
	}
	t.Add(srt)
	return expect(strings.HasPrefix(srt, "1\n00:00:00,000 --> "), "%q", srt)
}

func translate(ctx context.Context, c *openai.Client, t *Tape) error {
	//lint:ignore SA1019 applications still call it
	r, err := c.Audio.Translations.New(ctx, openai.AudioTranslationNewParams{Model: "mock-whisper", File: recording(5000)})
	if err != nil {
		return err
	}
	t.Add(r.RawJSON())
	return expect(r.Text != "", "%s", r.RawJSON())
}

// models are the gateway's own list: its names are compared, not its bytes.
func models(ctx context.Context, c *openai.Client, t *Tape) error {
	list := c.Models.ListAutoPaging(ctx)
	for list.Next() {
		t.Add(list.Current().ID)
	}
	if err := list.Err(); err != nil {
		return err
	}
	m, err := c.Models.Get(ctx, "mock-chat")
	if err != nil {
		return err
	}
	t.Add(m.ID)
	return expect(len(t.Pieces) > 2 && m.Object == "model", "%d models", len(t.Pieces))
}
