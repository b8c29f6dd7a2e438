package mockopenai

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"net/textproto"
	"slices"
	"strings"
)

// kind is what a field of a request may hold, besides null.
type kind uint8

const (
	text kind = iota + 1
	boolean
	integer
	number
	list
	structure
	anything
	file // a part of a form with a file name
)

func (k kind) String() string {
	return [...]string{"", "a string", "a boolean", "an integer", "a number", "an array", "an object", "", "a file"}[k]
}

// fields are the top-level fields that an endpoint knows.
type fields map[string]kind

// check refuses unknown fields and values of the wrong type.
func (f fields) check(x *exchange) error {
	if x.form != nil {
		return f.checkForm(x.form)
	}
	for _, name := range sortedKeys(x.member) {
		want, known := f[name]
		if !known {
			return bad(name, "unknown_parameter", "Unknown parameter: '%s'.", name)
		}
		if value := x.member[name]; !isNull(value) && !want.holds(value) {
			return bad(name, "invalid_type", "Invalid type for '%s': expected %s, but got %s instead.", name, want, describe(value))
		}
	}
	return nil
}

func (f fields) checkForm(form *form) error {
	for i := range form.parts {
		p := &form.parts[i]
		name := strings.TrimSuffix(p.name, "[]")
		want, known := f[name]
		if !known {
			return bad(name, "unknown_parameter", "Unknown parameter: '%s'.", name)
		}
		if (want == file) != (p.filename != "") {
			return bad(name, "invalid_type", "Invalid type for '%s': expected %s.", name, want)
		}
		if (want == integer || want == number || want == boolean) && !want.holds(p.data) {
			return bad(name, "invalid_type", "Invalid type for '%s': expected %s.", name, want)
		}
	}
	return nil
}

func (k kind) holds(value json.RawMessage) bool {
	switch k {
	case text:
		return value[0] == '"'
	case boolean:
		return value[0] == 't' || value[0] == 'f'
	case integer:
		return isNumber(value) && !bytes.ContainsAny(value, ".eE")
	case number:
		return isNumber(value)
	case list:
		return value[0] == '['
	case structure:
		return value[0] == '{'
	default:
		return true
	}
}

func isNumber(value json.RawMessage) bool {
	return len(value) > 0 && (value[0] == '-' || value[0] >= '0' && value[0] <= '9')
}

func describe(value json.RawMessage) string {
	for _, k := range []kind{text, boolean, number, list, structure} {
		if k.holds(value) {
			return k.String()
		}
	}
	return "null"
}

func isNull(value json.RawMessage) bool { return len(value) == 0 || string(value) == "null" }

// parse reads the body and finds the model in it.
func (x *exchange) parse() error {
	sum := sha256.New()
	io.WriteString(sum, x.route.operation)
	defer func() { x.Digest = hex.EncodeToString(sum.Sum(nil)) }()

	if encoding := x.R.Header.Get("Content-Encoding"); encoding != "" {
		return &Error{Status: 400, Message: "Unsupported content encoding: " + encoding}
	}
	if x.route.bare {
		if trimmed := bytes.TrimSpace(x.Body); len(trimmed) > 0 && string(trimmed) != "{}" {
			return bad("", "", "This endpoint takes no body.")
		}
		return nil
	}
	media, params, _ := mime.ParseMediaType(x.R.Header.Get("Content-Type"))
	want := "application/json"
	if x.route.form {
		want = "multipart/form-data"
	}
	if media != want {
		return bad("", "unsupported_content_type", "Unsupported content type: '%s'. This API method only accepts '%s' requests, but you specified the header 'Content-Type: %s'. Please try again with a supported content type.", media, want, media)
	}
	if x.route.form {
		f, err := readForm(x.Body, params["boundary"])
		if err != nil {
			return bad("", "", "Could not parse multipart form: %v", err)
		}
		x.form = f
		for i := range f.parts {
			p := &f.parts[i]
			io.WriteString(sum, p.name)
			io.WriteString(sum, p.filename)
			sum.Write(p.data)
		}
		x.Entry.Model = f.value("model")
		x.Entry.Stream = f.value("stream") == "true"
		return x.needModel()
	}

	member, err := object(x.Body)
	if err != nil {
		return err
	}
	x.member = member
	for _, name := range sortedKeys(member) {
		// What says how to answer, and not what, must not change the answer.
		if name != "stream" && name != "stream_options" {
			io.WriteString(sum, name)
			var b bytes.Buffer
			if err := json.Compact(&b, member[name]); err != nil {
				return bad("", "", "We could not parse the JSON body of your request.")
			}
			sum.Write(b.Bytes())
		}
	}
	json.Unmarshal(member["model"], &x.Entry.Model)
	json.Unmarshal(member["stream"], &x.Entry.Stream)
	return x.needModel()
}

