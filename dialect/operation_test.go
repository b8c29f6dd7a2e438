package dialect

import (
	"slices"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	found := func(op Operation) Call { return Call{Op: op, Dialect: op.Dialect(), Verdict: Found} }
	model := func(op Operation, name string) Call { c := found(op); c.Model = name; return c }
	id := func(op Operation, id, rest string) Call { c := found(op); c.ID, c.Rest = id, rest; return c }
	wrong := func(op Operation, allow string) Call {
		return Call{Op: op, Dialect: op.Dialect(), Verdict: WrongMethod, Allow: allow}
	}
	in := func(d Dialect, c Call) Call { c.Dialect = d; return c }
	unknown := func(d Dialect) Call { return Call{Dialect: d, Verdict: Unknown} }
	notOffered := func(d Dialect) Call { return Call{Dialect: d, Verdict: NotOffered} }

	for _, tt := range []struct {
		method, path string
		want         Call
	}{
		// What is served.
		{"POST", "/v1/chat/completions", found(ChatCompletions)},
		{"POST", "/v1/completions", found(Completions)},
		{"POST", "/v1/embeddings", found(Embeddings)},
		{"POST", "/v1/responses", found(CreateResponse)},
		{"POST", "/v1/responses/compact", found(CompactResponse)},
		{"POST", "/v1/responses/input_tokens", found(CountResponse)},
		{"GET", "/v1/responses/resp_1", id(StoredResponse, "resp_1", "")},
		{"DELETE", "/v1/responses/resp_1", id(StoredResponse, "resp_1", "")},
		{"POST", "/v1/responses/resp_1/cancel", id(StoredResponse, "resp_1", "/cancel")},
		{"GET", "/v1/responses/resp_1/input_items", id(StoredResponse, "resp_1", "/input_items")},
		{"POST", "/v1/messages", found(CreateMessage)},
		{"POST", "/v1/messages/count_tokens", found(CountMessage)},
		{"POST", "/v1/images/generations", found(ImageGenerations)},
		{"POST", "/v1/images/edits", found(ImageEdits)},
		{"POST", "/v1/images/variations", found(ImageVariations)},
		{"POST", "/v1/audio/speech", found(Speech)},
		{"POST", "/v1/audio/transcriptions", found(Transcriptions)},
		{"POST", "/v1/audio/translations", found(Translations)},
		{"POST", "/v1/moderations", found(Moderations)},
		{"POST", "/v1/rerank", found(Rerank)},
		{"GET", "/v1/models", found(ListModels)},
		{"HEAD", "/v1/models", found(ListModels)},
		{"GET", "/v1/models/gpt-x", id(ListModels, "gpt-x", "")},
		{"GET", "/v1/models/up/llama3:8b", id(ListModels, "up/llama3:8b", "")},
		{"GET", "/v1/usage", found(OwnUsage)},

		// Gemini.
		{"POST", "/v1beta/models/gemini-x:generateContent", model(GenerateContent, "gemini-x")},
		{"POST", "/v1beta/models/gemini-x:streamGenerateContent", model(StreamContent, "gemini-x")},
		{"POST", "/v1beta/models/gemini-x:countTokens", model(CountContent, "gemini-x")},
		{"POST", "/v1beta/models/gemini-x:embedContent", model(EmbedContent, "gemini-x")},
		{"POST", "/v1beta/models/gemini-x:batchEmbedContents", model(BatchEmbedContents, "gemini-x")},
		{"POST", "/v1beta/models/up/llama3:8b:generateContent", model(GenerateContent, "up/llama3:8b")},
		{"POST", "/v1/models/gemini-x:generateContent", model(GenerateContent, "gemini-x")},
		{"GET", "/v1beta/models", in(Gemini, found(ListModels))},
		{"GET", "/v1beta/models/gemini-x", in(Gemini, id(ListModels, "gemini-x", ""))},
		{"GET", "/v1beta/models/llama3:8b", in(Gemini, id(ListModels, "llama3:8b", ""))},
		{"POST", "/v1beta/openai/chat/completions", found(ChatCompletions)},
		{"GET", "/v1beta/openai/models", found(ListModels)},
		{"GET", "/v1beta/models/gemini-x:generateContent", Call{Op: GenerateContent, Dialect: Gemini, Verdict: WrongMethod, Allow: "POST", Model: "gemini-x"}},
		{"POST", "/v1beta/models", in(Gemini, wrong(ListModels, "GET, HEAD"))},
		{"DELETE", "/v1beta/models/gemini-x", in(Gemini, wrong(ListModels, "GET, HEAD"))},
		{"POST", "/v1beta/models/:generateContent", unknown(Gemini)},
		{"POST", "/v1beta/models/gemini-x:dance", unknown(Gemini)},
		{"POST", "/v1beta/models/veo:predictLongRunning", notOffered(Gemini)},
		{"POST", "/v1beta/cachedContents", notOffered(Gemini)},
		{"GET", "/v1beta/files/x", notOffered(Gemini)},
		{"GET", "/v1beta/nothing", unknown(Gemini)},
		{"GET", "/v1beta/", unknown(Gemini)},

		// Azure.
		{"POST", "/openai/deployments/gpt/chat/completions", model(ChatCompletions, "gpt")},
		{"POST", "/openai/deployments/gpt/completions", model(Completions, "gpt")},
		{"POST", "/openai/deployments/gpt/embeddings", model(Embeddings, "gpt")},
		{"POST", "/openai/deployments/dalle/images/generations", model(ImageGenerations, "dalle")},
		{"POST", "/openai/deployments/wh/audio/transcriptions", model(Transcriptions, "wh")},
		{"POST", "/openai/deployments/azure/gpt-4o/chat/completions", model(ChatCompletions, "azure/gpt-4o")},
		{"POST", "/openai/responses", found(CreateResponse)},
		{"GET", "/openai/models", found(ListModels)},
		{"GET", "/openai/responses/resp_1", id(StoredResponse, "resp_1", "")},
		{"POST", "/openai/v1/chat/completions", found(ChatCompletions)},
		{"POST", "/openai/v1/responses", found(CreateResponse)},
		{"GET", "/openai/v1/models/x", id(ListModels, "x", "")},
		{"GET", "/openai/deployments/gpt/chat/completions", Call{Op: ChatCompletions, Verdict: WrongMethod, Allow: "POST", Model: "gpt"}},
		{"POST", "/openai/deployments//chat/completions", unknown(Chat)},
		{"POST", "/openai/deployments/gpt", unknown(Chat)},
		{"GET", "/openai/deployments", unknown(Chat)},
		{"POST", "/openai/deployments/gpt/batches", notOffered(Chat)},
		{"POST", "/openai/files", notOffered(Chat)},
		{"POST", "/openai/v1/files", notOffered(Chat)},
		{"GET", "/openai/v1", unknown(Chat)},
		{"GET", "/openai/", unknown(Chat)},

		// Without a version only the exact endpoints.
		{"POST", "/chat/completions", found(ChatCompletions)},
		{"POST", "/responses", found(CreateResponse)},
		{"POST", "/messages", found(CreateMessage)},
		{"POST", "/messages/count_tokens", found(CountMessage)},
		{"GET", "/models", found(ListModels)},
		{"GET", "/chat/completions", Call{}},
		{"GET", "/responses/resp_1", Call{}},
		{"GET", "/models/x", Call{}},
		{"POST", "/models", Call{}},
		{"GET", "/usage", Call{}},
		{"POST", "/files", Call{}},

		// The wrong method.
		{"GET", "/v1/chat/completions", wrong(ChatCompletions, "POST")},
		{"PUT", "/v1/messages", wrong(CreateMessage, "POST")},
		{"GET", "/v1/messages/count_tokens", wrong(CountMessage, "POST")},
		{"GET", "/v1/responses/compact", wrong(CompactResponse, "POST")},
		{"DELETE", "/v1/responses/input_tokens", wrong(CountResponse, "POST")},
		{"DELETE", "/v1/models/x", wrong(ListModels, "GET, HEAD")},
		{"POST", "/v1/models", wrong(ListModels, "GET, HEAD")},
		{"POST", "/v1/usage", wrong(OwnUsage, "GET, HEAD")},
		{"PUT", "/v1/responses/resp_1", Call{Op: StoredResponse, Dialect: Responses, Verdict: WrongMethod, Allow: "GET, DELETE", ID: "resp_1"}},
		{"GET", "/v1/responses/resp_1/cancel", Call{Op: StoredResponse, Dialect: Responses, Verdict: WrongMethod, Allow: "POST", ID: "resp_1", Rest: "/cancel"}},

		// Known, and not offered.
		{"GET", "/v1/responses", notOffered(Responses)}, // the WebSocket
		{"POST", "/v1/files", notOffered(Chat)},
		{"GET", "/v1/files/x/content", notOffered(Chat)},
		{"POST", "/v1/batches", notOffered(Chat)},
		{"POST", "/v1/fine_tuning/jobs", notOffered(Chat)},
		{"GET", "/v1/realtime", notOffered(Chat)},
		{"POST", "/v1/conversations", notOffered(Chat)},
		{"GET", "/v1/chat/completions/chatcmpl-1", notOffered(Chat)},
		{"POST", "/v1/messages/batches", notOffered(Messages)},
		{"GET", "/v1/messages/batches/b/results", notOffered(Messages)},
		{"GET", "/v1/audio/voices", notOffered(Chat)},

		// Unknown.
		{"GET", "/v1/", unknown(Chat)},
		{"POST", "/v1/dance", unknown(Chat)},
		{"POST", "/v1/chat/completions/", unknown(Chat)},
		{"POST", "/v1//chat/completions", unknown(Chat)},
		{"POST", "/v1/Chat/Completions", unknown(Chat)},
		{"POST", "/v1/messages/dance", unknown(Messages)},
		{"GET", "/v1/responses/", in(Responses, Call{Op: StoredResponse, Verdict: Unknown})},
		{"GET", "/v1/responses/resp_1/dance", in(Responses, Call{Op: StoredResponse, Verdict: Unknown, ID: "resp_1", Rest: "/dance"})},
		{"GET", "/v1/responses/../secret", in(Responses, Call{Op: StoredResponse, Verdict: Unknown, ID: "..", Rest: "/secret"})},
		{"GET", "/v1/responses/a%2fb", in(Responses, Call{Op: StoredResponse, Verdict: Unknown, ID: "a%2fb"})},
		{"GET", "/v1/responses/a?b", in(Responses, Call{Op: StoredResponse, Verdict: Unknown, ID: "a?b"})},

		// Not ours.
		{"OPTIONS", "/v1/chat/completions", Call{}},
		{"GET", "/", Call{}},
		{"GET", "", Call{}},
		{"GET", "/v1", Call{}},
		{"GET", "/v1beta", Call{}},
		{"GET", "/v2/chat/completions", Call{}},
		{"POST", "/v1betax/models", Call{}},
		{"POST", "chat/completions", Call{}},
	} {
		if got := Find(tt.method, tt.path); got != tt.want {
			t.Errorf("%s %s:\n got %+v\nwant %+v", tt.method, tt.path, got, tt.want)
		}
	}
}

