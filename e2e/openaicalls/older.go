package openaicalls

import (
	"context"
	"math"

	"github.com/openai/openai-go/v3"
)

var olderCalls = []Call{
	{Name: "completions", Do: completion},
	{Name: "completions stream", Do: completionStream},
	{Name: "embeddings by default", Do: embeddingDefault},
	{Name: "embeddings as base64", Do: embeddingBase64},
	{Name: "embeddings as floats", Do: embeddingFloats},
	{Name: "moderations", Do: moderation},
	{Name: "rerank", Do: rerank},
}

func completion(ctx context.Context, c *openai.Client, t *Tape) error {
	r, err := c.Completions.New(ctx, openai.CompletionNewParams{
		Model: "mock-instruct", Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("Once upon")}, MaxTokens: openai.Int(7), N: openai.Int(2),
	})
	if err != nil {
		return err
	}
	t.Add(r.RawJSON())
	return expect(len(r.Choices) == 2 && r.Choices[0].Text != "" && r.Usage.TotalTokens > 0, "%+v", r)
}

func completionStream(ctx context.Context, c *openai.Client, t *Tape) error {
	s := c.Completions.NewStreaming(ctx, openai.CompletionNewParams{
		Model: "mock-instruct", Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("Once upon")},
	})
	defer s.Close()
	n := 0
	for s.Next() {
		addChunk(t, s.Current().RawJSON())
		n++
	}
	return first(s.Err(), expect(n > 1, "%d chunks", n))
}

func embed(ctx context.Context, c *openai.Client, t *Tape, p openai.EmbeddingNewParams) error {
	p.Model = "mock-embedding"
	r, err := c.Embeddings.New(ctx, p)
	if err != nil {
		return err
	}
	t.Add(r.RawJSON())
	for _, e := range r.Data {
		var sum float64
		for _, v := range e.Embedding {
			sum += v * v
		}
		if math.Abs(sum-1) > 1e-5 {
			return expect(false, "embedding %d has the length %v", e.Index, sum)
		}
	}
	return first(expect(len(r.Data) > 0, "no data"), expect(r.Usage.PromptTokens > 0, "usage is %+v", r.Usage))
}

func embeddingDefault(ctx context.Context, c *openai.Client, t *Tape) error {
	return embed(ctx, c, t, openai.EmbeddingNewParams{Input: openai.EmbeddingNewParamsInputUnion{OfString: openai.String("a text")}})
}

func embeddingBase64(ctx context.Context, c *openai.Client, t *Tape) error {
	return embed(ctx, c, t, openai.EmbeddingNewParams{
		Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a text", "another"}}, EncodingFormat: "base64",
	})
}

func embeddingFloats(ctx context.Context, c *openai.Client, t *Tape) error {
	return embed(ctx, c, t, openai.EmbeddingNewParams{
		Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfTokens: []int64{1, 2, 3}}, EncodingFormat: "float", Dimensions: openai.Int(8),
	})
}

func moderation(ctx context.Context, c *openai.Client, t *Tape) error {
	r, err := c.Moderations.New(ctx, openai.ModerationNewParams{
		Model: "mock-moderation", Input: openai.ModerationNewParamsInputUnion{OfStringArray: []string{"a violent text", "a peaceful one"}},
	})
	if err != nil {
		return err
	}
	t.Add(r.RawJSON())
	return expect(len(r.Results) == 2 && r.Results[0].Flagged && !r.Results[1].Flagged, "%+v", r.Results)
}

// rerank uses a path that the SDK has no call for.
func rerank(ctx context.Context, c *openai.Client, t *Tape) error {
	var raw []byte
	err := c.Post(ctx, "rerank", map[string]any{"model": "mock-rerank", "query": "rivers", "documents": []string{"the Rhine", "the Alps", "the Danube"}, "top_n": 2}, &raw)
	if err != nil {
		return err
	}
	t.Add(string(raw))
	return nil
}