func (x *exchange) needModel() error {
	if x.member != nil && !isNull(x.member["model"]) && !text.holds(x.member["model"]) {
		return bad("model", "invalid_type", "Invalid type for 'model': expected a string, but got %s instead.", describe(x.member["model"]))
	}
	if x.Entry.Model != "" || x.route.operation == "moderations" {
		return nil
	}
	return bad("model", "missing_required_parameter", "you must provide a model parameter")
}

// object reads the members of a JSON object. A name that occurs twice is an
// error: the service would take the last one, but a gateway that makes such a
// body has spliced it wrongly.
func object(data []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	fail := func() (map[string]json.RawMessage, error) {
		return nil, bad("", "", "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)")
	}
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return fail()
	}
	members := make(map[string]json.RawMessage)
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return fail()
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return fail()
		}
		if _, twice := members[name]; twice {
			return nil, bad(name, "duplicate_parameter", "Duplicate parameter: '%s'.", name)
		}
		members[name] = value
	}
	if _, err := d.Token(); err != nil {
		return fail()
	}
	if _, err := d.Token(); err != io.EOF {
		return fail()
	}
	return members, nil
}

// decode reads a member into v; absent and null leave v as it is.
func (x *exchange) decode(name string, v any) error {
	value := x.member[name]
	if isNull(value) {
		return nil
	}
	if err := json.Unmarshal(value, v); err != nil {
		return bad(name, "invalid_type", "Invalid value for '%s': %v", name, err)
	}
	return nil
}

// between checks the range of a number.
func (x *exchange) between(name string, low, high float64) error {
	var v *float64
	if err := x.decode(name, &v); err != nil || v == nil {
		return err
	}
	if *v < low {
		return bad(name, "decimal_below_min_value", "Invalid '%s': decimal below minimum value. Expected a value >= %v, but got %v instead.", name, low, *v)
	}
	if *v > high {
		return bad(name, "decimal_above_max_value", "Invalid '%s': decimal above maximum value. Expected a value <= %v, but got %v instead.", name, high, *v)
	}
	return nil
}

// oneOf checks a member that has few values.
func (x *exchange) oneOf(name string, values ...string) error {
	var v string
	if err := x.decode(name, &v); err != nil || v == "" {
		return err
	}
	return choice(name, v, values...)
}

func choice(name, value string, values ...string) error {
	if slices.Contains(values, value) {
		return nil
	}
	return bad(name, "invalid_value", "Invalid value: '%s'. Supported values are: '%s'.", value, strings.Join(values, "', '"))
}

func (x *exchange) has(name string) bool { return !isNull(x.member[name]) }

// form is a multipart/form-data body.
type form struct{ parts []part }

type part struct {
	name, filename string
	header         textproto.MIMEHeader
	data           []byte
}

func readForm(body []byte, boundary string) (*form, error) {
	r := multipart.NewReader(bytes.NewReader(body), boundary)
	f := &form{}
	for {
		p, err := r.NextRawPart()
		if err == io.EOF {
			return f, nil
		}
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(p)
		if err != nil {
			return nil, err
		}
		f.parts = append(f.parts, part{p.FormName(), p.FileName(), p.Header, data})
	}
}

func (f *form) value(name string) string {
	for i := range f.parts {
		if f.parts[i].name == name && f.parts[i].filename == "" {
			return string(f.parts[i].data)
		}
	}
	return ""
}

// files returns the files of a name, written with or without brackets.
func (f *form) files(name string) []part {
	var files []part
	for _, p := range f.parts {
		if strings.TrimSuffix(p.name, "[]") == name && p.filename != "" {
			files = append(files, p)
		}
	}
	return files
}