func TestOperations(t *testing.T) {
	names := map[string]bool{}
	for op := range Operations() {
		if op.String() == "" || names[op.String()] {
			t.Errorf("operation %d is called %q", op, op)
		}
		names[op.String()] = true
		if op.Local() != (op.Feature() == "") || !op.Local() && !slices.Contains(Features, op.Feature()) {
			t.Errorf("%v has the feature %q", op, op.Feature())
		}
		if op.Path() != "" && !op.Local() && posts[op.Path()] != op {
			t.Errorf("%v is not found at its own path", op)
		}
	}
	if len(names) != int(operations)-1 {
		t.Errorf("%d operations of %d", len(names), operations-1)
	}
	for range Operations() {
		break // must be allowed
	}
	for d, want := range map[Dialect]string{Chat: "chat", Responses: "responses", Messages: "messages", Gemini: "gemini"} {
		if d.String() != want {
			t.Errorf("got %s, want %s", d, want)
		}
	}
}

func TestWellFormedID(t *testing.T) {
	for _, id := range []string{"resp_azAZ09-_", "0", "z", strings.Repeat("x", 256)} {
		if !wellFormedID(id) {
			t.Errorf("%q is refused", id)
		}
	}
	for _, id := range []string{"", ".", "..", "a/b", "a.b", "a:b", "a b", "a@b", "a[b", "a`b", "a{b", "a%2f", "é", "a\x00", strings.Repeat("x", 257)} {
		if wellFormedID(id) {
			t.Errorf("%q is accepted", id)
		}
	}
}

func FuzzFind(f *testing.F) {
	for _, path := range []string{"/v1/chat/completions", "/v1beta/models/a:b", "/openai/deployments/a/b/c", "/v1/responses/x/y", "/openai/v1/models/x"} {
		f.Add("GET", path)
		f.Add("POST", path)
	}
	f.Fuzz(func(t *testing.T, method, path string) {
		c := Find(method, path)
		if c.Verdict == Found && c.Op == None || (c.Verdict == WrongMethod) != (c.Allow != "") {
			t.Fatalf("%s %q: %+v", method, path, c)
		}
		if c.Op == StoredResponse && c.Verdict == Found && !wellFormedID(c.ID) {
			t.Fatalf("%q leads to %q", path, c.ID)
		}
	})
}
